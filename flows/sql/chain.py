"""The shape of row-local SQL: a chain of SELECTs, each over the one below, the lowest over one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.sql.tree import Node, Problem, SqlRefused, first_line, line_at

_VIEW = 'kind = "view"'

# part of a SELECT_NODE -> (cause, fix)
_CLAUSES: dict[str, tuple[str, str]] = {
    "group_expressions": ("GROUP BY combines rows: an append table sees one record at a time", f"{_VIEW} for the aggregate"),
    "group_sets": ("GROUP BY combines rows: an append table sees one record at a time", f"{_VIEW} for the aggregate"),
    "having": ("HAVING combines rows: an append table sees one record at a time", f"{_VIEW} for the aggregate"),
    "qualify": ("QUALIFY compares rows: an append table sees one record at a time", f"{_VIEW} for the window"),
    "sample": ("a sample depends on chance: a replay would give other rows", "WHERE hash(key) % 10 = 0"),
}
_MODIFIERS: dict[str, tuple[str, str]] = {
    "LIMIT_MODIFIER": (
        "LIMIT depends on the order of arrival and never ends for a stream",
        "WHERE with a condition, or LIMIT in the query",
    ),
    "LIMIT_PERCENT_MODIFIER": ("LIMIT depends on all rows", "WHERE with a condition, or LIMIT in the query"),
    "ORDER_MODIFIER": ("ORDER BY needs all rows; a table keeps the order of its log", f"ORDER BY in the query, or {_VIEW}"),
    "DISTINCT_MODIFIER": ("DISTINCT compares rows: an append table sees one record at a time", f"{_VIEW} with DISTINCT"),
}
_FROM: dict[str, tuple[str, str]] = {
    "JOIN": (
        "a join would depend on what the other table holds at that moment",
        f"{_VIEW}, which joins tables at one cut; unnest(list) in the SELECT list for elements",
    ),
    "TABLE_FUNCTION": (
        "a table function is not the log",
        "FROM staging.<source> or another append table; unnest(list) in the SELECT list for elements",
    ),
    "EMPTY": ("no FROM: the rows must come from one table", "FROM staging.<source>"),
    "EXPRESSION_LIST": (
        "VALUES are not the log: the rows must come from one table",
        "CASE for a small lookup, or a source of its own and a view",
    ),
    "PIVOT": ("PIVOT combines rows: an append table sees one record at a time", f"{_VIEW} with PIVOT; unnest(list) in place of UNPIVOT"),
}
_NODES: dict[str, tuple[str, str]] = {
    "SET_OPERATION_NODE": (
        "UNION brings several inputs together: an append table has one",
        f"one append table for each input, and {_VIEW} with UNION ALL",
    ),
    "RECURSIVE_CTE_NODE": ("a recursive CTE is not row-local", _VIEW),
}


@dataclass(frozen=True, slots=True)
class Level:
    """One SELECT of a chain. ``alias``: the name of its input in it; ``names``: column names given to its input (``AS t(x, y)``)."""

    node: Node
    alias: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """``upstream``: ``layer.table`` of the lowest FROM, in lower case; ``levels``: from the inside out."""

    upstream: str
    levels: tuple[Level, ...]
    line: int


def chain(node: Node, sql: str) -> Chain:
    """Take a query node apart into its chain, CTEs put in their places. Raises SqlRefused: joins, unions, GROUP BY, LIMIT, ..."""
    return _chain(node, {}, sql)


def _chain(node: Node, outer: Mapping[str, Node], sql: str) -> Chain:
    if node["type"] != "SELECT_NODE":
        raise _refused(_NODES.get(node["type"], (f"{node['type']} is not row-local", _VIEW)), sql, node)
    _check_clauses(node, sql)
    ctes = {**outer, **{entry["key"].lower(): entry["value"] for entry in node["cte_map"]["map"]}}
    table = node["from_table"]
    kind = table["type"]
    if kind not in ("BASE_TABLE", "SUBQUERY"):
        raise _refused(_FROM.get(kind, (f"FROM with {kind} is not row-local", _VIEW)), sql, table, node)
    if table["sample"] is not None:
        raise _refused(_CLAUSES["sample"], sql, table, node)
    names = tuple(table["column_name_alias"])
    if kind == "SUBQUERY":
        below = _chain(table["subquery"]["node"], ctes, sql)
        return _on_top(below, Level(node, table["alias"] or "unnamed_subquery", names))
    name = table["table_name"]
    if not table["schema_name"] and not table["catalog_name"] and name.lower() in ctes:
        entry = ctes[name.lower()]
        inner = {key: value for key, value in ctes.items() if key != name.lower()}
        below = _chain(entry["query"]["node"], inner, sql)
        return _on_top(below, Level(node, table["alias"] or name, names + tuple(entry["aliases"])[len(names) :]))
    upstream = _table_name(table, sql)
    return Chain(upstream, (Level(node, table["alias"] or name, names),), line_at(sql, table["query_location"]))


def _on_top(below: Chain, level: Level) -> Chain:
    return Chain(below.upstream, (*below.levels, level), below.line)


def _table_name(table: Node, sql: str) -> str:
    line = line_at(sql, table["query_location"])
    if table["at_clause"] is not None:
        raise SqlRefused(Problem(line, "AT reads an old version: a stream has none", "the table without AT"))
    if table["catalog_name"] or not table["schema_name"]:
        written = ".".join(part for part in (table["catalog_name"], table["schema_name"], table["table_name"]) if part)
        raise SqlRefused(Problem(line, f"{written!r} is not the name of a table", f"layer.table, such as staging.{table['table_name']}"))
    return f"{table['schema_name']}.{table['table_name']}".lower()


def _check_clauses(node: Node, sql: str) -> None:
    for modifier in node["modifiers"]:
        raise _refused(_MODIFIERS.get(modifier["type"], (f"{modifier['type']} is not row-local", _VIEW)), sql, modifier, node)
    for clause, problem in _CLAUSES.items():
        if node[clause]:
            raise _refused(problem, sql, {"part": node[clause]}, node)
    if node["aggregate_handling"] != "STANDARD_HANDLING":
        raise _refused(_CLAUSES["group_expressions"], sql, node["from_table"], node)


def _refused(problem: tuple[str, str], sql: str, *places: Node) -> SqlRefused:
    """Refused at the first of ``places`` whose line is known."""
    line = next((line for place in places if (line := first_line(place, sql)) > 1), 1)
    return SqlRefused(Problem(line, *problem))
