"""Statistics of a data file, in Delta's JSON: readers skip files by them, so a bound that is too narrow hides rows.

Bounds come from the Parquet footer, which the writer computes anyway. Times are widened to whole milliseconds and long strings are
cut upward for the maximum (deltalake 1.6.6 cuts the maximum of a timestamp downward, and clips wide decimals to 64 bits).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

MAX_CHARACTERS = 32
INDEXED_LEAVES = 32  # Delta's default number of columns with statistics; the system columns always have them
_EPOCH = datetime(1970, 1, 1)
_ENCODER = msgspec.json.Encoder(decimal_format="number")
_SURROGATES = range(0xD800, 0xE000)


class FileStats:
    """Gathers what a Parquet footer does not know (nulls of lists, NaN) while a file is written, and joins the two at the end."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._list_nulls = {field.name: 0 for field in schema if _is_list(field.type)}
        self._nan: set[str] = set()

    def add(self, rows: pa.Table) -> None:
        """Look at rows that go into the file."""
        for name in self._list_nulls:
            self._list_nulls[name] += rows.column(name).null_count
        for field in self._schema:
            if pa.types.is_floating(field.type) and field.name not in self._nan and pc.any(pc.is_nan(rows.column(field.name))).as_py():
                self._nan.add(field.name)

    def to_json(self, footer: pq.FileMetaData) -> str:
        """Delta's ``stats``: numRecords, minValues, maxValues, nullCount."""
        least: dict[str, Any] = {}
        most: dict[str, Any] = {}
        nulls: dict[str, Any] = {}
        for number, (path, leaves, dtype) in enumerate(_leaves(self._schema)):
            if number >= INDEXED_LEAVES and not path[0].startswith("_"):
                continue
            if _is_list(dtype):
                if len(path) == 1:
                    nulls[path[0]] = self._list_nulls[path[0]]
                continue
            columns = [footer.row_group(group).column(leaves).statistics for group in range(footer.num_row_groups)]
            if any(column is None for column in columns):
                continue
            _put(nulls, path, sum(column.null_count for column in columns))
            unsure = pa.types.is_floating(dtype) and (len(path) > 1 or path[0] in self._nan)
            low, high = (None, None) if unsure else _bounds(columns, dtype)
            if low is not None and high is not None:
                _put(least, path, low)
                _put(most, path, high)
        stats = {"numRecords": footer.num_rows, "minValues": least, "maxValues": most, "nullCount": nulls}
        return _ENCODER.encode(stats).decode()


def _leaves(schema: pa.Schema) -> Iterator[tuple[tuple[str, ...], int, pa.DataType]]:
    """(path, index of the Parquet column, type) of every leaf; a list or map counts as one leaf, whatever it holds."""
    column = 0

    def walk(path: tuple[str, ...], dtype: pa.DataType) -> Iterator[tuple[tuple[str, ...], int, pa.DataType]]:
        nonlocal column
        if pa.types.is_struct(dtype):
            for child in dtype:
                yield from walk((*path, child.name), child.type)
            return
        yield path, column, dtype
        column += _width(dtype)

    for field in schema:
        yield from walk((field.name,), field.type)


def _is_list(dtype: pa.DataType) -> bool:
    """Whether the footer knows no number of nulls for it: a list, or a map, which is a list of entries."""
    return bool(pa.types.is_list(dtype) or pa.types.is_map(dtype))


def _width(dtype: pa.DataType) -> int:
    """How many Parquet columns a type takes."""
    if _is_list(dtype):
        return _width(dtype.value_type if pa.types.is_list(dtype) else pa.struct([dtype.key_field, dtype.item_field]))
    if pa.types.is_struct(dtype):
        return sum(_width(child.type) for child in dtype)
    return 1


def _bounds(columns: list[pq.Statistics], dtype: pa.DataType) -> tuple[Any, Any]:
    """The least and greatest value as JSON values; (None, None) where there is none, or none that can be said safely."""
    known = [column for column in columns if column.has_min_max]
    if len(known) < sum(1 for column in columns if column.num_values):
        return None, None  # the footer leaves out bounds that are too long
    if not known or pa.types.is_boolean(dtype) or pa.types.is_binary(dtype):
        return None, None
    if pa.types.is_temporal(dtype):
        low, high = min(column.min_raw for column in known), max(column.max_raw for column in known)
        return (_day(low), _day(high)) if pa.types.is_date(dtype) else (_time(low // 1000, dtype), _time(-(-high // 1000), dtype))
    low, high = min(column.min for column in known), max(column.max for column in known)
    if pa.types.is_string(dtype):
        return low[:MAX_CHARACTERS], _cut_up(high)
    if pa.types.is_floating(dtype) and (low == float("-inf") or high == float("inf")):
        return None, None
    return low, high


def _time(milliseconds: int, dtype: pa.TimestampType) -> str | None:
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds") + ("Z" if dtype.tz else "")


def _day(days: int) -> str | None:
    try:
        return (_EPOCH.date() + timedelta(days=days)).isoformat()
    except OverflowError:
        return None


def _cut_up(text: str) -> str | None:
    """A short string that is not less than ``text`` in UTF-8 order; None when there is none."""
    if len(text) <= MAX_CHARACTERS:
        return text
    for end in range(MAX_CHARACTERS, 0, -1):
        following = ord(text[end - 1]) + 1
        if following in _SURROGATES:
            following = _SURROGATES.stop
        if following <= 0x10FFFF:
            return text[: end - 1] + chr(following)
    return None


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value
