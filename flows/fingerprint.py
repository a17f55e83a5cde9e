"""What decides a table's rows, as JSON, and its fingerprint: ``run`` refuses a table whose definition is not the one that built it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from flows.batch import RAW, REJECTED
from flows.contract import Source
from flows.eras import Era
from flows.materialized import Materialized
from flows.plan import Node, Plan
from flows.project import Project, source_file, table_file
from flows.sql.tree import expression_text, parse_expression
from flows.summary import Summary
from flows.types import UTC_MICROSECONDS
from flows.upsert import Upsert

Role = Literal["raw", "staging", "rejected", "table"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A physical table. ``json`` holds everything that decides its rows, and nothing else; ``fingerprint``: 12 hex digits of its SHA-256.

    ``role``: raw and staging tables of a source, tables of rejects, tables of SQL files. ``source``: empty for a materialized table.
    ``upstream``: the table that it is made from; None for a table made from the topic itself, and for a materialized one. A table of
    rejects has the upstream of the table whose rejects it holds.
    ``files``: the texts that define the table and all that it derives from, by their paths in the folder. ``before``: what rows at
    earlier positions are made by, the oldest first; the fingerprint does not know it.
    """

    name: str
    kind: str
    role: Role
    source: str
    upstream: str | None
    schema: pa.Schema
    partition_by: tuple[str, ...]
    json: dict[str, Any]
    fingerprint: str
    files: Mapping[str, str]
    upsert: Upsert | None = None
    summary: Summary | None = None
    materialized: Materialized | None = None
    before: tuple[Era, ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The stored tables whose rows decide this one's: its parent, or for a materialized table all below it."""
        if self.materialized is not None:
            return self.materialized.tables
        return (self.parent,) if self.parent is not None else ()

    @property
    def parent(self) -> str | None:
        """The table without which this one is not fed: its upstream, or the table whose rejects it holds."""
        return self.name.removesuffix("__rejected") if self.role == "rejected" else self.upstream

    @property
    def file(self) -> str:
        """The file that defines the table: its source's, or its own."""
        return file_of(self.name, self.source)

    @property
    def stored(self) -> dict[str, Any]:
        """What the storage root keeps of it: ``json``; the files, which decide nothing by their mere letters; earlier definitions."""
        before = {"before": [era.to_json() for era in self.before]} if self.before else {}
        return {**self.json, "files": dict(self.files), **before}


def file_of(table: str, source: str) -> str:
    """The file that defines the physical table ``table`` of ``source``."""
    return source_file(source) if table.startswith(("raw.", "staging.")) else table_file(table.removesuffix("__rejected"))


def definitions(project: Project, plan: Plan) -> dict[str, Definition]:
    """The definition of every table that is stored, upstream first. The plan must have no findings (``plan.require``)."""
    made: dict[str, Definition] = {}

    def add(
        name: str,
        role: Role,
        source: str,
        upstream: str | None,
        schema: pa.Schema,
        partition_by: tuple[str, ...],
        content: Mapping[str, Any],
        upsert: Upsert | None = None,
        summary: Summary | None = None,
    ) -> None:
        kind = "summary" if summary else "upsert" if upsert else "append"
        values = {"format": 1, "table": name, "role": role, "kind": kind, **content}
        file = file_of(name, source)
        files = {**(made[upstream].files if upstream else {}), file: project.files[file]}
        made[name] = Definition(
            name, kind, role, source, upstream, schema, partition_by, values, fingerprint(values), files, upsert, summary
        )

    for source in project.sources.values():
        if source.raw:
            add(f"raw.{source.name}", "raw", source.name, None, RAW, ("_partition",), {"topic": source.topic})
        contract = _contract(source)
        add(f"staging.{source.name}", "staging", source.name, None, source.staging_schema, (), contract)
        add(f"staging.{source.name}__rejected", "rejected", source.name, None, REJECTED, (), contract)
    for node in plan.nodes.values():
        content = _table(node, made[node.upstream])
        add(node.name, "table", node.source, node.upstream, node.schema, node.partition_by, content, node.upsert)
        add(f"{node.name}__rejected", "rejected", node.source, node.upstream, REJECTED, (), content)
    for summary in plan.summaries.values():
        content = _summary(summary, made[summary.upstream])
        add(summary.name, "table", summary.source, summary.upstream, summary.schema, summary.partition_by, content, summary=summary)
    for table in plan.materialized.values():
        made[table.name] = _of_materialized(table, project, made)
    return made


def _of_materialized(table: Materialized, project: Project, made: Mapping[str, Definition]) -> Definition:
    """Everything that decides its rows: the SQL, the views that it goes through, the tables below."""
    values = {
        "format": 1,
        "table": table.name,
        "role": "table",
        "kind": "materialized",
        "sql": table.sql,
        "columns": [[field.name, type_name(field.type)] for field in table.schema],
        "key": list(table.key),
        "partition_by": list(table.partition_by),
        "views": dict(table.views),
        "upstreams": {name: made[name].fingerprint for name in table.tables},
        "duckdb": duckdb.__version__,
    }
    files = {file: text for name in table.tables for file, text in made[name].files.items()}
    files |= {table_file(name): project.files[table_file(name)] for name in (*table.views, table.name)}
    return Definition(
        table.name,
        "materialized",
        "table",
        "",
        None,
        table.schema,
        table.partition_by,
        values,
        fingerprint(values),
        files,
        materialized=table,
    )


def fingerprint(values: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON (sorted keys, no blanks, UTF-8)."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _contract(source: Source) -> dict[str, Any]:
    """What decides the rows of a staging table, so not: rules that warn or fail, event time, descriptions, how files are loaded."""
    return {
        "topic": source.topic,
        "record_format": source.format,
        "columns": [[name, column.type.name.lower(), column.not_null] for name, column in source.columns.items()],
        "key": list(source.key),
        "extra": source.extra,
        "null_values": source.null_values,
        "key_format": source.key_format,
        "max_record_bytes": source.max_record_bytes,
        # a list: a record that breaks several rules is rejected by the first
        "rules": [
            [name, expression_text(parse_expression(rule.check)), rule.on_failure]
            for name, rule in source.rules.items()
            if rule.on_failure == "reject"
        ],
        "duckdb": duckdb.__version__,
        **({"corrections": True} if source.corrections else {}),  # its absence keeps older fingerprints
    }


_SCALAR_NAMES = {
    pa.bool_(): "boolean",
    pa.int8(): "tinyint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.float64(): "double",
    pa.string(): "varchar",
    pa.binary(): "blob",
    pa.date32(): "date",
    pa.timestamp("us"): "timestamp",
    UTC_MICROSECONDS: "timestamptz",
}


def type_name(kind: pa.DataType) -> str:
    """The DuckDB name of a stored type: not Arrow's own text, which may change with its version."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"{type_name(kind.value_type)}[]"
    if pa.types.is_map(kind):
        return f"map({type_name(kind.key_type)}, {type_name(kind.item_type)})"
    if pa.types.is_struct(kind):
        return f"struct({', '.join(f'{field.name} {type_name(field.type)}' for field in kind)})"
    return _SCALAR_NAMES[kind]


def _table(node: Node, upstream: Definition) -> dict[str, Any]:
    """What decides the rows, the columns and the files of a streaming table. Its SQL holds ``delete_when`` and a computed sequence."""
    upsert = {} if node.upsert is None else dataclasses.asdict(node.upsert) | {"key": list(node.upsert.key)}
    upsert.pop("delete_key", None)  # which the source's definition decides
    return {
        "sql": node.sql,
        "columns": [[field.name, type_name(field.type)] for field in node.schema],
        **upsert,
        "partition_by": list(node.partition_by),
        "upstream": {"table": node.upstream, "fingerprint": upstream.fingerprint},
        "duckdb": duckdb.__version__,
    }


def _summary(summary: Summary, upstream: Definition) -> dict[str, Any]:
    """What decides the rows, the columns and the files of a summary."""
    return {
        "sql": summary.sql,
        "columns": [[field.name, type_name(field.type)] for field in summary.schema],
        "group": list(summary.group),
        "partition_by": list(summary.partition_by),
        "upstream": {"table": summary.upstream, "fingerprint": upstream.fingerprint},
        "duckdb": duckdb.__version__,
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences that name what differs between two definitions' JSON; empty when they are equal."""
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        if name in ("files", "before"):
            continue
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name == "columns":
            found += _columns(before or [], after or [])
        elif name == "rules":
            found += _rules(before or [], after or [])
        elif name in ("upstreams", "views"):
            found += _named({"upstreams": "upstream", "views": "view"}[name], before or {}, after or {})
        elif name == "sql":
            found.append(f"SQL changed: {before} -> {after}")
        elif name == "upstream" and before and after and before["table"] == after["table"]:
            found.append(f"upstream {after['table']} changed: {before['fingerprint']} -> {after['fingerprint']}")
        else:
            found.append(f"{_LABELS.get(name, name)}: {_show(before)} -> {_show(after)}")
    return found


def _named(label: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs between two maps from the name of a table or view to what decides it."""
    found = [f"{label} {name} is read no more" for name in before if name not in after]
    found += [f"{label} {name} is read" for name in after if name not in before]
    return found + [
        f"{label} {name} changed: {before[name]} -> {after[name]}" for name in after if before.get(name, after[name]) != after[name]
    ]


_LABELS = {"duckdb": "DuckDB", "upstream": "upstream table", "record_format": "format"}


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value.get("table", dict(value)))
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    return "nothing" if value is None else str(value)


def _columns(before: list[list[Any]], after: list[list[Any]]) -> list[str]:
    old, new = ({name: _type(*rest) for name, *rest in columns} for columns in (before, after))
    found = [f"column {name} dropped" for name in old if name not in new]
    found += [f"column {name} added: {new[name]}" for name in new if name not in old]
    found += [f"column {name}: {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]
    return found or [f"order of columns: {', '.join(old)} -> {', '.join(new)}"]


def _type(name: str, not_null: bool = False) -> str:
    return f"{name} not null" if not_null else name


def _rules(before: list[list[str]], after: list[list[str]]) -> list[str]:
    old, new = ({name: f"{check} ({on_failure})" for name, check, on_failure in rules} for rules in (before, after))
    found = [f"rule {name} dropped" for name in old if name not in new]
    found += [f"rule {name} added: {new[name]}" for name in new if name not in old]
    found += [f"rule {name}: {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]
    return found or [f"order of rules: {', '.join(old)} -> {', '.join(new)}"]
