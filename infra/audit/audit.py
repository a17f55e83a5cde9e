"""The audit of a storage root: commits, rows and topics, table by table and partition by partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from connectors.clients import KafkaSettingsWrong
from connectors.pace import Pace
from flows.errors import KappaError
from flows.ledger import Span
from infra.audit.commits import Walk, check_identity, commits_of
from infra.audit.findings import Finding, Proof
from infra.audit.log import TopicLog, count
from infra.audit.rows import Rows
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState
from sinks.engine import Engine, Pinned, QueryFailed
from sinks.errors import TableLost, TableUnreadable
from sinks.history import newest
from sinks.log import DeltaLog
from sinks.table import open_table, reading

REJECTED = "__rejected"


@dataclass(slots=True)
class Audited:
    """One table: its newest version when the audit began (None: it has none), the walk over its commits, its rows, and a proof for each
    partition.

    ``rows``: None when the table cannot be read, which is a finding; ``notes``: what could not be proved of the whole table; ``same_log``:
    its topic is the one that it was built from, which ``Audit.count`` finds out.
    """

    address: TableAddress
    version: int | None
    rows: Rows | None
    walk: Walk
    proofs: dict[tuple[str, int], Proof] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    same_log: bool = False

    @property
    def findings(self) -> list[Finding]:
        return [*self.walk.findings, *(finding for proof in self.proofs.values() for finding in proof.findings)]


class Audit:
    """Audits the live generations that ``state`` names. ``config``: librdkafka's; ``memory_limit``: bytes for DuckDB;
    ``records_per_s``: most that is read from topics (None: as fast as it can).
    """

    def __init__(
        self,
        root: str,
        state: CatalogState,
        config: Mapping[str, str],
        memory_limit: int = 1_000_000_000,
        records_per_s: float | None = None,
    ) -> None:
        self._config = config
        self._pace = Pace(records_per_s)
        self._catalog = Catalog(root)
        self._kinds = {name: entry.kind for name, entry in state.tables.items()}
        self._addresses = {name: TableAddress(root, name, entry.generation) for name, entry in state.tables.items()}
        versions = {name: DeltaLog(address.folder).versions() for name, address in self._addresses.items()}
        self._versions = {name: found[-1] for name, found in versions.items() if found}
        pinned = [Pinned(name, self._addresses[name].uri, version, hidden=False) for name, version in self._versions.items()]
        self._engine = Engine(pinned, {}, memory_limit)
        self.tables: dict[str, Audited] = {}
        self.logs: dict[str, TopicLog] = {}

    def close(self) -> None:
        self._engine.close()

    def address(self, name: str) -> TableAddress | None:
        """The live generation of a table; None when the catalogue has none."""
        return self._addresses.get(name)

    def kind(self, name: str) -> str:
        """Of a live table; of one that is not: append, which hides nothing and deletes nothing."""
        return self._kinds.get(name, "append")

    def table(self, name: str) -> Audited:
        """Walk a table's commits and count its rows; the same answer when asked again. That it cannot be read is a finding."""
        if name not in self.tables:
            try:
                self.tables[name] = self._table(name)
            except KappaError as error:
                address = self._addresses[name]
                lost = Audited(address, self._versions.get(name), None, Walk(address, multiplies=False))
                lost.walk.find(f"it cannot be read: {error.cause or error.what}")
                self.tables[name] = lost
        return self.tables[name]

    def _table(self, name: str) -> Audited:
        address = self._addresses[name]
        if name not in self._versions:
            raise TableLost(name, address.folder)
        version = self._versions[name]
        rows = Rows(self._engine, name, self._key(address))
        if self._kinds[name] == "summary":
            return self._summary(address, version, rows)
        if self._kinds[name] == "materialized":
            return self._materialized(address, version, rows)
        walk = Walk(address, rows.multiplies, replaces=bool(rows.key)).all(commits_of(address, version))
        audited = Audited(address, version, rows, walk)
        if walk.record is None:
            walk.find("no commit in its log carries a ledger")
            return audited
        for (topic, partition), span in sorted(walk.record.totals.items()):
            audited.proofs[topic, partition] = Proof(name, topic, partition, span, walk.walked.get((topic, partition), 0))
        self._transactions(audited)
        if rows.key:
            self._keys(rows, walk)
        totals = rows.totals()
        for proof in audited.proofs.values():
            rows.check(proof, totals.pop(proof.partition, None))
        for partition, (number, least, _) in totals.items():
            walk.find(f"{number} rows are of partition {partition}, from offset {least}, which the ledger does not know")
        return audited

    def _summary(self, address: TableAddress, version: int, rows: Rows) -> Audited:
        """A summary: its ledger is its upstream's, its rows have no positions."""
        walk = Walk(address, multiplies=False, replaces=True).all(commits_of(address, version))
        audited = Audited(address, version, rows, walk)
        if walk.record is None:
            walk.find("no commit in its log carries a ledger")
            return audited
        for (topic, partition), span in sorted(walk.record.totals.items()):
            audited.proofs[topic, partition] = Proof(address.name, topic, partition, span, walk.walked.get((topic, partition), 0))
        self._transactions(audited)
        for group, number in rows.doubled_keys():
            walk.find(f"the group {group} has {number} rows")
        for proof in audited.proofs.values():
            proof.rows = rows.count()  # of all partitions: a group has no place in the log
            break
        return audited

    def _materialized(self, address: TableAddress, version: int, rows: Rows) -> Audited:
        """A materialized table: no positions of its own, and of which cut it is the function."""
        walk = Walk(address, multiplies=False, replaces=True).all(commits_of(address, version))
        audited = Audited(address, version, rows, walk)
        if walk.record is None or walk.record.cut is None:
            walk.find("no commit in its log says what it was made from")
        for key, number in rows.doubled_keys():
            walk.find(f"the key {key} has {number} rows")
        return audited

    def _keys(self, rows: Rows, walk: Walk) -> None:
        for key, number in rows.doubled_keys():
            walk.find(f"the key {key} has {number} rows")
        if walk.record is not None and (found := rows.tombstones()) != (walk.record.tombstones or 0):
            walk.find(f"it has {found} tombstones, and the ledger says {walk.record.tombstones or 0}")

    def _key(self, address: TableAddress) -> tuple[str, ...]:
        """The key of an upsert or materialized table, the groups of a summary; empty for others.

        Raises TableUnreadable when its definition is lost."""
        name = {"upsert": "key", "summary": "group", "materialized": "key"}.get(self._kinds[address.name])
        if name is None:
            return ()
        with reading(address):
            return tuple(self._catalog.definition(address.name, address.generation)[name])

    def _transactions(self, audited: Audited) -> None:
        table = open_table(audited.address, self._versions[audited.address.name])
        for proof in audited.proofs.values():
            stored = table.transaction_version(audited.address.txn(proof.topic, proof.partition))
            if stored != proof.span.end:
                proof.find(f"Delta's transaction says position {stored}, and the ledger {proof.span.end}")

    def count(self, names: Iterable[str]) -> None:
        """Compare tables with their topics: identity, partitions, and the number of committed records."""
        by_log: dict[tuple[str, int], list[Proof]] = defaultdict(list)
        for name in names:
            audited = self.table(name)
            for topic in {topic for topic, _ in audited.proofs}:
                audited.same_log = self._same_log(audited, topic)
                if audited.same_log:
                    for (of, partition), proof in audited.proofs.items():
                        if of == topic:
                            by_log[topic, partition].append(proof)
        for (topic, partition), proofs in by_log.items():
            try:
                count(self.logs[topic], partition, proofs)
            except KappaError as error:  # Kafka went away, or a file of the raw table that stands in for the topic is damaged
                for proof in proofs:
                    proof.find(f"its records cannot be counted: {error.what}: {error.cause}", next_step=error.next_step or None)

    def _same_log(self, audited: Audited, topic: str) -> bool:
        """Whether the table's positions belong to the topic as it is, partition for partition; findings when not."""
        record = audited.walk.record
        assert record is not None
        try:
            log = self.log(topic)
        except KafkaSettingsWrong:
            raise
        except KappaError as error:
            audited.walk.find(f"topic {topic} cannot be read: {error.what}: {error.cause}", next_step=error.next_step)
            return False
        other = check_identity(record, topic, log.identity)
        if other is not None:
            audited.walk.find(f"topic {topic} is not the one that it was built from: {other}")
            return False
        known, now = {partition for of, partition in audited.proofs if of == topic}, set(log.extent.low)
        if known != now:
            audited.walk.find(f"topic {topic} has partitions {sorted(now)}, and the ledger knows {sorted(known)}")
        return known <= now

    def log(self, topic: str) -> TopicLog:
        """The topic, with the raw table that was read from it. Raises what ``TopicLog.open`` raises."""
        if topic not in self.logs:
            raw, spans = self._raw_of(topic)
            self.logs[topic] = TopicLog.open(self._config, topic, raw, spans, self._pace)
        return self.logs[topic]

    def _raw_of(self, topic: str) -> tuple[Rows | None, dict[int, Span]]:
        """The raw table that was read from a topic, unless it cannot be read, which is a finding of its own."""
        for name, address in self._addresses.items():
            try:
                commit = newest(address) if name.startswith("raw.") else None
                if commit is not None and commit.record is not None:
                    spans = {partition: span for (of, partition), span in commit.record.totals.items() if of == topic}
                    if spans:
                        return Rows(self._engine, name), spans
            except (TableUnreadable, QueryFailed):
                continue
        return None, {}

    def rejects(self, names: Iterable[str]) -> None:
        """The rejects of a staging table are the rows of its ``__rejected`` table, where both have come equally far."""
        for name in names:
            if not name.startswith("staging.") or f"{name}{REJECTED}" not in self._addresses:
                continue
            rejects = self.table(f"{name}{REJECTED}").proofs
            for place, proof in self.table(name).proofs.items():
                other = rejects.get(place)
                same_span = other is not None and (other.span.start, other.span.end) == (proof.span.start, proof.span.end)
                if other is not None and same_span and other.span.written != proof.span.rejected:
                    proof.find(f"{proof.span.rejected} records were rejected, and {name}{REJECTED} has {other.span.written}")
