"""What may not stand in row-local SQL: two gates, the parse tree and the plan."""

from __future__ import annotations

from collections.abc import Iterator

from flows.sql.bind import Binder
from flows.sql.functions import TABLE_FUNCTIONS, check_function
from flows.sql.tree import Node, Problem, line_at, walk

_ROW_LOCAL_OPERATORS = frozenset({"SEQ_SCAN", "FILTER", "PROJECTION", "UNNEST"})

# class of an expression -> (cause, fix)
_EXPRESSIONS: dict[str, tuple[str, str]] = {
    "WINDOW": ("a window function compares rows: an append table sees one record at a time", 'kind = "view" for the window'),
    "SUBQUERY": ("a subquery in an expression reads other rows", 'kind = "view", which may join; or CASE for a small lookup'),
    "PARAMETER": ("a parameter has no value here", "a constant"),
    "POSITIONAL_REFERENCE": ("#1 depends on the order of the columns", "the column's name"),
    "DEFAULT": ("DEFAULT has no value here", "a constant"),
}


def expression_problems(tree: object, sql: str, binder: Binder, aggregates: frozenset[str] = frozenset()) -> Iterator[Problem]:
    """Expressions and functions below ``tree`` that are neither row-local nor in ``aggregates``, with their lines in ``sql``."""
    for node in walk(tree):
        line = line_at(sql, node.get("query_location"))
        kind = node.get("class")
        if kind in _EXPRESSIONS:
            yield Problem(line, *_EXPRESSIONS[kind])
        elif kind == "STAR" and (node["columns"] or node["expr"] is not None):
            yield Problem(line, "COLUMNS picks columns by a pattern", "the columns' names, or * EXCLUDE (...)")
        elif kind == "FUNCTION" and node["function_name"].lower() in aggregates:
            continue
        elif kind == "FUNCTION" and (problem := check_function(node, line, binder.connection)):
            yield problem


def star_problems(node: Node, sql: str) -> Iterator[Problem]:
    """A star that is not an item of its own, such as ``* LIKE 'a%'``."""
    for item in node["select_list"]:
        inside = item["replace_list"] if item["class"] == "STAR" else item
        for star in walk(inside):
            if star.get("class") == "STAR" and not star["columns"]:
                yield Problem(
                    line_at(sql, star["query_location"]), "* inside of an expression picks columns by a pattern", "the columns' names"
                )


def plan_problems(sql: str, binder: Binder) -> Iterator[Problem]:
    """The plan without optimizer (with it, DISTINCT can vanish and IN lists become joins) shows only row-local operators."""
    for operator in sorted(set(binder.operators(sql)) - _ROW_LOCAL_OPERATORS):
        name = operator.replace("_", " ").lower()
        yield Problem(
            1, f"DuckDB needs {name!r} for this SQL, which is not row-local", 'kind = "view", or SQL that looks at one row at a time'
        )


def view_problems(tree: object, sql: str) -> Iterator[Problem]:
    """A view reads tables: no table function that reads files, settings or the catalogue."""
    for node in walk(tree):
        if node.get("type") == "TABLE_FUNCTION":
            name = str(node["function"]["function_name"]).lower()
            if name not in TABLE_FUNCTIONS:
                line = line_at(sql, node["function"]["query_location"])
                yield Problem(
                    line, f"{name} reads something that is not a table of the warehouse", "a source for that data: kappa source infer FILE"
                )
