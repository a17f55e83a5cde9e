"""Rows that a table should hold against those it holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_ROW = "_row"


@dataclass(frozen=True, slots=True)
class Difference:
    """Offsets that are missing, that should not be there, and whose rows differ (with the columns that do)."""

    missing: list[int]
    extra: list[int]
    changed: list[int]
    columns: list[str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.extra or self.changed)


def compare(expected: pa.Table, actual: pa.Table) -> Difference:
    """Both sorted by position. Values are compared bit for bit, so that NaN equals NaN and 0.0 differs from -0.0."""
    ours, theirs = _positions(expected), _positions(actual)
    if ours != theirs:
        missing, extra = _surplus(ours, theirs), _surplus(theirs, ours)
        return Difference(missing, extra, [], [])
    offsets = expected.column("_offset").to_numpy()
    changed: set[int] = set()
    columns = []
    for field in expected.schema:
        rows = _differing(expected.column(field.name), actual.column(field.name))
        if rows:
            columns.append(field.name)
            changed.update(int(offsets[row]) for row in rows)
    return Difference([], [], sorted(changed), columns)


def _positions(table: pa.Table) -> list[tuple[int, int]]:
    offsets = table.column("_offset").to_pylist()
    ordinals = table.column(_ROW).to_pylist() if _ROW in table.schema.names else [0] * len(offsets)
    return list(zip(offsets, ordinals, strict=True))


def _surplus(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> list[int]:
    """Offsets of what is in ``these`` and not in ``those``, counting repetitions."""
    left = Counter(these)
    left.subtract(Counter(those))
    return sorted({offset for (offset, _), number in left.items() if number > 0})


def _differing(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> list[int]:
    """Row numbers whose values differ."""
    if ours.type != theirs.type:
        theirs = theirs.cast(ours.type)
    if pa.types.is_floating(ours.type):
        bits = np.uint32 if ours.type == pa.float32() else np.uint64
        nulls = np.asarray(ours.is_null()) != np.asarray(theirs.is_null())
        values = [column.fill_null(0.0).to_numpy().view(bits) for column in (ours, theirs)]
        return [int(row) for row in np.flatnonzero(nulls | (values[0] != values[1]))]
    if ours.equals(theirs):
        return []
    return [row for row, (a, b) in enumerate(zip(ours.to_pylist(), theirs.to_pylist(), strict=True)) if repr(a) != repr(b)]
