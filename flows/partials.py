"""Partial states: aggregates over an append table, kept by combining what new rows give with what is stored.

Each aggregate is a function of a few states that add up: an average is a sum and a count; the variance is a count, the mean and the sum of
squared distances from it (Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979). States
that are not columns of the summary already are stored beside them as ``_s0``, ``_s1``, ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from flows.sql.aggregates import is_aggregate
from flows.sql.bind import Binder, Bound
from flows.sql.items import Item
from flows.sql.sizes import size_sql
from flows.sql.storage import cast_sql, casts
from flows.sql.tree import Node, Problem, SqlRefused, column, expression_text, line_at, parse_expression, quoted, text, walk
from flows.types import TypeRefused, storage_type

_ADD = "CASE WHEN {a} IS NULL THEN {b} WHEN {b} IS NULL THEN {a} ELSE {a} + {b} END"
_COUNT = "{a} + {b}"
_LEAST = "CASE WHEN {a} IS NULL OR {b} < {a} THEN {b} ELSE {a} END"
_GREATEST = "CASE WHEN {a} IS NULL OR {b} > {a} THEN {b} ELSE {a} END"
_AND = "CASE WHEN {a} IS NULL THEN {b} WHEN {b} IS NULL THEN {a} ELSE {a} AND {b} END"
_OR = _AND.replace("AND {b}", "OR {b}")
_MEAN = "CASE WHEN {n_a} = 0 THEN {b} WHEN {n_b} = 0 THEN {a} ELSE {a} + ({b} - {a}) * {n_b} / ({n_a} + {n_b}) END"
_SQUARES = (
    "CASE WHEN {n_a} = 0 THEN {b} WHEN {n_b} = 0 THEN {a}"
    " ELSE {a} + {b} + ({mean_b} - {mean_a}) * ({mean_b} - {mean_a}) * ({n_a} * ({n_b} / ({n_a} + {n_b}))) END"
)
# DuckDB raises for a variance that is not finite, which two rows may have and one has not
_SQUARED = "CASE WHEN {n} = 0 THEN NULL WHEN {lost} > 0 THEN CAST('nan' AS DOUBLE) ELSE {variance} * {n} END"
_FINITE = "CASE WHEN isfinite({squares}) THEN {squares} ELSE error('the variance is out of range: NaN, infinity, or numbers too large') END"
_SPREADS = {
    "var_pop": f"CASE WHEN {{n}} > 0 THEN {_FINITE} / {{n}} END",
    "var_samp": f"CASE WHEN {{n}} > 1 THEN {_FINITE} / ({{n}} - 1) END",
    "stddev_pop": f"CASE WHEN {{n}} > 0 THEN sqrt({_FINITE} / {{n}}) END",
    "stddev_samp": f"CASE WHEN {{n}} > 1 THEN sqrt({_FINITE} / ({{n}} - 1)) END",
}
_SPREADS |= {"variance": _SPREADS["var_samp"], "stddev": _SPREADS["stddev_samp"]}
_SAME = {
    "count": _COUNT,
    "count_star": _COUNT,
    "count_if": _ADD,  # NULL, not 0, when every argument is
    "countif": _ADD,
    "sum": _ADD,
    "min": _LEAST,
    "max": _GREATEST,
    "bool_and": _AND,
    "bool_or": _OR,
}
_ARGS = {"arg_min": "min", "argmin": "min", "min_by": "min", "arg_max": "max", "argmax": "max", "max_by": "max"}
_KEPT = "count, count_if, sum, avg, min, max, bool_and, bool_or, arg_min, arg_max, variance and stddev"


@dataclass(frozen=True, slots=True)
class Partials:
    """How a summary over an append table is kept. ``states``: the columns that are stored beside those of the SELECT.

    ``partial_sql`` gives of rows of the upstream, ``_upstream``, those of the summary, as stored. ``combine_sql`` gives the columns that
    are no groups for the rows of ``old`` and those of ``new``, which are of the same groups in the same order; ``read``: the groups whose
    columns it reads; None when all columns are groups. ``sizes``: SQL for the size of what a DOUBLE state adds up.
    """

    states: pa.Schema
    read: frozenset[str]
    partial_sql: str
    combine_sql: str | None
    sizes: Mapping[str, str]


@dataclass(slots=True)
class _State:
    """``sql``: over rows of the upstream; ``combine``: of two, ``{a}`` and ``{b}``, and of the states that ``others`` names."""

    name: str
    sql: str
    combine: str
    others: Mapping[str, str]


@dataclass(slots=True)
class _States:
    """The states of a summary's aggregates; one that several need is there once. ``place``: the columns of a row's position in the log."""

    place: Sequence[str]
    sql: str
    known: dict[tuple[str, str], _State] = field(default_factory=dict)

    def final(self, call: Node) -> str:
        """SQL that gives an aggregate's value from states. Raises SqlRefused for one that cannot be combined."""
        name = str(call["function_name"]).lower()
        self._check(call, name)
        inputs = [expression_text(child) for child in call["children"]]
        only = expression_text(call["filter"]) if call["filter"] is not None else None
        if name in _SAME:
            return self._add(expression_text(call), _SAME[name])
        if name in ("avg", "mean"):
            total, number = self._add(_call("sum", inputs[0], only), _ADD), self._add(_call("count", inputs[0], only), _COUNT)
            return f"CASE WHEN {number} > 0 THEN CAST({total} AS DOUBLE) / {number} END"
        if name in _SPREADS:
            number, double = self._add(_call("count", inputs[0], only), _COUNT), f"CAST({inputs[0]} AS DOUBLE)"
            mean = self._add(_call("avg", double, only), _MEAN, n=number)
            finite = f"isfinite({double})"
            squared = _SQUARED.format(
                n=_call("count", inputs[0], only),
                lost=_call("count_if", f"NOT {finite}", only),
                variance=_call("var_pop", double, _both(only, finite)),
            )
            squares = self._add(squared, _SQUARES, n=number, mean=mean)
            return _SPREADS[name].format(n=number, squares=squares)
        argument, by = inputs
        least = _ARGS[name] == "min"
        place = ", ".join(f"{each} := {'' if least else '-'}{each}" for each in self.place)
        there = _both(only, f"{argument} IS NOT NULL AND {by} IS NOT NULL")
        best = _call(_ARGS[name], f"struct_pack(rank := {by}, {place}, argument := {argument})", there)
        return f"struct_extract({self._add(best, _LEAST if least else _GREATEST)}, 'argument')"

    def _add(self, sql: str, combine: str, **others: str) -> str:
        state = self.known.setdefault((sql, combine), _State(f"_s{len(self.known)}", sql, combine, others))
        return state.name

    def _check(self, call: Node, name: str) -> None:
        line = line_at(self.sql, call["query_location"])
        whole = 'FROM an upsert table, whose groups are computed again; or kind = "view" here'
        if name not in (*_SAME, *_SPREADS, *_ARGS, "avg", "mean"):
            cause = f"{name} over an append table would have to keep all values: kept are {_KEPT}"
            raise SqlRefused(Problem(line, cause, whole))
        if call["distinct"]:
            raise SqlRefused(Problem(line, f"{name}(DISTINCT ...) over an append table would have to keep all values", whole))
        if call["order_bys"]["orders"] or len(call["children"]) > (2 if name in _ARGS else 1):
            cause = f"{name} over an append table has no order of its own and gives one value: ties go to the smallest position"
            raise SqlRefused(Problem(line, cause, whole))


