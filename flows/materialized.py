"""Materialized tables: any SELECT over tables and views, made again as a whole when what it reads has moved.

A materialized table is a function of one cut: of the versions of the stored tables below it, through views as well. So its SQL must not
ask for anything else: no clock, no chance, no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from flows.sql.gates import view_problems
from flows.sql.tree import Node, Problem, line_at, parse, walk

# what DuckDB resolves from a bare name when no column has it (measured on 1.5.5: the parse tree shows a column)
_CLOCK_NAMES = frozenset(
    [
        "current_date",
        "current_time",
        "current_timestamp",
        "localtime",
        "localtimestamp",
        "current_user",
        "current_role",
        "session_user",
        "user",
    ]
)
_UNMARKED = frozenset({"current_setting", "getvariable"})  # which DuckDB calls consistent


@dataclass(frozen=True, slots=True)
class Materialized:
    """A materialized table. ``schema``: the SELECT's columns as stored; ``sql``: normalised by DuckDB; ``rows_sql``: with the columns cast
    to their stored types. ``reads``: the tables and views that it names; ``tables``: the stored tables below, through views; ``views``:
    the views on the way, name -> SQL. ``key``: the columns that tell its rows apart, empty when nothing does.
    """

    name: str
    schema: pa.Schema
    sql: str
    rows_sql: str
    reads: tuple[str, ...]
    tables: tuple[str, ...]
    views: Mapping[str, str]
    key: tuple[str, ...]
    partition_by: tuple[str, ...]
    refresh_interval_s: float

    @property
    def kind(self) -> str:
        return "materialized"


def problems(tree: Node, sql: str, views: Mapping[str, str], connection: duckdb.DuckDBPyConnection) -> Iterator[Problem]:
    """What makes the answer depend on more than the tables, in the SQL (with lines) and in the ``views`` that it reads."""
    yield from view_problems(tree, sql)
    unsteady = _unsteady_functions(connection)
    for line, what in _unsteady(tree, sql, unsteady):
        yield Problem(
            line, f"{what}: the same cut would give other rows", 'a column of the tables; or kind = "view", which asks when it is read'
        )
    for view, text in views.items():
        for _, what in _unsteady(parse(text), text, unsteady):
            yield Problem(1, f"{view}, which it reads: {what}: the same cut would give other rows", f"the tables that {view} reads")


def _unsteady(tree: Node, sql: str, functions: frozenset[str]) -> Iterator[tuple[int, str]]:
    for node in walk(tree):
        line = line_at(sql, node.get("query_location"))
        if node.get("class") == "FUNCTION" and node["function_name"].lower() in functions:
            yield line, f"{node['function_name']}() does not depend on rows alone"
        if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1 and node["column_names"][0].lower() in _CLOCK_NAMES:
            yield line, f"{node['column_names'][0]} does not depend on rows alone"
        if node.get("sample") is not None:
            yield line, "a sample depends on chance"


def _unsteady_functions(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    """By DuckDB's own marks, and what these leave out."""
    found = connection.execute("SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'").fetchall()
    return frozenset(name for (name,) in found) - {"error"} | _UNMARKED
