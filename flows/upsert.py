"""Upsert tables: one row a key, the latest by (sequence, partition, offset), deletes kept as hidden tombstones.

Which of two rows of a key stays is decided by the rows alone, so that neither batch boundaries nor the order of arrival show in the table.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import SYSTEM
from flows.contract import Source
from flows.project import TableFile
from flows.sql.bind import Binder, Bound, near
from flows.sql.gates import expression_problems
from flows.sql.rewrite import ROW
from flows.sql.tree import Node, Problem, SqlRefused, parse_expression, quoted, text, walk

SEQUENCE = "_sequence"
DELETED = "_deleted"


@dataclass(frozen=True, slots=True)
class Upsert:
    """How the rows of a table replace one another. ``key``: columns, never null; ``sequence``: the column whose greatest value is the
    latest (nulls first), None when the log's own order decides; ``tombstone_retention_s``: how long deleted keys are remembered (None:
    for ever); ``delete_key``: for each column of the key that of the source's key, where a record without a value deletes a row; else
    empty.
    """

    key: tuple[str, ...]
    sequence: str | None
    tombstone_retention_s: float | None = None
    delete_key: tuple[str, ...] = ()

    @property
    def cluster(self) -> tuple[str, ...]:
        """The key in the order by which files are cut: the sequence first where it is part of the key, so that recent keys lie together."""
        first = [name for name in self.key if name == self.sequence]
        return (*first, *(name for name in self.key if name not in first))

    @property
    def open_sequence(self) -> str | None:
        """The column of the sequence, when deletes may come without one: records without a value have the key alone."""
        return self.sequence if self.delete_key and self.sequence not in self.key else None

    def order(self, row: bool) -> tuple[str, ...]:
        """The columns by which the latest row of a key is chosen, nulls first. ``row``: a record may have several rows."""
        sequence = () if self.sequence is None else (self.sequence,)
        return (*sequence, "_partition", "_offset", *(("_row",) if row else ()))


@dataclass(frozen=True, slots=True)
class Declared:
    """An upsert table as declared: how rows replace one another, and the query with the columns that kappa adds to the SELECT."""

    upsert: Upsert
    tree: Node
    added: tuple[str, ...]


def declare(table: TableFile, source: Source, tree: Node, columns: list[Bound], binder: Binder) -> Declared:
    """Check the settings of an upsert table, whose SELECT ``tree`` gives ``columns``. Raises SqlRefused, with the setting's name."""
    names = {column.name.lower(): column.name for column in columns}
    key = _key(table, source, names)
    for name in key:
        _check_key_type(name, next(column for column in columns if column.name == name))
    added = {DELETED: "false"}
    if table.settings.delete_when is not None:
        _bind("delete_when", table.settings.delete_when, tree, binder)
        added[DELETED] = f"coalesce({table.settings.delete_when}, false)"
    sequence = _sequence(table, source, tree, names, binder)
    if sequence is not None and sequence.lower() not in names:
        added = {SEQUENCE: sequence, **added}
    column = None if sequence is None else names.get(sequence.lower(), SEQUENCE)
    extended = copy.deepcopy(tree)
    extended["select_list"] += [{**parse_expression(sql), "alias": name} for name, sql in added.items()]
    return Declared(Upsert(key, column, table.settings.tombstone_retention_s), extended, tuple(added))


def _key(table: TableFile, source: Source, names: Mapping[str, str]) -> tuple[str, ...]:
    written = table.settings.key or source.key
    if not written:
        raise _refused(
            "key", "an upsert table needs a key, and neither it nor its source names one", f'key = ["{next(iter(names.values()))}"]'
        )
    by_default = "" if table.settings.key else ", by default the source's,"
    for name in written:
        if name.lower() not in names:
            cause = f"the key{by_default} names {name}, which the SELECT does not give"
            raise _refused("key", cause, near(name, list(names.values()), f"SELECT {name}, ..."))
    return tuple(dict.fromkeys(names[name.lower()] for name in written))


def _check_key_type(name: str, column: Bound) -> None:
    if column.type.id in ("float", "double", "list", "array", "struct", "map", "union", "variant"):
        fix = f"a column of another type: CAST({name} AS decimal(18,3)), or to_json({name}) AS {name}"
        raise _refused("key", f"the key column {name} is {column.type}, whose equality is not that of a key", fix)


def _sequence(table: TableFile, source: Source, tree: Node, names: Mapping[str, str], binder: Binder) -> str | None:
    """The column or expression of the sequence; None when the order of one partition is enough."""
    written = table.settings.sequence
    if written is not None:
        if written.lower() not in names:
            _bind("sequence", written, tree, binder)
        return written
    if source.event_time is not None:
        if source.event_time.lower() not in names:
            try:
                _bind("sequence", quoted(source.event_time), tree, binder)
            except SqlRefused:
                cause = f"the sequence is by default the source's event time {source.event_time}, which does not come as far as this SELECT"
                raise _refused("sequence", cause, 'sequence = "a column or expression that grows with each newer version"') from None
            return quoted(source.event_time)
        return source.event_time
    if source.partitions > 1:
        cause = f"without a sequence the order of the log decides, and {source.name} has {source.partitions} partitions: none between them"
        raise _refused("sequence", cause, f'sequence = "updated_at", or event_time in sources/{source.name}.toml')
    return None


