"""The types under which Delta stores what a query gives, and the casts that make them exact."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from flows.sql.bind import Binder, Bound
from flows.sql.rewrite import Parts, true
from flows.sql.tree import Problem, SqlRefused, quoted
from flows.types import TypeRefused, storage_type

COLUMN_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,126}$")
_OWN = frozenset({"_sequence", "_deleted"})  # what kappa adds to the SELECT of an upsert table


def stored_schema(columns: Sequence[Bound], lines: Mapping[str, int]) -> pa.Schema:
    """The fields under which a query's columns are stored; ``lines``: column -> its line.

    Raises SqlRefused: a type that Delta cannot hold, a column without a name.
    """
    return pa.schema([pa.field(column.name, _stored_type(column, lines.get(column.name, 1))) for column in columns])


def _stored_type(column: Bound, line: int) -> pa.DataType:
    if column.name not in _OWN and not COLUMN_NAME.match(column.name):
        raise SqlRefused(Problem(line, f"the column {column.name} has no name that a table can hold", f"{column.name} AS name"))
    try:
        return storage_type(column.type)
    except TypeRefused as refused:
        fix = f"CAST({column.name} AS ...): {refused.instead}"
        raise SqlRefused(Problem(line, f"the column {column.name} is {column.type}, which Delta cannot hold", fix)) from refused


def casts(columns: Sequence[Bound], schema: pa.Schema, binder: Binder) -> dict[str, str]:
    """column -> DuckDB type, for the columns whose type in ``schema``, where they are stored, is another one than the query gives."""
    binder.add_table("_stored", schema)
    targets = [str(bound.type) for bound in binder.columns("SELECT * FROM _stored")]
    return {column.name: target for column, target in zip(columns, targets, strict=True) if str(column.type) != target}


def cast_sql(sql: str, columns: Sequence[str], targets: Mapping[str, str]) -> str:
    """``sql``, which gives ``columns``, with those in ``targets`` cast to their stored types."""
    if not any(name in targets for name in columns):
        return sql
    items = (f"CAST({quoted(name)} AS {targets[name]}) AS {quoted(name)}" if name in targets else quoted(name) for name in columns)
    return f"SELECT {', '.join(items)} FROM ({sql})"


def probe_sql(parts: Parts, targets: Mapping[str, str]) -> str:
    """A query that gives, for each row, ``_offset`` and one boolean for each part (the condition first): whether it raises.

    ``TRY`` gives NULL when an expression raises, and ``struct_pack`` is never NULL itself.
    """
    flags = []
    if parts.where is not None:
        flags.append(f"TRY({true(parts.where.sql)}) IS NULL")
    for part in parts.items:
        value = f"CAST({part.sql} AS {targets[part.label]})" if part.label in targets else part.sql
        raises = f"TRY(struct_pack(v := {value})) IS NULL"
        flags.append(f"CASE WHEN TRY({true(parts.where.sql)}) THEN {raises} ELSE false END" if parts.where is not None else raises)
    return f"SELECT _offset, {', '.join(f'{flag} AS f{number}' for number, flag in enumerate(flags))} {parts.source}"
