"""Names inside one SELECT: which column of its input an expression refers to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.sql.functions import refusal
from flows.sql.tree import Node, Problem, SqlRefused, line_at

_TAKES_LAMBDA = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "list_", "array_")
    for name in ("transform", "apply", "filter", "reduce")
    if prefix or name != "transform"
)


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
    expanded = _visit(copy.deepcopy(expression), lambda node: _reference(node, scope, aliases), frozenset())
    assert isinstance(expanded, dict)
    return expanded


def references(expression: object) -> list[Node]:
    """The COLUMN_REF nodes below an expression, without the parameters of lambdas."""
    found: list[Node] = []

    def note(node: Node) -> Node:
        found.append(node)
        return node

    _visit(expression, note, frozenset())
    return found


def _visit(value: Any, replace: Callable[[Node], Node], bound: frozenset[str]) -> Any:
    """A copy with every reference replaced that is not one to ``bound``, the parameters of the lambdas around it."""
    if isinstance(value, list):
        return [_visit(child, replace, bound) for child in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") == "COLUMN_REF":
        return value if value["column_names"][0].lower() in bound else replace(value)
    if value.get("class") == "FUNCTION" and value["function_name"] in _TAKES_LAMBDA:
        first, *others = value["children"]
        children = [_visit(first, replace, bound), *(_argument(child, replace, bound) for child in others)]
        return {**value, "children": children}
    return {key: _visit(child, replace, bound) for key, child in value.items()}


def _argument(value: Node, replace: Callable[[Node], Node], bound: frozenset[str]) -> Any:
    """An argument that may be a lambda. Anywhere else ``a -> b`` looks the same in the tree, and is JSON's arrow."""
    if value["class"] != "LAMBDA":
        return _visit(value, replace, bound)
    parameters = frozenset(node["column_names"][0].lower() for node in references(value["lhs"]))
    return {**value, "expr": _visit(value["expr"], replace, bound | parameters)}


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
