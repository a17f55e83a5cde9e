"""The SELECT list of one level: stars and aliases expanded, each item with its names and with what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.sql.bind import Binder, Bound
from flows.sql.chain import Level
from flows.sql.scope import Scope, expand, references
from flows.sql.tree import Node, Problem, SqlRefused, column, first_line, line_at, parse, text, walk


@dataclass(frozen=True, slots=True)
class Input:
    """What a SELECT reads: ``table`` is its node; ``columns`` -> columns of the upstream; ``many``: a record may have several rows."""

    table: Node
    columns: Mapping[str, frozenset[str]]
    ordinals: tuple[str, ...] = ()
    many: bool = False


@dataclass(slots=True)
class Item:
    """An item of the SELECT list, expanded; ``names``: the columns that it gives (several for unnest of a struct)."""

    expression: Node
    names: list[str]
    sources: frozenset[str]
    line: int


def select_items(level: Level, scope: Scope, relation: Input, binder: Binder, added: int = 0) -> tuple[list[Item], Node | None]:
    """The SELECT list and the WHERE, stars and aliases expanded. ``added``: so many items at its end are kappa's own."""
    written = [item for entry in level.node["select_list"] for item in _star(entry, scope)]
    aliases: dict[str, Node] = {}
    items = []
    for entry in written:
        expression = entry if entry["class"] == "STAR" else expand(entry, scope, aliases)
        names = _names(entry, expression, relation, binder)
        line = first_line(entry, scope.sql)
        if len(names) == 1 and expression["class"] != "STAR":
            aliases.setdefault(names[0].lower(), expression)
            expression = {**expression, "alias": names[0]}
        items.append(Item(expression, names, sources(expression, scope, relation), line))
    _check_names(items[: len(items) - added])
    where = level.node["where_clause"]
    return items, expand(where, scope, aliases) if where is not None else None


def _star(entry: Node, scope: Scope) -> list[Node]:
    """``*`` as its columns: those of the input that do not begin with ``_``. ``s.*`` of a struct column stays."""
    if entry["class"] != "STAR":
        return [entry]
    if entry["relation_name"] and entry["relation_name"].lower() != scope.alias.lower():
        return [entry]
    excluded = {name.lower() for name in entry["exclude_list"]} | {item["column"].lower() for item in entry["qualified_exclude_list"]}
    replaced = {item["key"].lower(): item["value"] for item in entry["replace_list"]}
    renamed = {item["key"]["column"].lower(): item["value"] for item in entry["rename_list"]}
    items = []
    for name in scope.columns:
        if name.startswith("_") or name.lower() in excluded:
            continue
        expression = replaced.get(name.lower(), column(name, table=scope.alias))
        items.append({**expression, "alias": renamed.get(name.lower(), name)})
    return items


def _names(entry: Node, expression: Node, relation: Input, binder: Binder) -> list[str]:
    """The names of the columns that an item gives, by DuckDB: of the item as written, unless its aliases had to be put in."""
    if entry["alias"] and not any(node.get("function_name") == "unnest" for node in walk(entry)):
        return [entry["alias"]]
    if entry["class"] == "COLUMN_REF":
        return [entry["alias"] or entry["column_names"][-1]]
    return [bound.name for bound in _bind([expression], relation, binder)]


def _bind(expressions: list[Node], relation: Input, binder: Binder) -> list[Bound]:
    node = parse("SELECT 1 FROM x")
    node["select_list"], node["from_table"] = expressions, relation.table
    return binder.columns(text(node))


def sources(expression: Node, scope: Scope, relation: Input) -> frozenset[str]:
    """The upstream's columns that an expression reads."""
    if expression["class"] == "STAR":
        name = scope.column(expression["relation_name"])
        return relation.columns[name] if name else frozenset()
    found = (scope.resolve(node["column_names"]) for node in references(expression))
    return frozenset().union(*(relation.columns[name] for name, _ in filter(None, found)))


def _check_names(items: Sequence[Item]) -> None:
    seen: set[str] = set()
    for item in items:
        for name in item.names:
            if name.startswith("_"):
                fix = f"{name} AS {name.strip('_') or 'name'}"
                raise SqlRefused(Problem(item.line, f"the column {name} begins with _: those names are kappa's own", fix))
            if name.lower() in seen:
                fix = f"another name for one of them: ... AS {name}_2"
                raise SqlRefused(Problem(item.line, f"two columns are called {name} (case does not count)", fix))
            seen.add(name.lower())


def unnested(items: Sequence[Item], relation: Input, binder: Binder, scope: Scope) -> list[Node]:
    """The lists that the items unnest: each of them multiplies rows, together they are zipped. Unnest of a struct does not."""
    lists = []
    for item in items:
        for node in walk(item.expression):
            if node.get("class") != "FUNCTION" or node["function_name"] != "unnest":
                continue
            (argument, *options) = node["children"]
            line = line_at(scope.sql, node["query_location"])
            if options:
                fix = "one unnest, and a SELECT around it with the next"
                raise SqlRefused(Problem(line, "unnest with options may multiply rows at several depths", fix))
            kind = _bind([argument], relation, binder)[0].type.id
            if kind in ("list", "array"):
                lists.append({**argument, "alias": ""})
            elif kind != "struct":
                fix = "unnest of a list, such as unnest(string_split(tags, ','))"
                raise SqlRefused(Problem(line, f"unnest needs a list, not {kind}", fix))
    return lists
