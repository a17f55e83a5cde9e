"""What flows through a dataflow: Arrow batches of one topic partition with their position range.

Everything here is columnar. A record is known by its offset; stages count records by collecting offsets, so that the ledger
counts and never subtracts (DESIGN invariant I3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import KappaError
from flows.types import UTC_MICROSECONDS

HEADERS = pa.list_(pa.struct([pa.field("name", pa.string()), pa.field("value", pa.binary())]))

# One row a Kafka record, in offset order.
RECORDS = pa.schema(
    [
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_timestamp", UTC_MICROSECONDS),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS),
    ]
)

# The columns of raw.<source>: the records as received.
RAW = pa.schema([pa.field("_partition", pa.int32(), nullable=False), *RECORDS])

# The columns of every <layer>.<table>__rejected: the record's bytes and why it was refused.
REJECTED = pa.schema(
    [
        *RAW,
        pa.field("code", pa.string(), nullable=False),
        pa.field("rule", pa.string()),
        pa.field("column", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)

# The system columns that kappa appends to every 1:1 table, in this order.
SYSTEM = pa.schema(
    [
        pa.field("_partition", pa.int32(), nullable=False),
        pa.field("_offset", pa.int64(), nullable=False),
        pa.field("_timestamp", UTC_MICROSECONDS),
    ]
)

NO_OFFSETS = pa.nulls(0, pa.int64())  # not pa.array, which imports pandas where it is installed: a quarter of a second


def fitted(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """``rows`` with the columns of ``schema`` by name, in its order, null where they have none; their types are as they were."""
    if rows.column_names == schema.names:
        return rows
    held = set(rows.column_names)
    columns = [rows.column(f.name) if f.name in held else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=pa.schema([f.with_type(column.type) for f, column in zip(schema, columns, strict=True)]))


class Position(NamedTuple):
    """One place in the log."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of ONE partition with their position range ``[start, end)``.

    ``records`` has the schema RECORDS, sorted by ``_offset``, every offset within the range. The range may be longer than the
    records (transaction markers, compaction) and ``records`` may be empty: then the batch only moves the position.
    ``mark``: the source asks every table to commit at the end of this batch's epoch. ``nbytes`` is a property of records.
    """

    topic: str
    partition: int
    start: int
    end: int
    records: pa.RecordBatch
    mark: bool = False

    def __post_init__(self) -> None:
        assert 0 <= self.start <= self.end, (self.start, self.end)
        if self.records.num_rows:
            offsets = self.records.column(0)
            assert self.start <= offsets[0].as_py() <= offsets[-1].as_py() < self.end, (self.start, self.end)


@dataclass(frozen=True, slots=True)
class Staged:
    """What the contract made of a batch.

    ``rows``: the columns of staging.<source> (contract columns in order, ``_extra`` varchar with extra = keep, then SYSTEM);
    ``rejects``: REJECTED rows, one a refused record; ``filtered``: offsets left out by policy (null_values = delete); ``deletes``: the keys
    of those, as far as the source has a key: its columns, then SYSTEM, None when there are none;
    ``warned``: rule name -> offsets of rows that broke a rule with on_failure = warn (they are in ``rows``).
    Every offset of the batch is in exactly one of rows, rejects and filtered.
    """

    rows: pa.Table
    rejects: pa.Table
    filtered: pa.Int64Array
    warned: Mapping[str, pa.Int64Array] = field(default_factory=dict)
    deletes: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a table's SQL made of its upstream's rows.

    ``rows``: the SELECT's columns, then SYSTEM (and ``_row`` int where unnest multiplies); ``filtered``: offsets that the SQL left
    out, found by evaluating its conditions; ``rejects``: REJECTED rows (code transform_error) for the records on which the SQL
    raised. Every input offset is in exactly one of the three. ``deleting``: offsets of records without a value, each of which
    is a tombstone among ``rows``.
    """

    rows: pa.Table
    filtered: pa.Int64Array
    rejects: pa.Table
    deleting: pa.Int64Array = field(default_factory=lambda: NO_OFFSETS)

    def left_out(self, filtered: pa.Int64Array) -> pa.Int64Array:
        """Of the upstream's filtered offsets those that this table leaves out as well."""
        return filtered.filter(pc.invert(pc.is_in(filtered, self.deleting))) if len(self.deleting) else filtered


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a table's branch stopped: shown by ``kappa tables`` and stored in an empty owner commit."""

    table: str
    cause: str
    positions: tuple[str, ...]
    next_step: str

    @classmethod
    def of(cls, table: str, error: Exception, positions: tuple[str, ...] = ()) -> Failure:
        """What an error means for a table."""
        if isinstance(error, KappaError):
            cause, next_step = error.what + (f": {error.cause}" if error.cause else ""), error.next_step or "kappa run"
        else:
            cause, next_step = f"{type(error).__name__}: {error}", "kappa run tries it again from the table's checkpoint"
        return cls(table, cause, positions, next_step)

    def inherited_by(self, table: str) -> Failure:
        """What it means for a table that derives from the failed one."""
        return replace(self, table=table, cause=f"its upstream {self.table} failed: {self.cause}")


@dataclass(frozen=True, slots=True)
class Slice:
    """One table's share of one batch: what the sink writes and counts.

    ``read``: offsets of the batch; ``rows``: rows of the table with SYSTEM columns; ``filtered`` and ``rejected``: offsets (by this table
    or an ancestor). The sink drops what lies below the table's own position, then counts: written = distinct offsets of rows.
    """

    topic: str
    partition: int
    start: int
    end: int
    read: pa.Int64Array
    rows: pa.Table
    filtered: pa.Int64Array
    rejected: pa.Int64Array
    warned: Mapping[str, pa.Int64Array] = field(default_factory=dict)
    mark: bool = False
    failure: Failure | None = None
