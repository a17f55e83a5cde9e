"""Summaries: GROUP BY over one stored table, kept right while that table changes.

A summary is a function of a version of its upstream. Over an upsert table, the groups that a new version has touched, as they were and as
they are, are computed again from that version; so late, corrected and deleted rows correct them in place. Over an append table, what the
new rows give is combined with what is stored (flows.partials).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from flows.graph import Query
from flows.partials import Partials, partials
from flows.sql.aggregates import ALLOWED, is_aggregate, with_order
from flows.sql.bind import Binder
from flows.sql.chain import Level
from flows.sql.gates import expression_problems
from flows.sql.items import Input, Item, select_items, sources
from flows.sql.rewrite import UPSTREAM
from flows.sql.scope import Scope, expand
from flows.sql.sizes import size_sql
from flows.sql.storage import cast_sql, casts, stored_schema
from flows.sql.tree import Node, Problem, SqlRefused, expression_text, first_line, parse, parse_expression, quoted, text, walk

TOUCHED = "_touched"
_VIEW = 'kind = "view"'
_CLAUSES = {
    "having": ("HAVING would need the groups that it leaves out as well", f"{_VIEW} over this summary, with WHERE"),
    "qualify": ("QUALIFY compares groups", f"{_VIEW} over this summary"),
    "sample": ("a sample depends on chance: a replay would give other rows", "WHERE hash(key) % 10 = 0"),
    "modifiers": ("DISTINCT, ORDER BY and LIMIT are for the whole answer, and a summary has no end", f"{_VIEW} over this summary"),
}


@dataclass(frozen=True, slots=True)
class Summary:
    """A summary. ``group``: the columns that name a group (null is a group, too); ``sql``: normalised by DuckDB.

    ``touched_sql`` gives the groups (``g0``, ``g1``, ...) of rows of the upstream that are registered as ``_upstream``, of which it reads
    the columns ``touched_reads``; ``rows_sql`` gives the summary's rows, as stored, for the groups in ``_touched``, ``all_sql`` for all
    groups. ``scale_sql`` gives, for all groups, in the place of each DOUBLE the size of what was added up for it: two ways to add up differ
    by no more than 1e-9 of that. ``lineage``: column -> columns of staging tables. ``partials``: over an append table, whose new rows are
    combined with what is stored; its states are columns of ``schema``, too.
    """

    name: str
    source: str
    upstream: str
    schema: pa.Schema
    sql: str
    group: tuple[str, ...]
    touched_reads: tuple[str, ...]
    touched_sql: str
    rows_sql: str
    all_sql: str
    scale_sql: str
    partition_by: tuple[str, ...]
    lineage: Mapping[str, tuple[str, ...]]
    partials: Partials | None = None

    @property
    def kind(self) -> str:
        return "summary"


@dataclass(frozen=True, slots=True)
class Grouped:
    """The parts of a summary's SQL, as ``Summary`` says; ``reads``: column -> columns of the upstream."""

    schema: pa.Schema
    group: tuple[str, ...]
    touched_reads: tuple[str, ...]
    touched_sql: str
    rows_sql: str
    all_sql: str
    scale_sql: str
    reads: Mapping[str, frozenset[str]]
    partials: Partials | None


def problems(query: Query, binder: Binder) -> Iterator[Problem]:
    """What a summary's SQL may not hold."""
    tree, sql = query.tree, query.file.sql
    for clause, problem in _CLAUSES.items():
        if tree.get(clause):
            yield Problem(first_line({"part": tree[clause]}, sql), *problem)
    if len(tree.get("group_sets", ())) > 1:
        yield Problem(
            first_line({"part": tree["group_expressions"]}, sql), "grouping sets are several summaries in one", "a summary for each"
        )
    yield from expression_problems(tree, sql, binder, ALLOWED)


def analyse_summary(query: Query, upstream: pa.Schema, alias: str, binder: Binder, *, append: bool) -> Grouped:
    """Take the SQL apart and bind it. ``append``: the upstream's rows stay. Raises SqlRefused."""
    sql, tree = query.file.sql, query.tree
    binder.add_table(UPSTREAM, upstream)
    level = Level(tree, alias, ())
    base = parse(f"SELECT * FROM {UPSTREAM} AS {quoted(alias)}")["from_table"]
    relation = Input(base, {name: frozenset({name}) for name in upstream.names})
    (name,) = query.reads
    layer, _, table = name.partition(".")
    scope = Scope(alias, (layer, table), tuple(upstream.names), sql)
    items, where = select_items(level, scope, relation, binder)
    groups = _groups(tree, items, scope, sql)
    place = [name for name in ("_partition", "_offset", "_row") if name in upstream.names]
    node = with_order(_node(items, groups, where, base), place)
    columns = binder.columns(text(node))
    schema = stored_schema(columns, {name: item.line for item in items for name in item.names})
    targets = casts(columns, schema, binder)
    kept = partials(lambda made: _node(made, groups, where, base), items, groups, place, schema, binder, sql) if append else None
    return Grouped(
        pa.schema([*schema, *(kept.states if kept else ())]),
        tuple(item.names[0] for item in groups),
        tuple(sorted(frozenset().union(*(item.sources for item in groups), sources(where, scope, relation) if where else ()))),
        _touched(groups, where, base),
        cast_sql(text({**node, "from_table": _semi_join(alias, groups)}), schema.names, targets),
        cast_sql(text(node), schema.names, targets),
        text(_node([*(_scale(item, schema) for item in items), *_state_sizes(kept)], groups, where, base)),
        {name: item.sources for item in items for name in item.names},
        kept,
    )


