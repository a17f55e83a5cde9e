"""Rewrite a chain of SELECTs so that every row keeps its position, and so that the rows left out can be counted.

Each SELECT gets the system columns of its input. A SELECT with ``unnest`` of a list also gets the element's ordinal. For each SELECT that
can leave rows out there is a filter query: the offsets for which its conditions, evaluated, let no row pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from flows.sql.bind import Binder, Bound
from flows.sql.chain import Chain, Level
from flows.sql.items import Input, Item, select_items, sources, unnested
from flows.sql.scope import Scope
from flows.sql.tree import Node, column, expression_text, parse, quoted, text

UPSTREAM = "_upstream"  # the name under which the rows of the upstream table are registered
ROW = "_row"


@dataclass(frozen=True, slots=True)
class Program:
    """What a table's SQL does to rows registered as ``_upstream``.

    ``transform_sql`` gives ``columns``, the system columns and ``ordinals`` (columns that order the rows of one record; some of them stem
    from this table's own unnest when ``unnests``). ``lineage``: column -> columns of the upstream; ``lines``: column -> its line.
    ``picks``: set when rows stay 1:1, the columns that are the upstream's as they are; ``computed_sql`` then gives the others and
    ``_offset``, in the upstream's order.
    ``bare``: columns of a single SELECT that are the upstream's as they are, whatever its conditions.
    ``parts``: what a single SELECT without unnest evaluates, by which a failing record can be found without bisecting; else None.
    """

    transform_sql: str
    filter_sqls: tuple[str, ...]
    columns: tuple[Bound, ...]
    ordinals: tuple[str, ...]
    unnests: bool
    lineage: Mapping[str, frozenset[str]]
    lines: Mapping[str, int]
    picks: Mapping[str, str] | None
    computed_sql: str | None
    parts: Parts | None
    bare: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Part:
    """An expression of a SELECT: the column that it gives (or ``WHERE``), its SQL, and the upstream's columns that it reads."""

    label: str
    sql: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """The expressions of a single SELECT; ``source``: its FROM clause."""

    source: str
    where: Part | None
    items: tuple[Part, ...]


def rewrite(chained: Chain, upstream: pa.Schema, binder: Binder, sql: str, added: int = 0) -> Program:
    """Rewrite a chain whose ``sql`` has been bound; ``upstream``: the upstream's schema, with system columns; ``added``: so many items at
    the end of the outermost SELECT are kappa's own. Raises SqlRefused.
    """
    binder.add_table(UPSTREAM, upstream)
    relation = _base(chained.levels[0], upstream)
    filters: list[str] = []
    items: list[Item] = []
    node: Node = {}
    where: Node | None = None
    unnests = False
    for number, level in enumerate(chained.levels, start=1):
        if number > 1:
            relation = _above(node, level, items, relation)
        scope = Scope(level.alias, _written(chained, number), tuple(relation.columns), sql)
        items, where = select_items(level, scope, relation, binder, added if number == len(chained.levels) else 0)
        lists = unnested(items, relation, binder, scope)
        passes = _passes(where, lists)
        if passes is not None:
            filters.append(_filter(relation, passes))
        ordinal = f"{ROW}_{number}" if lists else None
        node = _node(items, where, relation, _ordinal(lists, ordinal))
        if ordinal:
            unnests = True
            relation = Input(relation.table, relation.columns, (*relation.ordinals, ordinal), many=True)
    inner = text(node)
    bound = binder.columns(inner)[: sum(len(item.names) for item in items)]
    lineage = {name: item.sources for item in items for name in item.names}
    flat = len(chained.levels) == 1 and not unnests and all(len(item.names) == 1 for item in items)
    picks = _picks(items) if flat and not filters else None
    bare = _picks(items) if len(chained.levels) == 1 else {}
    return Program(
        inner,
        tuple(filters),
        tuple(bound),
        relation.ordinals,
        unnests,
        lineage,
        {name: item.line for item in items for name in item.names},
        picks,
        _computed(items, picks, relation) if picks is not None else None,
        _parts(items, where, scope, relation) if flat else None,
        bare,
    )


def _written(chained: Chain, number: int) -> tuple[str, str] | None:
    layer, _, table = chained.upstream.partition(".")
    return (layer, table) if number == 1 else None


def _base(level: Level, upstream: pa.Schema) -> Input:
    table = parse(f"SELECT * FROM {UPSTREAM} AS {quoted(level.alias)}")["from_table"]
    renamed = _renamed([name for name in upstream.names if not name.startswith("_")], level)
    table["column_name_alias"] = []
    system = [name for name in upstream.names if name.startswith("_")]
    columns = {new: frozenset({old}) for new, old in renamed.items()} | {name: frozenset({name}) for name in system}
    if level.names:
        inner = parse(f"SELECT {', '.join(f'{quoted(old)} AS {quoted(new)}' for new, old in renamed.items())} FROM {UPSTREAM}")
        inner["select_list"] += [column(name) for name in system]
        table = _subquery(inner, level.alias)
    return Input(table, columns, (ROW,) if ROW in upstream.names else (), many=ROW in upstream.names)


def _above(node: Node, level: Level, items: Sequence[Item], below: Input) -> Input:
    """The relation that a SELECT makes for the next one up."""
    given = {name: item.sources for item in items for name in item.names}
    renamed = _renamed(list(given), level)
    table = _subquery(node, level.alias)
    table["column_name_alias"] = list(renamed)
    system = {name: frozenset({name}) for name in (*_system(), *below.ordinals)}
    return Input(table, {new: given[old] for new, old in renamed.items()} | system, below.ordinals, below.many)


def _renamed(columns: Sequence[str], level: Level) -> dict[str, str]:
    """new name -> old name, for ``AS t(x, y)``."""
    return dict(zip((*level.names, *columns[len(level.names) :]), columns, strict=True))


def _system() -> tuple[str, str, str]:
    return ("_partition", "_offset", "_timestamp")


def _subquery(node: Node, alias: str) -> Node:
    table = parse(f"SELECT * FROM (SELECT 1) AS {quoted(alias)}")["from_table"]
    assert isinstance(table, dict)
    table["subquery"]["node"] = node
    return table


def _passes(where: Node | None, lists: Sequence[Node]) -> str | None:
    """SQL that is true for a row of the input that gives rows; None when every row does."""
    length = _length(lists)
    if where is None:
        return f"{length} > 0" if length else None
    condition = expression_text(where)
    return f"CASE WHEN {condition} THEN {length} > 0 ELSE false END" if length else condition


def _length(lists: Sequence[Node]) -> str:
    lengths = [f"coalesce(len({expression_text(node)}), 0)" for node in lists]
    return f"greatest({', '.join(lengths)})" if len(lengths) > 1 else "".join(lengths)


def true(condition: str) -> str:
    """Whether a condition is true, evaluated as WHERE does: in CASE, as there, what AND and OR need not look at is not evaluated."""
    return f"CASE WHEN {condition} THEN true ELSE false END"


def _filter(relation: Input, passes: str) -> str:
    source = _from(relation)
    if relation.many:
        return f"SELECT _offset {source} GROUP BY _offset HAVING NOT bool_or({true(passes)})"
    return f"SELECT _offset {source} WHERE NOT {true(passes)}"


def _from(relation: Input) -> str:
    node = parse("SELECT * FROM x")
    node["from_table"] = relation.table
    return text(node).removeprefix("SELECT * ")


def _parts(items: Sequence[Item], where: Node | None, scope: Scope, relation: Input) -> Parts:
    condition = None if where is None else Part("WHERE", expression_text(where), tuple(sorted(sources(where, scope, relation))))
    computed = [item for item in items if item.expression["class"] != "COLUMN_REF"]
    return Parts(
        _from(relation),
        condition,
        tuple(Part(item.names[0], expression_text(item.expression), tuple(sorted(item.sources))) for item in computed),
    )


def _ordinal(lists: Sequence[Node], name: str | None) -> Node | None:
    if name is None:
        return None
    node = parse(f"SELECT unnest(range({_length(lists)})) AS {name}")["select_list"][0]
    assert isinstance(node, dict)
    return node


def _node(items: Sequence[Item], where: Node | None, relation: Input, ordinal: Node | None) -> Node:
    node = parse("SELECT 1 FROM x")
    node["from_table"], node["where_clause"] = relation.table, where
    node["select_list"] = [item.expression for item in items] + [column(name) for name in (*_system(), *relation.ordinals)]
    if ordinal is not None:
        node["select_list"].append(ordinal)
    return node


def _picks(items: Sequence[Item]) -> dict[str, str]:
    """Columns that are the upstream's, only perhaps under another name (a third part of a reference is a field of a struct)."""
    return {
        item.names[0]: next(iter(item.sources))
        for item in items
        if item.expression["class"] == "COLUMN_REF" and len(item.expression["column_names"]) == 2
    }


def _computed(items: Sequence[Item], picks: Mapping[str, str], relation: Input) -> str | None:
    rest = [item.expression for item in items if item.names[0] not in picks]
    if not rest:
        return None
    node = parse("SELECT 1 FROM x")
    node["from_table"], node["select_list"] = relation.table, [*rest, column("_offset")]
    return text(node)
