"""Contract types: DuckDB's names, the Arrow type of a decoded column, and what Delta stores.

The table in ``docs/types.md`` is the written form of ``storage_type``; a test keeps the two equal. DuckDB parses the type text,
so every spelling that DuckDB knows is known here (``int``, ``text``, ``decimal(10,2)``, ``struct(a integer)``, ``integer[]``).
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import duckdb.sqltypes
import pyarrow as pa

UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")

# Delta has no unsigned or 128-bit integers: each is stored in the next type that holds all of its values.
_SCALARS: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "utinyint": pa.int16(),
    "usmallint": pa.int32(),
    "uinteger": pa.int64(),
    "ubigint": pa.decimal128(20, 0),
    "hugeint": pa.decimal128(38, 0),
    "float": pa.float32(),
    "double": pa.float64(),
    "varchar": pa.string(),
    "json": pa.string(),
    "blob": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
    "timestamp with time zone": UTC_MICROSECONDS,
}

_INSTEAD: dict[str, str] = {
    "time": "varchar (Delta has no time of day)",
    "time with time zone": "varchar (Delta has no time of day)",
    "interval": "varchar, or a number with its unit in the column's name (Delta has no interval)",
    "uuid": "varchar (Delta has no uuid)",
    "enum": "varchar with a rule (Delta has no enum)",
    "timestamp_ns": "timestamp (Delta stores microseconds)",
    "timestamp_s": "timestamp",
    "timestamp_ms": "timestamp",
    "uhugeint": "varchar (Delta's widest decimal has 38 digits)",
    "bignum": "varchar (Delta's widest decimal has 38 digits)",
    "bit": "varchar or blob",
    "union": "one column for each member",
    "map": "map(varchar, ...), json, or a list of struct(key, value)",
    "array": "a list without a fixed length, such as integer[]",
}


class TypeRefused(ValueError):
    """A type that DuckDB knows and Delta cannot hold; ``instead`` says what to write."""

    def __init__(self, name: str, instead: str) -> None:
        super().__init__(f"type {name} cannot be stored in a Delta table: write {instead}")
        self.instead = instead


class TypeUnknown(ValueError):
    """A text that DuckDB does not know as a type."""


@dataclass(frozen=True, slots=True)
class ColumnType:
    """``name``: DuckDB's canonical spelling; ``arrow``: the Arrow type that is decoded, stored and bound in SQL."""

    name: str
    arrow: pa.DataType


def parse_type(text: str) -> ColumnType:
    """Parse a DuckDB type. Raises TypeUnknown, or TypeRefused when Delta cannot hold it."""
    try:
        parsed = duckdb.sqltype(text)
    except duckdb.Error as error:
        raise TypeUnknown(f"unknown type {text!r}") from error
    return ColumnType(str(parsed), storage_type(parsed))


def storage_type(parsed: object) -> pa.DataType:
    """The Arrow type under which Delta stores a DuckDB type. Raises TypeRefused."""
    assert isinstance(parsed, duckdb.sqltypes.DuckDBPyType)
    name = str(parsed).lower()
    if name in _SCALARS:
        return _SCALARS[name]
    kind = parsed.id
    if kind == "decimal":
        (_, precision), (_, scale) = parsed.children
        return pa.decimal128(precision, scale)
    if kind == "list":
        return pa.list_(storage_type(parsed.children[0][1]))
    if kind == "struct":
        return pa.struct([pa.field(field, storage_type(child)) for field, child in parsed.children])
    if kind == "map" and (keys := storage_type(parsed.children[0][1])) == pa.string():  # the names of a JSON object
        return pa.map_(keys, storage_type(parsed.children[1][1]))
    raise TypeRefused(str(parsed), _INSTEAD.get(kind, "a type of docs/types.md"))
