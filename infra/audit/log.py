"""The log as an audit reads it: the topic, and the raw table for what the topic no longer holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from connectors.extent import Extent, extent
from connectors.log import committed_offsets, committed_records
from connectors.pace import Pace
from connectors.topics import log_identity, partitions
from flows.batch import RECORDS
from flows.ledger import LogIdentity, Span
from infra.audit.findings import Proof
from infra.audit.rows import CHUNK_OFFSETS, Rows

CHUNK_RECORDS = 20_000


@dataclass(frozen=True, slots=True)
class TopicLog:
    """One topic as it is now. ``raw``: its raw table, with ``raw_spans``: partition -> what that table has committed; None
    without one. ``pace``: how fast the topic is read.
    """

    config: Mapping[str, str]
    topic: str
    identity: LogIdentity
    extent: Extent
    raw: Rows | None
    raw_spans: Mapping[int, Span]
    pace: Pace

    @classmethod
    def open(cls, config: Mapping[str, str], topic: str, raw: Rows | None, raw_spans: Mapping[int, Span], pace: Pace) -> TopicLog:
        """Raises TopicMissing, TopicRefused, KafkaUnreachable or KafkaFailed."""
        held = extent(config, topic, partitions(config, topic))
        return cls(config, topic, log_identity(config, [topic]), held, raw, raw_spans, pace)

    def reaches(self, partition: int) -> int:
        """The least offset that can be read again."""
        low, span = self.extent.low[partition], self.raw_spans.get(partition)
        return span.start if span is not None and span.start < low <= span.end else low

    def records(self, partition: int, start: int, end: int) -> Iterator[pa.RecordBatch]:
        """The committed records in ``[start, end)`` as batches of RECORDS; ``start`` must not be below ``reaches``."""
        low = self.extent.low[partition]
        if start < low and self.raw is not None:
            for piece in range(start, min(low, end), CHUNK_RECORDS):
                rows = self.raw.read(partition, piece, min(piece + CHUNK_RECORDS, low, end))
                yield from rows.select(RECORDS.names).cast(RECORDS).combine_chunks().to_batches()
        for records in committed_records(self.config, self.topic, partition, max(start, low), end, self.pace.most(CHUNK_RECORDS)):
            yield records
            self.pace.wait(records.num_rows)

    def offsets(self, partition: int, start: int, end: int) -> Iterator[npt.NDArray[np.int64]]:
        """The offsets of the same records."""
        low = self.extent.low[partition]
        if start < low and self.raw is not None:
            for piece in range(start, min(low, end), CHUNK_OFFSETS):
                yield self.raw.offsets(partition, piece, min(piece + CHUNK_OFFSETS, low, end))
        for offsets in committed_offsets(self.config, self.topic, partition, max(start, low), end, self.pace.most(CHUNK_RECORDS)):
            yield offsets
            self.pace.wait(len(offsets))


def count(log: TopicLog, partition: int, proofs: list[Proof]) -> None:
    """Count the committed records of a partition once, for every table's own span, and compare with the ledgers' ``read``."""
    reaches, stable = log.reaches(partition), log.extent.stable[partition]
    countable = []
    for proof in proofs:
        if proof.span.end > log.extent.high[partition]:
            proof.find(f"the ledger ends at {proof.span.end}, and the topic at {log.extent.high[partition]}")
        elif proof.span.start < reaches:
            proof.notes.append(
                f"offsets {proof.span.start} to {reaches - 1} are gone from the topic and no raw table has them: not counted"
            )
        else:
            countable.append(proof)
            proof.counted = 0
    if not countable:
        return
    start, end = min(p.span.start for p in countable), max(p.span.end for p in countable)
    for offsets in log.offsets(partition, start, min(end, stable)):
        for proof in countable:
            first, last = np.searchsorted(offsets, [proof.span.start, proof.span.end])
            proof.counted = (proof.counted or 0) + int(last - first)
    for proof in countable:
        if proof.counted != proof.span.read:
            where = f"[{proof.span.start}, {proof.span.end})"
            proof.find(f"the log has {proof.counted} committed records in {where}, and the ledger read {proof.span.read}")
