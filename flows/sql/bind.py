"""DuckDB binds SQL against empty tables that have the warehouse's columns."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import duckdb
import duckdb.sqltypes
import pyarrow as pa

from flows.sql.tree import Problem, SqlRefused, connect, line_of_error, quoted


class Bound(NamedTuple):
    """A column that a query gives."""

    name: str
    type: duckdb.sqltypes.DuckDBPyType


def near(name: str, names: Sequence[str], otherwise: str) -> str:
    """What to write instead of a name that does not exist: the nearest ones, else ``otherwise``."""
    lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), list(lower), n=3, cutoff=0.65)
    return " or ".join(lower[match] for match in close) or otherwise


class Binder:
    """A fresh in-memory database of empty tables."""

    def __init__(self) -> None:
        self.connection = connect()
        self.connection.execute("PRAGMA disable_optimizer")

    def add_table(self, name: str, schema: pa.Schema) -> None:
        """Make (or make again) ``layer.table``, or a table of the main schema, with these columns."""
        layer, _, table = name.rpartition(".")
        if layer:
            self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(layer)}")
        where = f"{quoted(layer or 'main')}.{quoted(table)}"
        self.connection.register("_empty", schema.empty_table())
        self.connection.execute(f"CREATE OR REPLACE TABLE {where} AS FROM _empty")
        self.connection.unregister("_empty")

    def add_view(self, name: str, sql: str) -> None:
        """Make ``layer.view``."""
        layer, _, view = name.rpartition(".")
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(layer)}")
        self.connection.execute(f"CREATE OR REPLACE VIEW {quoted(layer)}.{quoted(view)} AS {sql}")

    def columns(self, sql: str) -> list[Bound]:
        """The columns of a query. Raises SqlRefused with DuckDB's reason and the nearest names."""
        try:
            self.connection.execute(f"EXPLAIN {sql}")  # a relation's errors have no line
            relation = self.connection.sql(sql)
        except duckdb.Error as error:
            raise SqlRefused(_problem(error)) from error
        return [Bound(name, kind) for name, kind in zip(relation.columns, relation.types, strict=True)]

    def operators(self, sql: str) -> list[str]:
        """The operators of the query's plan, without optimizer."""
        rows = self.connection.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall()
        return list(_names(json.loads(rows[0][1])))


def _names(plan: list[dict[str, Any]]) -> Iterator[str]:
    for operator in plan:
        yield operator["name"]
        yield from _names(operator["children"])


# what a message holds of what could be written instead: (pattern, what the names are)
_NEAR = (
    re.compile(r"^Candidate (?:bindings|Entries): :? ?(.*)$", re.MULTILINE),
    re.compile(r'^Did you mean (".*")\?$', re.MULTILINE),
)


def _problem(error: duckdb.Error) -> Problem:
    """DuckDB's message in short: its first line is the cause, its candidates are the fix."""
    message = str(error)
    first, _, rest = message.partition("\n")
    cause = re.sub(r"^(?:\w+ )+Error: ", "", first)
    return Problem(line_of_error(error), cause, _fix(cause, rest))


def _fix(cause: str, rest: str) -> str:
    candidates = [name for pattern in _NEAR for found in pattern.findall(rest) for name in re.findall(r'"([^"]+)"', found)]
    missing = re.findall(r'"([^"]+)"', cause)
    if candidates:
        return near(missing[-1], candidates, ", ".join(candidates)) if missing else ", ".join(candidates)
    signatures = re.findall(r"^\t(.+ -> .+)$", rest, re.MULTILINE)
    if len(signatures) > 4:
        return "operands of types that go together, such as CAST(column AS double)"
    if signatures:
        return "; ".join(signatures)
    if "not found" in cause or "not have a column" in cause:
        return "a column of the table"
    return "SQL that DuckDB can bind to the columns of the table"
