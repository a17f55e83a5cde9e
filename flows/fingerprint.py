"""What decides a table's rows, as JSON, and its fingerprint: ``run`` refuses a table whose definition is not the one that built it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa

from flows.batch import RAW, REJECTED
from flows.contract import Source
from flows.plan import Node, Plan
from flows.project import Project
from flows.sql.tree import expression_text, parse_expression

Role = Literal["raw", "staging", "rejected", "table"]


@dataclass(frozen=True, slots=True)
class Definition:
    """A physical table. ``json`` holds everything that decides its rows, and nothing else; ``fingerprint``: 12 hex digits of its SHA-256.

    ``role``: raw and staging tables of a source, tables of rejects, tables of SQL files. ``upstream``: the table that it is made from; None for a
    table made from the topic itself. A table of rejects has the upstream of the table whose rejects it holds.
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


def definitions(project: Project, plan: Plan) -> dict[str, Definition]:
    """The definition of every table that is stored, upstream first. The plan must have no findings (``plan.require``)."""
    made: dict[str, Definition] = {}
    for source in project.sources.values():
        if source.raw:
            _add(made, f"raw.{source.name}", "raw", source.name, None, RAW, ("_partition",), {"topic": source.topic})
        contract = _contract(source)
        _add(made, f"staging.{source.name}", "staging", source.name, None, source.staging_schema, (), contract)
        _add(made, f"staging.{source.name}__rejected", "rejected", source.name, None, REJECTED, (), contract)
    for node in plan.nodes.values():
        content = _table(node, made[node.upstream])
        _add(made, node.name, "table", node.source, node.upstream, node.schema, node.partition_by, content)
        _add(made, f"{node.name}__rejected", "rejected", node.source, node.upstream, REJECTED, (), content)
    return made


def _add(
    made: dict[str, Definition],
    name: str,
    role: Role,
    source: str,
    upstream: str | None,
    schema: pa.Schema,
    partition_by: tuple[str, ...],
    content: Mapping[str, Any],
) -> None:
    values = {"format": 1, "table": name, "role": role, "kind": "append", **content}
    made[name] = Definition(name, "append", role, source, upstream, schema, partition_by, values, fingerprint(values))


def fingerprint(values: Mapping[str, Any]) -> str:
    """12 hex digits of the SHA-256 of the canonical JSON (sorted keys, no blanks, UTF-8)."""
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _contract(source: Source) -> dict[str, Any]:
    """What decides the rows of a staging table. Not in it: rules that warn, descriptions, event time, how files are loaded, the topic's settings."""
    return {
        "topic": source.topic,
        "format": source.format,
        "columns": [[name, column.type.name.lower(), column.not_null] for name, column in source.columns.items()],
        "key": list(source.key),
        "extra": source.extra,
        "null_values": source.null_values,
        "key_format": source.key_format,
        "max_record_bytes": source.max_record_bytes,
        "rules": {
            name: {"check": expression_text(parse_expression(rule.check)), "on_failure": rule.on_failure}
            for name, rule in source.rules.items()
            if rule.on_failure != "warn"
        },
        "duckdb": duckdb.__version__,
    }


def _table(node: Node, upstream: Definition) -> dict[str, Any]:
    """What decides the rows, the columns and the files of an append table."""
    return {
        "sql": node.sql,
        "columns": [[field.name, str(field.type)] for field in node.schema],
        "partition_by": list(node.partition_by),
        "upstream": {"table": node.upstream, "fingerprint": upstream.fingerprint},
        "duckdb": duckdb.__version__,
    }


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences that name what differs between two definitions' JSON; empty when they are equal."""
    found = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if name == "columns":
            found += _columns(before or [], after or [])
        elif name == "rules":
            found += _rules(before or {}, after or {})
        elif name == "sql":
            found.append(f"SQL changed: {before} -> {after}")
        elif name == "upstream" and before and after and before["table"] == after["table"]:
            found.append(f"upstream {after['table']} changed: {before['fingerprint']} -> {after['fingerprint']}")
        else:
            found.append(f"{_LABELS.get(name, name)}: {_show(before)} -> {_show(after)}")
    return found


_LABELS = {"duckdb": "DuckDB", "upstream": "upstream table", "partition_by": "partition_by"}


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        return str(value.get("table", dict(value)))
    if isinstance(value, list):
        return f"({', '.join(map(str, value))})"
    return "nothing" if value is None else str(value)


def _columns(before: list[list[Any]], after: list[list[Any]]) -> list[str]:
    old, new = ({name: _type(*rest) for name, *rest in columns} for columns in (before, after))
    found = [f"column {name} dropped" for name in old if name not in new]
    found += [f"column {name} added" for name in new if name not in old]
    found += [f"column {name}: {old[name]} -> {new[name]}" for name in new if name in old and old[name] != new[name]]
    if not found:
        found.append(f"order of columns: {', '.join(old)} -> {', '.join(new)}")
    return found


def _type(text: str, not_null: bool = False) -> str:
    return f"{text} not null" if not_null else text


def _rules(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = [f"rule {name} dropped" for name in before if name not in after]
    found += [f"rule {name} added" for name in after if name not in before]
    for name in after:
        if name in before and before[name] != after[name]:
            parts = [
                f"{part} {before[name][part]} -> {after[name][part]}" for part in after[name] if before[name][part] != after[name][part]
            ]
            found.append(f"rule {name}: {', '.join(parts)}")
    return found
