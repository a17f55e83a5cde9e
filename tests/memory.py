"""An in-memory log that drives the real dataflow builder, for property tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from bytewax.inputs import DynamicSource, StatelessSourcePartition

from flows.batch import RECORDS, Batch

TOPIC = "log"


@dataclass(frozen=True)
class Record:
    """A record of the log at an offset of its own (offsets need not be dense)."""

    offset: int
    value: bytes | None
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()


def records_batch(records: Iterable[Record]) -> pa.RecordBatch:
    """Schema RECORDS; the timestamp is the offset in milliseconds."""
    rows = list(records)
    return pa.RecordBatch.from_arrays(
        [
            pa.array([r.offset for r in rows], pa.int64()),
            pa.array([r.offset * 1000 for r in rows], pa.int64()).cast(RECORDS.field("_timestamp").type),
            pa.array([r.key for r in rows], pa.binary()),
            pa.array([r.value for r in rows], pa.binary()),
            pa.array([[{"name": n, "value": v} for n, v in r.headers] or None for r in rows], RECORDS.field("headers").type),
        ],
        schema=RECORDS,
    )


def split(log: dict[int, list[Record]], starts: dict[int, int], cuts: list[int], marks: list[bool]) -> list[Batch]:
    """Batches of a log from ``starts``; ``cuts`` (sizes) and ``marks`` are used in turn; the last batch is always marked."""
    batches = []
    turn = 0
    waiting = {p: [r for r in rows if r.offset >= starts[p]] for p, rows in log.items()}
    positions = dict(starts)
    while any(waiting.values()):
        for partition in sorted(waiting):
            size = cuts[turn % len(cuts)]
            taken, waiting[partition] = waiting[partition][:size], waiting[partition][size:]
            end = taken[-1].offset + 1 if taken else positions[partition]
            mark = marks[turn % len(marks)]
            batches.append(Batch(TOPIC, partition, positions[partition], end, records_batch(taken), mark))
            positions[partition] = end
            turn += 1
    if not batches:
        partition = min(starts)
        batches.append(Batch(TOPIC, partition, starts[partition], starts[partition], records_batch([])))
    last = batches[-1]
    batches[-1] = Batch(last.topic, last.partition, last.start, last.end, last.records, mark=True)
    return batches


class MemorySource(DynamicSource[Batch]):
    """Gives the batches in order, each worker those of its partitions; stops before batch ``crash_at`` without a last mark."""

    def __init__(self, batches: list[Batch], crash_at: int | None = None) -> None:
        self.batches = batches[:crash_at]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[Batch]:
        mine = [b for b in self.batches if b.partition % worker_count == worker_index]
        return _MemoryLane(mine)


class _MemoryLane(StatelessSourcePartition[Batch]):
    def __init__(self, batches: list[Batch]) -> None:
        self._batches = iter(batches)

    def next_batch(self) -> list[Batch]:
        return [next(self._batches)]
