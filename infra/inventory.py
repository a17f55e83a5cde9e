"""What tables there are and how they stand: rows, size, lag, freshness, failures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from connectors.errors import KafkaFailed
from connectors.extent import extent
from flows.batch import Failure
from flows.errors import KappaError
from sinks.address import TableAddress
from sinks.catalog import CatalogState
from sinks.errors import TableLost, TableUnreadable
from sinks.history import Commit, commits, newest
from sinks.record import CommitRecord, Partition
from sinks.table import open_table

Stable = Mapping[Partition, int]


@dataclass(frozen=True, slots=True)
class TableStatus:
    """A stored table. ``files`` and ``nbytes``: of the newest version; ``record``: its newest ledger, None before the first claim.

    ``last``: the newest commit that moved positions; ``lag``: offsets of the log that are not yet in the table, None when unknown;
    ``unreadable``: why the table cannot be read, then its numbers mean nothing.
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
        """Seconds since the last commit that moved positions."""
        return None if self.last is None else max(0.0, (now - self.last.at).total_seconds())


def read_status(address: TableAddress, kind: str, stable: Stable) -> TableStatus:
    """One table. ``stable``: last stable offset by topic partition, empty when Kafka is away. Raises TableLost and TableUnreadable."""
    table = open_table(address)
    files = pa.table(table.get_add_actions(flatten=True))
    record, last = None, None
    for commit in commits(address):
        record = record or commit.record
        if commit.record is not None and commit.record.ranges:
            last = commit
            break
    return TableStatus(
        name=address.name,
        kind=kind,
        generation=address.generation,
        version=table.version(),
        rows=pc.sum(files["num_records"]).as_py() or 0,
        files=files.num_rows,
        nbytes=pc.sum(files["size_bytes"]).as_py() or 0,
        record=record,
        last=last,
        lag=lag_of(record, stable) if record else None,
    )


def lag_of(record: CommitRecord, stable: Stable) -> int | None:
    """Offsets between the positions and the last stable offsets, markers included; None when one of them is unknown."""
    if not record.positions or not record.positions.keys() <= stable.keys():
        return None
    return sum(max(0, stable[place] - position) for place, position in record.positions.items())


def read_all(root: str, state: CatalogState, config: Mapping[str, str] | None) -> tuple[list[TableStatus], str | None]:
    """All stored tables by name, and why the lag is unknown, if it is. ``config``: librdkafka's; None: Kafka is not asked."""
    addresses = {name: TableAddress(root, name, entry.generation) for name, entry in sorted(state.tables.items())}
    positions = {place for address in addresses.values() for place in _positions(address)}
    stable, unknown = _stable(config, positions)
    return [_status(address, state.tables[name].kind, stable) for name, address in addresses.items()], unknown


def _status(address: TableAddress, kind: str, stable: Stable) -> TableStatus:
    try:
        return read_status(address, kind, stable)
    except (TableLost, TableUnreadable) as error:
        return TableStatus(address.name, kind, address.generation, 0, 0, 0, 0, record=None, last=None, lag=None, unreadable=error)


def _positions(address: TableAddress) -> set[Partition]:
    try:
        commit = newest(address)
    except TableUnreadable:
        return set()
    return set(commit.record.positions) if commit is not None and commit.record is not None else set()


def _stable(config: Mapping[str, str] | None, places: set[Partition]) -> tuple[dict[Partition, int], str | None]:
    if config is None:
        return {}, "Kafka is not running"
    stable: dict[Partition, int] = {}
    for topic in sorted({topic for topic, _ in places}):
        try:
            ends = extent(config, topic, [partition for of, partition in places if of == topic]).stable
        except KafkaFailed as error:
            return stable, f"{error.what}: {error.cause}"
        stable |= {(topic, partition): offset for partition, offset in ends.items()}
    return stable, None


def now() -> datetime:
    return datetime.now(UTC)