def _bind(setting: str, expression: str, tree: Node, binder: Binder) -> None:
    """Check an expression of the settings as an item of the SELECT. Raises SqlRefused, with the setting's name."""
    try:
        parsed = parse_expression(expression)
        for problem in expression_problems(parsed, expression, binder):
            raise SqlRefused(problem)
        if any(node.get("class") == "STAR" or node.get("function_name") == "unnest" for node in walk(parsed)):
            raise SqlRefused(Problem(0, "* and unnest give several values", "an expression with one value"))
        (column,) = binder.columns(text({**tree, "select_list": [*tree["select_list"], {**parsed, "alias": "kappa_setting"}]}))[-1:]
    except SqlRefused as refused:
        raise _refused(setting, refused.problem.cause, refused.problem.fix) from None
    if setting == "delete_when" and column.type.id != "boolean":
        raise _refused(setting, f"the condition is {column.type}, not true or false", f"{expression} = ..., or {expression} IS NOT NULL")
    if setting == "sequence" and column.type.id in ("list", "array", "struct", "map", "union", "boolean", "variant"):
        raise _refused(setting, f"the sequence is {column.type}, which has no order of versions", "a number, a time or a text")


def _refused(setting: str, cause: str, fix: str) -> SqlRefused:
    return SqlRefused(Problem(0, cause, fix, setting))


def check_partitions(
    node_partition_by: tuple[str, ...], upsert: Upsert, lineage: Mapping[str, frozenset[str]], bare: Mapping[str, str]
) -> None:
    """A partition column must be a function of the key: else a newer row could lie in another partition than the one that it replaces.

    ``lineage``: column -> what it reads of the upstream; ``bare``: columns that are the upstream's as they are. Raises SqlRefused.
    """
    known = {bare[name] for name in upsert.key if name in bare}
    for name in node_partition_by:
        if name not in upsert.key and not lineage.get(name, frozenset({""})) <= known:
            cause = (
                f"partition_by names {name}, which is not computed from the key alone: a newer row of a key could lie in another partition"
            )
            raise _refused("partition_by", cause, f"a column computed from {', '.join(upsert.key)}, or {name} as part of the key")


def take_null_values(upsert: Upsert, source: Source, upstream: str, bare: Mapping[str, str], partition_by: tuple[str, ...]) -> Upsert:
    """``upsert`` with the deletes of a source that says ``null_values = "delete"``: a record without a value names its Kafka key alone.

    ``bare``: columns that are the upstream's as they are. Raises SqlRefused when the Kafka key does not say which row is meant.
    """
    if source.null_values != "delete":
        return upsert
    deletes = f'a record of {source.name} without a value deletes a row (null_values = "delete")'
    if not source.key:
        raise _refused("key", f"{deletes}, and the source has no key to name it by", f"key = [...] in sources/{source.name}.toml")
    if upstream != f"staging.{source.name}":
        raise _refused("key", f"{deletes}, and {upstream} does not pass it on", f"FROM staging.{source.name}")
    found = tuple(bare.get(name, "") for name in upsert.key)
    if sorted(found) != sorted(source.key):
        cause = f"{deletes} by its Kafka key, which is {', '.join(source.key)}, and the key here is {', '.join(upsert.key)}"
        fix = f'key = the columns {", ".join(source.key)} as they are; or null_values = "reject" there and delete_when here'
        raise _refused("key", cause, fix)
    for name in partition_by:
        if name not in upsert.key:
            cause = f"partition_by names {name}, which is computed: {deletes}, and has nothing but its key"
            raise _refused("partition_by", cause, f"one of {', '.join(upsert.key)}")
    return replace(upsert, delete_key=found)


def tombstones(schema: pa.Schema, upsert: Upsert, deletes: pa.Table) -> pa.Table:
    """Rows of an upsert table: a tombstone for each of ``deletes``, which are the source's key and SYSTEM of records without a value.

    Its sequence is null: what it deletes is known where the table's rows are (sinks.merge).
    """
    given = dict(zip(upsert.key, upsert.delete_key, strict=True)) | {name: name for name in SYSTEM.names}
    count = deletes.num_rows
    columns = [
        pa.repeat(pa.scalar(True), count)
        if field.name == DELETED
        else deletes.column(given[field.name]).cast(field.type)
        if field.name in given
        else pa.repeat(pa.scalar(0, field.type), count)
        if field.name == ROW
        else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def without_values(rows: pa.Table, kept: tuple[str, ...]) -> pa.Table:
    """Tombstones without what was deleted: only ``kept`` and the columns that begin with ``_`` keep their values."""
    deleted: Any = rows.column(DELETED)
    if not pc.any(deleted).as_py():
        return rows
    for number, field in enumerate(rows.schema):
        if field.name not in kept and not field.name.startswith("_"):
            empty = pc.if_else(deleted, pa.scalar(None, field.type), rows.column(number))
            rows = rows.set_column(number, field, empty)
    return rows
