"""What tables there are and how they stand: rows, size, lag, freshness, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import KafkaFailed
from connectors.extent import extent
from connectors.topics import KafkaUnreachable, TopicMissing, TopicRefused, log_identity, partitions
from flows.batch import Failure
from flows.errors import KappaError
from sinks.address import TableAddress
from sinks.catalog import CatalogState
from sinks.errors import TableUnreadable
from sinks.history import Commit, commits, newest
from sinks.record import CommitRecord, Partition
from sinks.table import open_table

Stable = Mapping[tuple[str, int], int]  # (topic id, partition) -> last stable offset


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A stored table. ``rows`` (without tombstones), ``files`` and ``nbytes``: of the newest version; ``record``: its newest ledger, None
    before the first claim.

    ``last``: the newest commit that moved positions, or made a materialized table anew; ``lag``: offsets of the log that are not yet in
    the table, None when unknown; ``unreadable``: why the table cannot be read, then its numbers mean nothing.
    """

    name: str
    kind: str
    generation: str
    version: int
    rows: int
    files: int
    nbytes: int
    record: CommitRecord | None
    last: Commit | None
    lag: int | None
    unreadable: KappaError | None = None

    @property
    def state(self) -> str:
        """``live``, ``failed`` or ``unreadable``."""
        return "unreadable" if self.unreadable else "failed" if self.failure else "live"

    @property
    def failure(self) -> Failure | None:
        if self.unreadable is not None:
            return Failure(self.name, self.unreadable.cause, (), self.unreadable.next_step)
        return self.record.failure if self.record else None

    @property
    def positions(self) -> dict[Partition, int]:
        return self.record.positions if self.record else {}

    def age_s(self, now: datetime) -> float | None:
        """Seconds since ``last``."""
        return None if self.last is None else max(0.0, (now - self.last.at).total_seconds())


def read_status(address: TableAddress, kind: str, stable: Stable) -> TableStatus:
    """One table. ``stable``: empty when Kafka is away. Raises TableUnreadable."""
    table = open_table(address)
    files = pa.table(table.get_add_actions(flatten=True))
    record, last = None, None
    for commit in commits(address):
        record = record or commit.record
        if commit.record is not None and (commit.record.ranges or (commit.record.cut is not None and commit.operation == "WRITE")):
            last = commit
            break
    return TableStatus(
        name=address.name,
        kind=kind,
        generation=address.generation,
        version=table.version(),
        rows=(pc.sum(files["num_records"]).as_py() or 0) - (record.tombstones or 0 if record else 0),
        files=files.num_rows,
        nbytes=pc.sum(files["size_bytes"]).as_py() or 0,
        record=record,
        last=last,
        lag=lag_of(record, stable) if record else None,
    )


def lag_of(record: CommitRecord, stable: Stable) -> int | None:
    """Offsets between the positions and the last stable offsets, markers included; None when one of them is unknown."""
    places = {(record.log.topics.get(topic, ""), partition): offset for (topic, partition), offset in record.positions.items()}
    if not places or not places.keys() <= stable.keys():
        return None
    return sum(max(0, stable[place] - position) for place, position in places.items())


def read_all(root: str, state: CatalogState, config: Mapping[str, str] | None) -> tuple[list[TableStatus], str | None]:
    """All stored tables by name, and why the lag is unknown, if it is. ``config``: librdkafka's; None: Kafka is not asked."""
    addresses = {name: TableAddress(root, name, entry.generation) for name, entry in sorted(state.tables.items())}
    topics: dict[str, set[str]] = {}
    for address in addresses.values():
        for topic, topic_id in _topics(address).items():
            topics.setdefault(topic, set()).add(topic_id)
    stable, unknown = _stable(config, topics)
    return [_status(address, state.tables[name].kind, stable) for name, address in addresses.items()], unknown


def _status(address: TableAddress, kind: str, stable: Stable) -> TableStatus:
    try:
        return read_status(address, kind, stable)
    except TableUnreadable as error:
        return TableStatus(address.name, kind, address.generation, 0, 0, 0, 0, record=None, last=None, lag=None, unreadable=error)


def _topics(address: TableAddress) -> Mapping[str, str]:
    """The topics that a table has positions in, and their ids."""
    try:
        commit = newest(address)
    except TableUnreadable:
        return {}
    record = commit.record if commit is not None else None
    return {topic: record.log.topics.get(topic, "") for topic, _ in record.positions} if record is not None else {}


def _stable(config: Mapping[str, str] | None, topics: Mapping[str, set[str]]) -> tuple[Stable, str | None]:
    """``topics``: name -> the ids that tables know it by. Also why something is missing."""
    if config is None:
        return {}, "Kafka is not running"
    stable: dict[tuple[str, int], int] = {}
    unknown = []
    for topic, known in sorted(topics.items()):
        try:
            now = log_identity(config, [topic]).topics[topic]
            ends = extent(config, topic, partitions(config, topic)).stable
        except (TopicMissing, TopicRefused) as error:
            unknown.append(error.what)
        except (KafkaFailed, KafkaUnreachable) as error:
            return stable, f"{error.what}: {error.cause}"  # and would not answer for another topic
        else:
            stable |= {(now, partition): offset for partition, offset in ends.items()}
            if known != {now}:
                unknown.append(f"topic {topic} was made again")
    return stable, "; ".join(unknown) or None


def now() -> datetime:
    return datetime.now(UTC)
