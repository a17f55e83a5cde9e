"""The ledger: the counts of the log's records in each commit, and who wrote it.

read = written + filtered + rejected, each counted by position and never by subtraction (DESIGN invariant I3). JSON shapes: docs/formats.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import Slice


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """The process that commits."""

    host: str
    pid: int
    started_at: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, started {self.started_at}"


@dataclass(frozen=True, slots=True)
class LogIdentity:
    """The log that positions belong to: Kafka's cluster id, and topic name -> topic id."""

    cluster: str
    topics: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Span:
    """Counts of the records of one topic partition in ``[start, end)``."""

    start: int
    end: int
    read: int
    written: int
    filtered: int
    rejected: int

    @property
    def balanced(self) -> bool:
        return self.read == self.written + self.filtered + self.rejected

    def then(self, after: Span) -> Span:
        """This span followed by the next one: they must join without gap or overlap."""
        assert self.end == after.start, (self, after)
        return Span(
            self.start,
            after.end,
            self.read + after.read,
            self.written + after.written,
            self.filtered + after.filtered,
            self.rejected + after.rejected,
        )

    def since(self, before: Span) -> Span:
        """What has come after ``before``, from whose start this span also counts."""
        assert self.start == before.start, (self, before)
        return Span(
            before.end,
            self.end,
            self.read - before.read,
            self.written - before.written,
            self.filtered - before.filtered,
            self.rejected - before.rejected,
        )

    def to_json(self) -> dict[str, int]:
        values = asdict(self)
        return {"from": values.pop("start"), "to": values.pop("end"), **values}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Span:
        return cls(values["from"], values["to"], values["read"], values["written"], values["filtered"], values["rejected"])


def count(part: Slice) -> Span:
    """Count a slice: written = distinct offsets of its rows."""
    return Span(
        part.start,
        part.end,
        read=len(part.read),
        written=pc.count_distinct(part.rows.column("_offset")).as_py() if part.rows.num_rows else 0,
        filtered=len(part.filtered),
        rejected=len(part.rejected),
    )


def drop_below(part: Slice, position: int) -> Slice | None:
    """What of a slice a table that has already committed up to ``position`` still needs; None when it holds all of it."""
    if part.start >= position:
        return part
    if part.end <= position:
        return None
    rows = part.rows.filter(pc.greater_equal(part.rows.column("_offset"), position))
    return Slice(
        part.topic,
        part.partition,
        position,
        part.end,
        _from(part.read, position),
        rows,
        _from(part.filtered, position),
        _from(part.rejected, position),
        {rule: _from(offsets, position) for rule, offsets in part.warned.items()},
        part.mark,
        part.failure,
    )


def _from(offsets: pa.Int64Array, position: int) -> pa.Int64Array:
    return offsets.filter(pc.greater_equal(offsets, position))
