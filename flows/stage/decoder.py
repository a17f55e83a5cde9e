"""Values -> rows and refusals: the whole-batch path for the many, the tolerant path for those that it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.contract import EXTRA, Source
from flows.stage.block import BlockReader
from flows.stage.columns import Doubt
from flows.stage.record import RecordDecoder
from flows.stage.refusal import Refused

Indices = npt.NDArray[np.int64]

_GROUP = 8192  # records read at once: 0.2 ms of overhead a call, and a doubt costs no more than one group
_SMALLEST_GROUP = 32  # below this the tolerant path is quicker than another attempt
_PARTS = 8
_readers = ThreadPoolExecutor(min(2, os.cpu_count() or 1), "decode")  # one consuming thread feeds no more (measured)


@dataclass(slots=True)
class Decoded:
    """``rows``: contract columns and ``_extra``; ``indices``: which values they came from, ascending; ``refused``: the others."""

    rows: pa.Table
    indices: Indices
    refused: dict[int, Refused]


@dataclass(slots=True)
class _Pieces:
    tables: list[pa.Table] = field(default_factory=list)
    indices: list[Indices] = field(default_factory=list)
    left: list[Indices] = field(default_factory=list)

    def add(self, other: _Pieces) -> None:
        self.tables += other.tables
        self.indices += other.indices
        self.left += other.left


class Decoder:
    """Decodes values of format json or csv. ``tolerant_records`` counts those that went one by one.

    ``fast = False`` sends every record the tolerant way: the oracle of the tests.
    """

    def __init__(self, source: Source, *, fast: bool = True) -> None:
        extra = [EXTRA] if source.extra == "keep" else []
        self._schema = pa.schema([*source.contract_schema, *extra])
        # While rows that break "not null" are still among them, the columns are nullable.
        self._loose = pa.schema([column.with_nullable(True) for column in self._schema])
        self._record = RecordDecoder(source)
        self._block = BlockReader(source) if fast and BlockReader.possible(source) else None
        self.tolerant_records = 0

    def decode(self, values: pa.Array) -> Decoded:
        """``values``: binary, no nulls, each UTF-8."""
        pieces = _Pieces()
        everything = np.arange(len(values), dtype=np.int64)
        if self._block is None:
            pieces.left.append(everything)
        else:
            whole = self._block.readable(values)
            if whole.all():
                self._groups(values, everything, pieces)
            else:
                self._groups(values.filter(pa.array(whole)), everything[whole], pieces)
                pieces.left.append(everything[~whole])
        refused = self._one_by_one(values, pieces)
        return self._assemble(pieces, refused)

    def _groups(self, values: pa.Array, indices: Indices, pieces: _Pieces) -> None:
        """Read groups side by side: the reader, which takes most of the time, does not hold Python's lock."""

        def read(start: int) -> _Pieces:
            group = _Pieces()
            self._group(values.slice(start, _GROUP), indices[start : start + _GROUP], group)
            return group

        starts = range(0, len(values), _GROUP)
        for group in _readers.map(read, starts) if len(starts) > 1 else map(read, starts):
            pieces.add(group)

    def _group(self, values: pa.Array, indices: Indices, pieces: _Pieces, searched: bool = False) -> None:
        """Read a group at once; in doubt set the suspects aside, and without any look into its parts."""
        assert self._block is not None
        try:
            block = self._block.read(values)
        except Doubt:
            if len(values) <= _SMALLEST_GROUP:
                pieces.left.append(indices)
            elif not searched and (suspects := self._block.suspects(values)).any():
                pieces.left.append(indices[suspects])
                if not suspects.all():
                    self._group(values.filter(pa.array(~suspects)), indices[~suspects], pieces, searched=True)
            else:
                for part, part_indices in _parts(values, indices):
                    self._group(part, part_indices, pieces, searched=True)
            return
        batch = pa.RecordBatch.from_arrays(block.columns, schema=self._loose)
        if block.doubtful is not None:
            batch = batch.filter(pa.array(~block.doubtful))
            pieces.left.append(indices[block.doubtful])
            indices = indices[~block.doubtful]
        pieces.tables.append(batch)
        pieces.indices.append(indices)

    def _one_by_one(self, values: pa.Array, pieces: _Pieces) -> dict[int, Refused]:
        refused: dict[int, Refused] = {}
        rows: list[list[Any]] = []
        indices: list[int] = []
        for index in np.concatenate([np.empty(0, np.int64), *pieces.left]).tolist():
            self.tolerant_records += 1
            try:
                rows.append(self._record.decode(values[index].as_py()))
            except Refused as refusal:
                refused[index] = refusal.at(refusal.column)  # without its traceback, which would hold the batch in a cycle
            else:
                indices.append(index)
        if rows:
            columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), self._schema, strict=True)]
            pieces.tables.append(pa.RecordBatch.from_arrays(columns, schema=self._loose))
            pieces.indices.append(np.array(indices, np.int64))
        return refused

    def _assemble(self, pieces: _Pieces, refused: dict[int, Refused]) -> Decoded:
        """All rows in the order of the values."""
        table = pa.Table.from_batches(pieces.tables, schema=self._loose)
        indices = np.concatenate([np.empty(0, np.int64), *pieces.indices])
        if len(indices) > 1 and not (indices[1:] > indices[:-1]).all():
            order = np.argsort(indices, kind="stable")
            table, indices = table.take(pa.array(order)), indices[order]
        return Decoded(table.cast(self._schema), indices, refused)


def _parts(values: pa.Array, indices: Indices) -> Iterator[tuple[pa.Array, Indices]]:
    size = -(-len(values) // _PARTS)
    for start in range(0, len(values), size):
        yield values.slice(start, size), indices[start : start + size]