def partials(
    select: Callable[[list[Item]], Node],
    items: Sequence[Item],
    groups: Sequence[Item],
    place: Sequence[str],
    schema: pa.Schema,
    binder: Binder,
    sql: str,
) -> Partials:
    """``select`` makes the query of items over the upstream, grouped; ``schema``: of ``items``, as stored; ``place``: the columns of a
    row's position. Raises SqlRefused.
    """
    states = _States(place, sql)
    group_names = [item.names[0] for item in groups]
    read: set[str] = set()
    finals = {name: _final(item, groups, states, read) for item in items for name in item.names if name not in group_names}
    known = list(states.known.values())
    inner = text(select([*groups, *(_item(state.sql, state.name) for state in known)]))
    bound = {each.name: each.type for each in _bound(inner, binder)}
    # a state that is a column of the SELECT is stored once
    columns = {state.name: next((name for name, final in finals.items() if final == state.name), state.name) for state in known}
    kept = [name for name, where in columns.items() if name == where]
    stored = pa.schema([*schema, *(pa.field(name, _storage(bound[name], sql)) for name in kept)])

    def given(table: str, state: str) -> str:
        return f"CAST({table}.{quoted(columns[state])} AS {bound[state]})"

    made = {**{name: quoted(name) for name in group_names}, **finals, **{name: name for name in kept}}
    partial = f"SELECT {', '.join(f'{made[name]} AS {quoted(name)}' for name in stored.names)} FROM ({inner})"
    targets = casts(binder.columns(partial), stored, binder)
    both = [f"CAST(new.{quoted(name)} AS {bound[name]}) AS {quoted(name)}" for name in group_names if name in read]
    both += [f"{_combined(state, given)} AS {state.name}" for state in known]
    rest = [name for name in stored.names if name not in group_names]
    values = ", ".join(f"{made[name]} AS {quoted(name)}" for name in rest)
    combine = cast_sql(f"SELECT {values} FROM (SELECT {', '.join(both)} FROM old POSITIONAL JOIN new)", rest, targets) if rest else None
    schema = pa.schema([stored.field(name) for name in kept])
    sizes = {state.name: _size(state) for state in known if state.name in kept and pa.types.is_floating(schema.field(state.name).type)}
    return Partials(schema, frozenset(read), cast_sql(partial, stored.names, targets), combine, sizes)