def _node(items: list[Item], groups: list[Item], where: Node | None, base: Node) -> Node:
    """The SELECT with every name and alias resolved."""
    node = parse("SELECT 1 FROM x GROUP BY 1")
    node["select_list"], node["from_table"], node["where_clause"] = [item.expression for item in items], base, where
    node["group_expressions"] = [{**item.expression, "alias": ""} for item in groups]
    node["group_sets"] = [list(range(len(groups)))]
    return node


def _scale(item: Item, schema: pa.Schema) -> Item:
    """A DOUBLE's item as the size of what its aggregates add up, in the order of which its last bits lie (flows.sql.sizes)."""
    name = item.names[0]
    calls = [node for node in walk(item.expression) if is_aggregate(node)]
    if not calls or not pa.types.is_floating(schema.field(name).type):
        return item
    return replace(item, expression={**parse_expression(" + ".join(map(size_sql, calls))), "alias": name})


def _state_sizes(kept: Partials | None) -> list[Item]:
    sizes = kept.sizes if kept is not None else {}
    return [Item({**parse_expression(sql), "alias": name}, [name], frozenset(), 1) for name, sql in sizes.items()]


def _groups(tree: Node, items: list[Item], scope: Scope, sql: str) -> list[Item]:
    """The items of the SELECT that name a group."""
    plain = [item for item in items if not any(is_aggregate(node) for node in walk(item.expression))]
    if tree["aggregate_handling"] == "FORCE_AGGREGATES":
        found = plain
    else:
        by_text = {expression_text({**item.expression, "alias": ""}): item for item in plain}
        found = [_group(expression, items, by_text, scope, sql) for expression in tree["group_expressions"]]
    if not found:
        cause = "it has no groups: its one row would be written again with every commit"
        raise SqlRefused(Problem(1, cause, f"GROUP BY with the columns that name a group; or {_VIEW}"))
    for item in found:
        if len(item.names) != 1:
            raise SqlRefused(Problem(item.line, "a group is named by one column an item", "the fields one by one"))
    return found


def _group(expression: Node, items: list[Item], by_text: Mapping[str, Item], scope: Scope, sql: str) -> Item:
    if expression["class"] == "CONSTANT" and isinstance(expression["value"].get("value"), int):
        item: Item = items[expression["value"]["value"] - 1]
        return item
    names = {item.names[0].lower(): item for item in by_text.values()}
    written = expression["column_names"][-1].lower() if expression["class"] == "COLUMN_REF" else None
    if written in names and (len(expression["column_names"]) == 1 or scope.column(written) is not None):
        return names[written]
    found = by_text.get(expression_text({**expand(expression, scope, {}), "alias": ""}))
    if found is None:
        line = first_line(expression, sql)
        raise SqlRefused(
            Problem(line, f"the group {expression_text(expression)} is no column of the summary", "it in the SELECT list, too")
        )
    return found


def _touched(groups: list[Item], where: Node | None, base: Node) -> str:
    node = parse("SELECT DISTINCT 1 FROM x")
    node["select_list"] = [{**item.expression, "alias": f"g{number}"} for number, item in enumerate(groups)]
    node["from_table"], node["where_clause"] = base, where
    return text(node)


def members_sql(summary: Summary) -> str:
    """The rows of the upstream, which is registered as ``_upstream``, that count in some group, with their groups as ``g0``, ``g1``, ..."""
    node = parse(summary.touched_sql)
    node["modifiers"] = []  # DISTINCT
    node["select_list"] += parse("SELECT * FROM x")["select_list"]
    return text(node)


def _semi_join(alias: str, groups: list[Item]) -> Node:
    same = (
        f"({expression_text({**item.expression, 'alias': ''})}) IS NOT DISTINCT FROM {TOUCHED}.g{number}"
        for number, item in enumerate(groups)
    )
    joined = parse(f"SELECT * FROM {UPSTREAM} AS {quoted(alias)} SEMI JOIN {TOUCHED} ON ({' AND '.join(same)})")["from_table"]
    assert isinstance(joined, dict)
    return joined
