"""The types under which Delta stores what a query gives, and the casts that make them exact."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from flows.sql.bind import Binder, Bound
from flows.sql.tree import Problem, SqlRefused, quoted
from flows.types import TypeRefused, storage_type

COLUMN_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,126}$")


def stored_schema(columns: Sequence[Bound]) -> pa.Schema:
    """The Arrow fields under which a query's columns are stored. Raises SqlRefused: a type that Delta cannot hold, a column without a name."""
    return pa.schema([pa.field(column.name, _stored_type(column)) for column in columns])


def _stored_type(column: Bound) -> pa.DataType:
    if not COLUMN_NAME.match(column.name):
        raise SqlRefused(Problem(1, f"the column {column.name} has no name that a table can hold", f"{column.name} AS name"))
    if str(column.type) in ('"NULL"', "NULL"):
        raise SqlRefused(Problem(1, f"the column {column.name} is NULL without a type", f"CAST(NULL AS varchar) AS {column.name}"))
    try:
        return storage_type(column.type)
    except TypeRefused as refused:
        fix = f"CAST({column.name} AS ...): {refused.instead}"
        raise SqlRefused(Problem(1, f"the column {column.name} is {column.type}, which Delta cannot hold", fix)) from refused


def cast_sql(sql: str, columns: Sequence[Bound], kept: Sequence[str], binder: Binder) -> str:
    """``sql`` with its ``columns`` cast to their stored types where those differ; ``kept`` names the columns that follow as they are."""
    binder.add_table("_stored", stored_schema(columns))
    targets = [bound.type for bound in binder.columns("SELECT * FROM _stored")]
    if all(str(column.type) == str(target) for column, target in zip(columns, targets, strict=True)):
        return sql
    items = [
        quoted(column.name) if str(column.type) == str(target) else f"CAST({quoted(column.name)} AS {target}) AS {quoted(column.name)}"
        for column, target in zip(columns, targets, strict=True)
    ]
    return f"SELECT {', '.join([*items, *map(quoted, kept)])} FROM ({sql})"