def _size(state: _State) -> str:
    return " + ".join(size_sql(node) for node in walk(parse_expression(state.sql)) if is_aggregate(node)) or "0"


def _bound(sql: str, binder: Binder) -> list[Bound]:
    try:
        return binder.columns(sql)
    except SqlRefused as refused:
        cause = f"its aggregates cannot be kept for an append table: {refused.problem.cause}"
        raise SqlRefused(Problem(1, cause, refused.problem.fix)) from refused


def _combined(state: _State, given: Callable[[str, str], str]) -> str:
    others = {f"{role}_{side}": given(table, name) for role, name in state.others.items() for side, table in (("a", "old"), ("b", "new"))}
    return state.combine.format(a=given("old", state.name), b=given("new", state.name), **others)


def _call(function: str, argument: str, only: str | None) -> str:
    return f"{function}({argument}){f' FILTER (WHERE {only})' if only else ''}"


def _both(only: str | None, condition: str) -> str:
    return f"({only}) AND {condition}" if only else condition


def _item(sql: str, name: str) -> Item:
    return Item({**parse_expression(sql), "alias": name}, [name], frozenset(), 1)


def _storage(kind: Any, sql: str) -> pa.DataType:
    try:
        return storage_type(kind)
    except TypeRefused as refused:
        cause = f"an aggregate over an append table would have to be kept as {kind}, which Delta cannot hold"
        raise SqlRefused(Problem(1, cause, f"a CAST of what it takes: {refused.instead}")) from refused


def _final(item: Item, groups: Sequence[Item], states: _States, read: set[str]) -> str:
    """The item's value from the states and the columns of the groups, which are added to ``read``."""
    named = {_key(group.expression): group.names[0] for group in groups}

    def change(node: Any) -> Any:
        if isinstance(node, list):
            return [change(each) for each in node]
        if not isinstance(node, dict):
            return node
        if is_aggregate(node):
            return parse_expression(states.final(node))
        if node.get("class") not in (None, "CONSTANT") and (name := named.get(_key(node))) is not None:
            read.add(name)
            return column(name)
        return {key: change(value) for key, value in node.items()}

    return expression_text(change(item.expression))


def _key(node: Node) -> str:
    """Equal for expressions that are the same but for their alias and place."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(each) for key, each in value.items() if key != "query_location"}
        return [bare(each) for each in value] if isinstance(value, list) else value

    return json.dumps(bare({**node, "alias": ""}), sort_keys=True)
