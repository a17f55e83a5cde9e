"""The contract's types as trees that both decoders walk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
import duckdb.sqltypes
import pyarrow as pa

from flows.contract import Column
from flows.types import storage_type

# DuckDB's integers with the range of the contract's own type, which can be narrower than the stored one's.
INTEGERS: dict[str, tuple[int, int]] = {
    "tinyint": (-(2**7), 2**7 - 1),
    "smallint": (-(2**15), 2**15 - 1),
    "integer": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
    "utinyint": (0, 2**8 - 1),
    "usmallint": (0, 2**16 - 1),
    "uinteger": (0, 2**32 - 1),
    "ubigint": (0, 2**64 - 1),
    "hugeint": (-(10**38) + 1, 10**38 - 1),  # what decimal(38,0) holds; DuckDB's own range is 1.7 times wider
}
FLOATS = ("float", "double")
TIMES = ("date", "timestamp", "timestamptz")


@dataclass(frozen=True, slots=True)
class Scalar:
    """``name``: a key of INTEGERS, one of FLOATS or TIMES, decimal, varchar, boolean, blob or json. ``title``: as people write it."""

    name: str
    title: str
    arrow: pa.DataType

    @property
    def noun(self) -> str:
        """``an integer``, ``a date``: for sentences."""
        return f"{'an' if self.title[0] in 'aeiou' else 'a'} {self.title}"


@dataclass(frozen=True, slots=True)
class List:
    """A list of one kind."""

    item: Kind
    title: str
    arrow: pa.DataType


@dataclass(frozen=True, slots=True)
class Struct:
    """Named fields, all of them nullable."""

    fields: Mapping[str, Kind]
    title: str
    arrow: pa.DataType


@dataclass(frozen=True, slots=True)
class Map:
    """Values of one kind under any names."""

    item: Kind
    title: str
    arrow: pa.DataType


Kind = Scalar | List | Struct | Map


def kind_of(column: Column) -> Kind:
    """The tree of a column's type. Raises TypeUnknown or TypeRefused (flows.types)."""
    return _kind(duckdb.sqltype(column.type.name))


def _kind(parsed: object) -> Kind:
    assert isinstance(parsed, duckdb.sqltypes.DuckDBPyType)
    arrow = storage_type(parsed)
    title = str(parsed).lower()
    if parsed.id == "list":
        (_, item), *_ = parsed.children
        return List(_kind(item), title, arrow)
    if parsed.id == "map":
        _, (_, item) = parsed.children
        return Map(_kind(item), title, arrow)
    if parsed.id == "struct":
        return Struct({name: _kind(child) for name, child in parsed.children}, title, arrow)
    if parsed.id == "decimal":
        return Scalar("decimal", title, arrow)
    title = "timestamptz" if title == "timestamp with time zone" else title
    return Scalar(title, title, arrow)


def holds_json(kind: Kind) -> bool:
    """Whether a value of this kind keeps some of the original text."""
    if isinstance(kind, Struct):
        return any(map(holds_json, kind.fields.values()))
    return kind.name == "json" if isinstance(kind, Scalar) else holds_json(kind.item)


def is_left(kind: Kind) -> bool:
    """Whether the whole-batch path leaves a column's values as texts, to be read one by one: their names or bytes are no columns."""
    if isinstance(kind, Struct):
        return any(map(is_left, kind.fields.values()))
    return kind.name == "json" if isinstance(kind, Scalar) else isinstance(kind, Map) or is_left(kind.item)


def field_names(kind: Kind) -> Iterator[str]:
    """The names of all fields within a struct, list or map."""
    if isinstance(kind, (List, Map)):
        yield from field_names(kind.item)
    elif isinstance(kind, Struct):
        for name, field in kind.fields.items():
            yield name
            yield from field_names(field)


def is_escaped(name: str) -> bool:
    """Whether JSON cannot hold the name as it is."""
    return any(letter in '\\"' or letter < " " for letter in name)
