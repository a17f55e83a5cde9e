"""Walking a table's commits: do the ledgers balance, join and add up, and do Delta's transactions say the same?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from flows.ledger import LogIdentity, Span
from infra.audit.findings import Finding
from sinks.address import TableAddress
from sinks.log import Action, DeltaLog, txns_of
from sinks.record import CommitRecord, Partition
from sinks.table import reading, record_of


@dataclass(frozen=True, slots=True)
class Commit:
    """One version of a table's log. ``record``: None for another program's.

    ``rows`` and ``adds``: rows and files that it added as new data; ``removes``: files that it took away as data.
    """

    version: int
    record: CommitRecord | None
    txns: Mapping[str, int]
    rows: int
    adds: int
    removes: int


def commits_of(address: TableAddress, up_to: int) -> Iterable[Commit]:
    """The commits that the log holds, ascending, up to a version. Raises TableUnreadable."""
    log = DeltaLog(address.folder)
    for version in log.versions():
        if version > up_to:
            return
        with reading(address):
            actions = log.read(version)
            commit = None if actions is None else _commit(address, version, actions)
        if commit is not None:
            yield commit


def _commit(address: TableAddress, version: int, actions: list[Action]) -> Commit:
    adds = [action["add"] for action in actions if "add" in action and action["add"]["dataChange"]]
    removes = [action for action in actions if "remove" in action and action["remove"]["dataChange"]]
    rows = sum(msgspec.json.decode(add["stats"])["numRecords"] for add in adds if add.get("stats"))
    return Commit(version, record_of(address, actions), txns_of(actions), rows, len(adds), len(removes))


@dataclass(slots=True)
class Walk:
    """Checks commits in order. ``walked``: topic partition -> commits that moved it; ``record``: the newest ledger.

    ``multiplies``: a record may have several rows; ``replaces``: rows may replace others, so that files do not say how many were written.
    """

    address: TableAddress
    multiplies: bool
    replaces: bool = False
    walked: dict[Partition, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    record: CommitRecord | None = None
    _version: int | None = None
    _owner: int = 0

    def all(self, commits: Iterable[Commit]) -> Walk:
        """Check all of ``commits``. Returns itself."""
        for commit in commits:
            self._check(commit)
        return self

    def find(self, what: str, partition: Partition | None = None, next_step: str = "") -> None:
        """Add a finding of the table, or of one of its topic partitions."""
        where = f"{partition[0]}/{partition[1]}" if partition else ""
        self.findings.append(Finding(self.address.name, where, what, next_step=next_step or f"kappa replay {self.address.name}"))

    def _check(self, commit: Commit) -> None:
        version, record = commit.version, commit.record
        if self._version is not None and version != self._version + 1:
            self.find(f"versions {self._version + 1} to {version - 1} are missing from the log")
            self.record = None
        self._version = version
        if record is None:
            if commit.adds or commit.removes:
                self.find(f"version {version} was written by another program and changes rows")
            if any(app_id.startswith(self.address.txn_prefix) for app_id in commit.txns):
                self.find(f"version {version} moves positions and has no ledger")
            return
        self._ledger(version, record)
        self._transactions(commit, record)
        if not self.replaces and not record.replaces:
            self._grows(version, commit, record)
        self.record = record

    def _grows(self, version: int, commit: Commit, record: CommitRecord) -> None:
        written = sum(span.written for span in record.ranges.values())
        if commit.rows < written or (commit.rows > written and not self.multiplies):
            self.find(f"version {version} added {commit.rows} rows, and its ledger says {written} written")
        if commit.removes:
            self.find(f"version {version} removed {commit.removes} files as data: append tables only grow")

    def _ledger(self, version: int, record: CommitRecord) -> None:
        for name, spans in (("range", record.ranges), ("totals", record.totals)):
            for partition, span in spans.items():
                if not span.balanced or min(span.read, span.written, span.filtered, span.rejected) < 0 or span.start > span.end:
                    self.find(f"version {version}: the {name} do not balance: {span_text(span)}", partition)
        for partition, span in record.ranges.items():
            self.walked[partition] = self.walked.get(partition, 0) + 1
            total = record.totals.get(partition)
            if total is None or total.end != span.end or total.start > span.start:
                self.find(f"version {version}: the totals do not end where the range does ({span_text(span)})", partition)
        if self.record is not None:
            self._joins(version, self.record, record)

    def _joins(self, version: int, before: CommitRecord, record: CommitRecord) -> None:
        for partition in {*before.totals, *record.totals}:
            was, span, total = before.totals.get(partition), record.ranges.get(partition), record.totals.get(partition)
            if was is not None and span is not None and was.end != span.start:
                gap = "a gap" if span.start > was.end else "an overlap"
                self.find(f"version {version}: {gap}: the range begins at {span.start}, and the one before ended at {was.end}", partition)
                continue
            expected = was if span is None else span if was is None else was.then(span)
            if total != expected:
                says = f"{span_text(total)}, expected {span_text(expected)}"
                self.find(f"version {version}: the totals are not the previous totals and the range: {says}", partition)

    def _transactions(self, commit: Commit, record: CommitRecord) -> None:
        for partition, span in record.ranges.items():
            stored = commit.txns.get(self.address.txn(*partition))
            if stored != span.end:
                self.find(f"version {commit.version}: Delta's transaction says {stored}, and the ledger {span.end}", partition)
        if commit.txns.get(self.address.owner_txn) != record.epoch:
            self.find(f"version {commit.version}: Delta's owner transaction is not the ledger's epoch {record.epoch}")
        if record.epoch < self._owner:
            self.find(f"version {commit.version}: epoch {record.epoch} committed after epoch {self._owner}: an owner was not fenced")
        self._owner = max(self._owner, record.epoch)


def span_text(span: Span | None) -> str:
    """A span's counts, for people."""
    if span is None:
        return "nothing"
    counts = f"read {span.read}, written {span.written}, filtered {span.filtered}, rejected {span.rejected}"
    return f"[{span.start}, {span.end}): {counts}"


def check_identity(record: CommitRecord, topic: str, now: LogIdentity) -> str | None:
    """Why the topic is not the one that the positions belong to; None when it is."""
    if record.log.cluster != now.cluster:
        return f"its positions belong to cluster {record.log.cluster}, and the cluster is {now.cluster}"
    if record.log.topics.get(topic) != now.topics.get(topic):
        return f"its positions belong to topic id {record.log.topics.get(topic)}, and the topic's id is {now.topics.get(topic)}"
    return None
