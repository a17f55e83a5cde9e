"""Names inside one SELECT: which column of its input an expression refers to."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.sql.functions import refusal
from flows.sql.tree import Node, Problem, SqlRefused, line_at


@dataclass(frozen=True, slots=True)
class Scope:
    """``alias``: the input's name; ``columns``: its columns; ``table``: (layer, table) of the lowest input, for ``layer.table.column``."""

    alias: str
    table: tuple[str, str] | None
    columns: tuple[str, ...]
    sql: str

    def column(self, name: str) -> str | None:
        """The input's column of this name, whatever its case."""
        return next((known for known in self.columns if known.lower() == name.lower()), None)

    def resolve(self, names: list[str]) -> tuple[str, list[str]] | None:
        """(column, fields within it) of a dotted reference, by DuckDB's order: table before column; None when neither."""
        lower = [name.lower() for name in names]
        if self.table and len(names) > 2 and tuple(lower[:2]) == self.table and (found := self.column(names[2])):
            return found, names[3:]
        if len(names) > 1 and lower[0] == self.alias.lower() and (found := self.column(names[1])):
            return found, names[2:]
        if found := self.column(names[0]):
            return found, names[1:]
        return None


def expand(expression: Node, scope: Scope, aliases: Mapping[str, Node]) -> Node:
    """A copy in which every reference names a column of the input: aliases of the SELECT list (lower case -> expression) are replaced by
    what they stand for (a column of the input wins, as in DuckDB), ``layer.table.column`` becomes ``table.column``.

    Raises SqlRefused for a name that DuckDB takes for something else: ``rowid``, ``current_date``, the table as a whole.
    """
    expanded = _expand(copy.deepcopy(expression), scope, aliases, frozenset())
    assert isinstance(expanded, dict)
    return expanded


def references(expression: object, bound: frozenset[str] = frozenset()) -> Iterator[Node]:
    """The COLUMN_REF nodes below an expression, without the parameters of lambdas."""
    if isinstance(expression, list):
        for child in expression:
            yield from references(child, bound)
    elif isinstance(expression, dict):
        if expression.get("class") == "LAMBDA":
            bound |= parameters(expression)
            yield from references(expression["expr"], bound)
        elif expression.get("class") == "COLUMN_REF":
            if expression["column_names"][0].lower() not in bound:
                yield expression
        else:
            for child in expression.values():
                yield from references(child, bound)


def parameters(function: Node) -> frozenset[str]:
    """The parameters of a LAMBDA, in lower case."""
    return frozenset(node["column_names"][0].lower() for node in references(function["lhs"]))


def _expand(value: Any, scope: Scope, aliases: Mapping[str, Node], bound: frozenset[str]) -> Any:
    if isinstance(value, list):
        return [_expand(child, scope, aliases, bound) for child in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") == "LAMBDA":
        return {**value, "expr": _expand(value["expr"], scope, aliases, bound | parameters(value))}
    if value.get("class") == "COLUMN_REF":
        return value if value["column_names"][0].lower() in bound else _reference(value, scope, aliases)
    return {key: _expand(child, scope, aliases, bound) for key, child in value.items()}


def _reference(node: Node, scope: Scope, aliases: Mapping[str, Node]) -> Node:
    names = node["column_names"]
    found = scope.resolve(names)
    if found is not None:
        name, fields = found
        return {**node, "column_names": [scope.alias, name, *fields]}
    if len(names) == 1 and names[0].lower() in aliases:
        return {**aliases[names[0].lower()], "alias": node["alias"]}
    line = line_at(scope.sql, node.get("query_location"))
    known = refusal(names[-1].lower())
    if known is None and names[-1].lower() == scope.alias.lower():
        known = f"{names[-1]} stands for the whole row, whose columns are not named", "the columns that you need"
    raise SqlRefused(Problem(line, *(known or (f"{'.'.join(names)!r} is not a column of {scope.alias}", "a column of the table"))))
