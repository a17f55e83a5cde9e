"""Raw tables as the archive of a topic: what Kafka's retention has dropped is replayed from them, in offset order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from flows.batch import RECORDS
from flows.ledger import LogIdentity
from sinks.address import TableAddress
from sinks.history import newest
from sinks.versions import Versions

FIRST_OFFSETS = 1_000  # until it is known how large the records are
MOST_OFFSETS = 200_000


@dataclass(frozen=True, slots=True)
class Volume:
    """One generation of a raw table at a version, and what it holds: partition -> ``[start, end)``."""

    address: TableAddress
    version: int
    spans: Mapping[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class RawArchive:
    """Generations of one raw table that were fed from the same topic; several where raw was switched off for a while and begun anew."""

    volumes: tuple[Volume, ...]
    spans: Mapping[int, tuple[int, int]]
    batch_bytes: int
    memory_bytes: int

    @classmethod
    def open(
        cls,
        generations: Iterable[TableAddress],
        topic: str,
        identity: LogIdentity,
        low: Mapping[int, int],
        batch_bytes: int,
        memory_bytes: int,
    ) -> RawArchive | None:
        """The archive in front of ``low``, the first offsets that the topic holds; None when there is none.

        A span is what the generations hold without a gap up to ``low`` at least. Raises TableUnreadable.
        """
        volumes = [volume for address in generations if (volume := _volume(address, topic, identity)) is not None]
        spans = {p: span for p, offset in low.items() if (span := _whole(p, offset, volumes)) is not None}
        return cls(tuple(volumes), spans, batch_bytes, memory_bytes) if spans else None

    def records(self, partition: int, start: int, end: int) -> Iterator[pa.RecordBatch]:
        """See ``flows.archive.Archive``."""
        with closing(Versions(self.memory_bytes)) as database:
            while start < end:
                volume = next(v for v in self.volumes if v.spans.get(partition, (0, 0))[0] <= start < v.spans.get(partition, (0, 0))[1])
                until = min(end, volume.spans[partition][1])
                yield from self._of(database, volume, partition, start, until)
                start = until

    def _of(self, database: Versions, volume: Volume, partition: int, start: int, end: int) -> Iterator[pa.RecordBatch]:
        table, columns = database.table(volume.address, volume.version), ", ".join(RECORDS.names)
        wanted = FIRST_OFFSETS
        while start < end:
            until = min(end, start + wanted)
            where = f"_partition = {partition} AND _offset >= {start} AND _offset < {until}"
            sql = f"WHERE {where} ORDER BY _offset"
            try:
                rows = database.ask(f"SELECT {columns} FROM {table} {sql}")
            except duckdb.IOException:  # its owner compacts meanwhile, and old files go; what is at a position never changes
                table = self._newest(database, volume)
                rows = database.ask(f"SELECT {columns} FROM {table} {sql}")
            rows = rows.cast(RECORDS).combine_chunks()
            yield from rows.to_batches()
            each = rows.nbytes / (until - start)
            wanted = max(1, min(MOST_OFFSETS, wanted * 4, int(self.batch_bytes / each) if each else MOST_OFFSETS))
            start = until

    @staticmethod
    def _newest(database: Versions, volume: Volume) -> str:
        last = newest(volume.address)
        version = last.version if last is not None else volume.version
        database.keep(volume.address, version)
        return database.table(volume.address, version)


def _volume(address: TableAddress, topic: str, identity: LogIdentity) -> Volume | None:
    """None for a generation of another topic, or one that has read nothing."""
    last = newest(address)
    if last is None or last.record is None or last.record.log != identity:
        return None
    spans = {p: (span.start, span.end) for (name, p), span in last.record.totals.items() if name == topic and span.end > span.start}
    return Volume(address, last.version, spans) if spans else None


def _whole(partition: int, low: int, volumes: Iterable[Volume]) -> tuple[int, int] | None:
    """The range without a gap that contains ``low``, or ends there."""
    spans = sorted(volume.spans[partition] for volume in volumes if partition in volume.spans)
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return next(((start, end) for start, end in joined if start < low <= end), None)
