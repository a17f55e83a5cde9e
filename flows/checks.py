"""What can be wrong with a source's definition beyond its shape: names, types, key, event time, rules."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from flows.contract import Source
from flows.project import Finding, Project, source_file
from flows.sql.bind import Binder, near
from flows.sql.gates import expression_problems, plan_problems
from flows.sql.storage import COLUMN_NAME
from flows.sql.tree import Problem, SqlRefused, parse_expression, walk
from flows.toml_lines import line_of
from flows.types import TypeRefused, TypeUnknown

RESERVED = frozenset({"raw", "staging", "core", "analytics", "meta", "main"})


def reserved_name(name: str) -> tuple[str, str] | None:
    """(cause, fix) when a source or table may not be called so."""
    if name in RESERVED:
        return f"{name!r} is the name of a layer", f"another name, such as {name}_events"
    if name.endswith("__rejected"):
        return f"{name!r}: names that end in __rejected belong to the tables of rejects", name.removesuffix("__rejected") + "_refused"
    return None


def source_findings(project: Project, source: Source, binder: Binder) -> list[Finding]:
    """Everything wrong with one source."""
    file = source_file(source.name)
    text = project.files[file]
    findings = []
    for path, (cause, fix) in _problems(source):
        findings.append(Finding(file, line_of(text, *path), cause, fix))
    if not findings:
        for rule in source.rules:
            findings.extend(
                Finding(file, line_of(text, "rules", rule, "check") + problem.line - 1, f"rule {rule}: {problem.cause}", problem.fix)
                for problem in rule_problems(source, rule, binder)
            )
    return findings


_Located = tuple[tuple[str, ...], tuple[str, str]]


def _problems(source: Source) -> Iterator[_Located]:
    if reserved := reserved_name(source.name):
        yield (), reserved
    yield from _column_problems(source)
    yield from _reference_problems(source)
    if source.format == "text":
        yield from _text_problems(source)
    if source.documents is not None and source.format != "json":
        yield ("format",), (f"[documents] makes JSON objects of files, and the format is {source.format}", 'format = "json"')


def _column_problems(source: Source) -> Iterator[_Located]:
    if not source.columns:
        yield ("columns",), ("the contract has no columns", '[columns] with a line for each, such as id = "bigint not null"')
    seen: dict[str, str] = {}
    for name, column in source.columns.items():
        where = ("columns", name)
        if name.startswith("_"):
            yield (
                where,
                (
                    f"the column {name} begins with _: those names are kappa's own",
                    "a name without it; fields without a column are kept in _extra",
                ),
            )
        elif not COLUMN_NAME.match(name):
            yield where, (f"the column {name!r} has a name that Delta tables cannot hold", "letters, digits and _, beginning with a letter")
        if name.lower() in seen:
            yield where, (f"the columns {seen[name.lower()]} and {name} differ only in case, which SQL does not see", "one of them")
        seen[name.lower()] = name
        try:
            _ = column.type
        except TypeRefused as refused:
            yield where, (f"the column {name}: type {column.text} cannot be stored in a Delta table", refused.instead)
        except TypeUnknown:
            yield where, (f"the column {name}: there is no type {column.text!r}", near(column.text, _TYPES, "a type of docs/types.md"))


_TYPES = (
    *("boolean", "tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger", "ubigint", "hugeint", "float", "double"),
    *("decimal(18,2)", "varchar", "json", "blob", "date", "timestamp", "timestamptz"),
)


def _reference_problems(source: Source) -> Iterator[_Located]:
    names = list(source.columns)
    for name in source.key:
        if name not in source.columns:
            yield ("key",), (f"the key column {name} is not in the contract", near(name, names, "a column of [columns]"))
    if len(set(source.key)) != len(source.key):
        yield ("key",), ("the key names a column twice", "each column once")
    yield from _key_format_problems(source)
    if source.event_time is None:
        return
    if source.event_time not in source.columns:
        yield (
            ("event_time",),
            (
                f"the event time {source.event_time} is not in the contract",
                near(source.event_time, names, "a column of [columns] of type timestamptz, timestamp or date"),
            ),
        )
    elif (kind := _arrow(source, source.event_time)) is not None and not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        fix = f'{source.event_time} = "timestamptz", or an event_time that is timestamptz, timestamp or date'
        yield ("event_time",), (f"the event time {source.event_time} is {source.columns[source.event_time].text}, not a time", fix)


def _key_format_problems(source: Source) -> Iterator[_Located]:
    if source.key_format != "text" or not source.key:
        return
    if len(source.key) > 1:
        cause = f"key_format is text, and the key has {len(source.key)} columns: a text is one value"
        yield ("key_format",), (cause, 'key_format = "json", or a key of one column')
    for name in source.key:
        kind = _arrow(source, name)
        if kind is not None and (pa.types.is_nested(kind) or source.columns[name].text.lower() == "json"):
            cause = f"key_format is text, and the key column {name} is {source.columns[name].text}, which no text names"
            yield ("key_format",), (cause, 'key_format = "json", or a key of a scalar type')


def _arrow(source: Source, name: str) -> pa.DataType | None:
    try:
        return source.columns[name].type.arrow
    except (TypeRefused, TypeUnknown):
        return None


def _text_problems(source: Source) -> Iterator[_Located]:
    kinds = [column.text.lower() for column in source.columns.values()]
    if len(kinds) > 1 or any(_arrow(source, name) not in (pa.string(), None) for name in source.columns):
        yield ("columns",), ("a text source has one column, of type varchar: the value", 'line = "varchar not null"')
    if source.key:
        yield ("key",), ("a text source has no key: its one column is the whole value", "no key")


def rule_problems(source: Source, rule: str, binder: Binder) -> list[Problem]:
    """What is wrong with one rule of a source whose columns are right. Lines count within the check."""
    check = source.rules[rule].check
    try:
        expression = parse_expression(check)
        shifted = f"\n{check}"
        problems = [
            problem._replace(line=max(1, problem.line - 1)) for problem in expression_problems(expression, f"SELECT{shifted}", binder)
        ]
        if problems:
            return problems
        if any(node.get("class") == "STAR" or node.get("function_name") == "unnest" for node in walk(expression)):
            return [Problem(1, "* and unnest give several values", "a condition on the row's columns, such as distance > 0")]
        table = f"staging.{source.name}"
        binder.add_table(table, source.contract_schema)
        sql = f"SELECT ({check}) IS FALSE FROM {table}"  # as flows.stage runs it
        binder.columns(sql)
        bound = binder.columns(f"SELECT ({check}) FROM {table}")[0]
    except SqlRefused as refused:
        return [refused.problem._replace(line=1)]
    if str(bound.type) != "BOOLEAN":
        return [Problem(1, f"the check is {bound.type}, not BOOLEAN", "a condition that is true or false, such as distance > 0")]
    return list(plan_problems(sql, binder))
