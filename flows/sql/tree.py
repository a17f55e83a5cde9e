"""SQL as DuckDB's own parse tree.

DuckDB serialises its parse tree to JSON and back, so what kappa checks and rewrites is exactly what DuckDB will run. (sqlglot was
measured for this: of 375 scalar expressions its DuckDB round trip binds 49 to something else, among them ``b ~ 'x'``, a full match,
as a partial one, and ``log2(x)`` as ``log(2, x)`` with other last bits; DuckDB's own round trip changes none.)
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import duckdb

Node = dict[str, Any]


class Problem(NamedTuple):
    """What is wrong with a piece of SQL: 1-based line within it (1 when unknown; 0: its settings), the cause, and what to write instead.

    ``setting``: which of its settings, when ``line`` is 0.
    """

    line: int
    cause: str
    fix: str
    setting: str = "partition_by"


class SqlRefused(ValueError):
    """SQL that kappa cannot take; carries the Problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"line {problem.line}: {problem.cause} (write: {problem.fix})")
        self.problem = problem


SESSION = "SET TimeZone = 'UTC'; SET python_enable_replacements = false"
_SAFE: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "temp_directory": "",
}
_local = threading.local()


def connect() -> duckdb.DuckDBPyConnection:
    """A new in-memory database: UTC, one thread, no files, no Python variables as tables."""
    connection = duckdb.connect(config=_SAFE)
    connection.execute(SESSION)
    return connection


def _parser() -> duckdb.DuckDBPyConnection:
    if not hasattr(_local, "connection"):
        _local.connection = connect()
    connection = _local.connection
    assert isinstance(connection, duckdb.DuckDBPyConnection)
    return connection


def line_at(sql: str, location: int | None) -> int:
    """The 1-based line of a byte offset (DuckDB's ``query_location``)."""
    if location is None or location >= 2**63:
        return 1
    return sql.encode()[:location].count(b"\n") + 1


def first_line(tree: object, sql: str) -> int:
    """The line of the first part of a tree whose place DuckDB noted."""
    locations = (node["query_location"] for node in walk(tree) if node.get("query_location", 2**63) < 2**63)
    return line_at(sql, min(locations, default=None))


def line_of_error(error: duckdb.Error) -> int:
    """The line that DuckDB names in a message (``LINE 3: ...``)."""
    match = re.search(r"^LINE (\d+):", str(error), re.MULTILINE)
    return int(match[1]) if match else 1


def parse(sql: str) -> Node:
    """The tree of ONE SELECT (its query node). Raises SqlRefused for anything else."""
    row = _parser().execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
    assert row is not None
    answer = json.loads(row[0])
    if answer["error"]:
        if answer["error_type"] == "parser":
            position = answer.get("position")
            line = line_at(sql, int(position)) if position else 1
            raise SqlRefused(Problem(line, f"not SQL: {answer['error_message']}", "one SELECT in DuckDB's dialect"))
        raise SqlRefused(Problem(1, "not a SELECT: other statements (CREATE, COPY, PIVOT, ...) cannot define a table", "one SELECT"))
    if len(answer["statements"]) != 1:
        count = len(answer["statements"])
        raise SqlRefused(Problem(1, f"{count} statements" if count else "no SQL", "one SELECT"))
    node = answer["statements"][0]["node"]
    assert isinstance(node, dict)
    return node


def text(node: Node) -> str:
    """The SQL of a query node, in DuckDB's own spelling: comments, blanks and the case of keywords are gone."""
    statement = {"error": False, "statements": [{"node": node, "named_param_map": []}]}
    row = _parser().execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(statement)]).fetchone()
    assert row is not None
    return str(row[0])


def parse_expression(sql: str) -> Node:
    """The tree of one expression. Raises SqlRefused."""
    node = parse(f"SELECT\n{sql}\n")
    alone = node["type"] == "SELECT_NODE" and len(node["select_list"]) == 1 and node["from_table"]["type"] == "EMPTY"
    if not alone or any(node[part] for part in ("where_clause", "having", "qualify", "modifiers", "group_expressions", "sample")):
        raise SqlRefused(Problem(1, "not one expression", "a condition on the row's columns, such as distance > 0"))
    expression = node["select_list"][0]
    assert isinstance(expression, dict)
    return expression


def expression_text(expression: Node) -> str:
    """The SQL of an expression, without its alias."""
    node = parse("SELECT 1")
    node["select_list"] = [{**expression, "alias": ""}]
    return text(node).removeprefix("SELECT ")


def walk(value: object) -> Iterator[Node]:
    """Every dict below (and including) a tree, parents first."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)


def quoted(name: str) -> str:
    """An identifier as SQL."""
    return '"' + name.replace('"', '""') + '"'


def column(name: str, *, table: str | None = None) -> Node:
    """A reference to a column."""
    names = [name] if table is None else [table, name]
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": names}
