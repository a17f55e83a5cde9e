"""The owner of a table generation: the one process that commits to it, fenced by an epoch.

Claim: an empty commit that sets the ``owner`` transaction to the epoch after the last. Commit: rows, positions, epoch and ledger as exactly
the version after the last one seen. When that version exists already, somebody else wrote it, and what it says decides: my own commit
(an unknown outcome that had landed), a new owner (fenced), or another program (go on after it). There is no handle that could be
stale: every version is either written by this owner or read by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import Failure
from flows.faults import reach
from flows.ledger import LogIdentity, RunIdentity, Span
from flows.objects import Place
from flows.ulid import new_ulid
from sinks.address import TableAddress
from sinks.errors import CommitFailed, Fenced, LedgerBroken, RewriteStale, TableAltered, unbalanced
from sinks.files import OldFile, WrittenFile
from sinks.history import newest
from sinks.log import Action, DeltaLog, commit_info, encode, now_ms, txn, txns_of
from sinks.record import CommitRecord, Partition, ReadVersion, UpstreamVersion
from sinks.table import check_kept, check_log, last_record, open_or_create, open_table, record_of

PUT_ATTEMPTS = 5
CLAIM_ATTEMPTS = 1000  # each lost to a commit of the owner that is being replaced


@dataclass(frozen=True, slots=True)
class CommitInfo:
    """A commit that has landed, with what it added. ``at``: UTC, as in the log (milliseconds)."""

    version: int
    at: datetime
    record: CommitRecord
    rows: int
    files: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Files with the rows of other files. ``basis``: the version whose files were read; ``files``: each with its modificationTime."""

    basis: int
    files: Sequence[tuple[WrittenFile, int]]
    replaced: Sequence[OldFile]

    def discard(self, folder: Place) -> None:
        """Delete the new files, which no commit names."""
        for file, _ in self.files:
            (folder / unquote(file.path)).unlink(missing_ok=True)


class Owner:
    """Commits to one table generation; made by ``claim``. Not for use by several threads at once."""

    def __init__(self, address: TableAddress, log: DeltaLog, version: int, record: CommitRecord, order_ms: int) -> None:
        self.address = address
        self._log = log
        self._version = version  # the last version seen
        self._record = record  # the ledger of this owner's last commit
        self._newest = record  # the newest ledger seen; unless it is this owner's, it is fenced for good
        self._own_version = version
        self._failure = record.failure
        self._foreign_change = -1  # the last version at which another program changed the table's files
        self._order_ms = order_ms
        self._trouble: OSError | None = None
        self._verify_log: Callable[[], None] = lambda: None

    @classmethod
    def claim(
        cls,
        address: TableAddress,
        schema: pa.Schema,
        partition_by: Sequence[str],
        run: RunIdentity,
        log: LogIdentity,
        verify_log: Callable[[], None] = lambda: None,
        *,
        retention_s: float = 3600,
        durable: bool = False,
    ) -> Owner:
        """Become the owner of a table, which is made when it is missing. ``verify_log`` is called before every commit of rows.

        Raises Fenced (another process claimed it at the same time), LogChanged, LedgerLost, LedgerBroken, TableAltered, StorageUnusable,
        CommitFailed.
        """
        files = DeltaLog(address.folder, durable)
        table = open_or_create(address, schema, partition_by, retention_s)
        record = last_record(address, files, table, run, log)
        last_file_ms = pc.max(pa.table(table.get_add_actions()).column("modification_time")).as_py()
        owner = cls(address, files, table.version(), record, last_file_ms or 0)
        owner._take(run, log)
        owner._verify_log = verify_log
        return owner

    @classmethod
    def successor(cls, address: TableAddress, run: RunIdentity, *, durable: bool = False) -> Owner:
        """One who knows what the log says, and becomes the owner with its first commit, which must be ``take_over``.

        For work on the files that shall leave the table alone when somebody commits meanwhile. Raises TableUnreadable, TableAltered,
        LedgerLost, LedgerBroken.
        """
        files = DeltaLog(address.folder, durable)
        table = open_table(address)
        check_kept(address.name, table)
        return cls(address, files, table.version(), last_record(address, files, table, run, LogIdentity("", {})), 0)

    @staticmethod
    def read_totals(address: TableAddress) -> dict[Partition, Span]:
        """The totals of a table that another process may own; empty for one that does not exist."""
        commit = newest(address)
        return dict(commit.record.totals) if commit is not None and commit.record is not None else {}

    @property
    def version(self) -> int:
        """The last version of the table that this owner knows."""
        return self._version

    @property
    def own_version(self) -> int:
        """The last version that this owner wrote. It holds the totals: never clean it up."""
        return self._own_version

    @property
    def epoch(self) -> int:
        return self._record.epoch

    @property
    def run(self) -> RunIdentity:
        """The process of the last commit: this owner's, or for a successor the one that may still own the table."""
        return self._record.run

    @property
    def positions(self) -> dict[Partition, int]:
        """(topic, partition) -> next offset; empty for a new table."""
        return self._record.positions

    @property
    def totals(self) -> dict[Partition, Span]:
        """(topic, partition) -> the counts since the generation's first position."""
        return dict(self._record.totals)

    @property
    def record(self) -> CommitRecord:
        """The ledger of this owner's last commit."""
        return self._record

    @property
    def failure(self) -> Failure | None:
        """Why the table's branch stopped, as the run before left it or as this one wrote it; a commit of rows clears it."""
        return self._failure

    def commit(
        self,
        files: Sequence[WrittenFile],
        spans: Mapping[Partition, Span],
        warned: Mapping[str, int] | None = None,
        replaced: Sequence[OldFile] = (),
        basis: int | None = None,
        tombstones: int | None = None,
        upstream: UpstreamVersion | None = None,
        cut: Mapping[str, ReadVersion] | None = None,
        replaces: Mapping[Partition, tuple[int, int]] | None = None,
    ) -> CommitInfo:
        """Commit rows and positions together: ``spans`` count what the files' rows were made of, from the table's positions on.

        ``replaced``: files whose rows the new ones hold as they now are, as read at the version ``basis``; ``tombstones``: how many more
        the table holds then; ``upstream``: what a summary is the function of; ``cut``: what a materialized table is;
        ``replaces``: the ranges of positions whose rows the files hold in the place of others.

        Raises LedgerBroken, Fenced, TableAltered, RewriteStale, CommitFailed, and what ``verify_log`` raises. Unless it is CommitFailed,
        nothing landed.
        """
        totals = self._totals_with(spans)
        self._verify_log()
        record = replace(self._next(), ranges=dict(spans), totals=totals, warned=dict(warned or {}))
        if tombstones is not None:
            record = replace(record, tombstones=(record.tombstones or 0) + tombstones)
        if upstream is not None:
            record = replace(record, upstream=upstream)
        if cut is not None:
            record = replace(record, cut=cut)
        if replaces is not None:
            record = replace(record, replaces=replaces)
        adds = [file.add(self._next_order_ms(), data_change=True) for file in files]
        removes = [old.remove(now_ms(), data_change=True) for old in replaced]
        positions = [txn(self.address.txn(*partition), span.end) for partition, span in sorted(spans.items())]
        reach("before-commit")
        info = self._put("WRITE", [*adds, *removes, *positions], record, files, basis=basis)
        self._failure = None
        reach("after-commit")
        return info

    def check(self) -> None:
        """See whether the table is still this owner's. Raises Fenced, TableAltered, LedgerBroken."""
        self._look("")
        self._refuse_if_fenced(self._record)

    def rewrite(self, work: Rewrite) -> CommitInfo:
        """Replace files by others that hold the same rows. Raises RewriteStale, Fenced, TableAltered, CommitFailed."""
        return self._rewrite(work, self._next())

    def take_over(self, work: Rewrite, run: RunIdentity) -> CommitInfo:
        """Take the next epoch, and replace files, in one commit. Raises as ``rewrite``: Fenced when an owner has committed meanwhile."""
        return self._rewrite(work, replace(self._next(), epoch=self.epoch + 1, run=run))

    def _rewrite(self, work: Rewrite, record: CommitRecord) -> CommitInfo:
        files = [file for file, _ in work.files]
        adds = [file.add(order_ms, data_change=False) for file, order_ms in work.files]
        removes = [old.remove(now_ms(), data_change=False) for old in work.replaced]
        return self._put("OPTIMIZE", [*adds, *removes], replace(record, failure=self._failure), files, basis=work.basis)

    def fail(self, failure: Failure) -> CommitInfo:
        """Write into the table why its branch has stopped. Raises Fenced, TableAltered, CommitFailed."""
        info = self._put("FAIL", [], replace(self._next(), failure=failure))
        self._failure = failure
        return info

    def _totals_with(self, spans: Mapping[Partition, Span]) -> dict[Partition, Span]:
        totals = self.totals
        for (topic, partition), span in spans.items():
            where = f"{topic}/{partition}"
            if not span.balanced:
                raise LedgerBroken(self.address.name, f"{where}: {unbalanced(span)}")
            before = totals.get((topic, partition))
            if before is not None and before.end != span.start:
                raise LedgerBroken(self.address.name, f"{where}: the table stands at {before.end}, and the commit begins at {span.start}")
            totals[topic, partition] = span if before is None else before.then(span)
        return totals

    def _next(self) -> CommitRecord:
        return replace(self._record, id=new_ulid(), ranges={}, warned={}, replaces={}, failure=None)

    def _next_order_ms(self) -> int:
        """The place of a file among the table's files: its modification time, made to grow strictly, so that rewrites keep the order."""
        self._order_ms = max(now_ms(), self._order_ms + 1)
        return self._order_ms

    def _take(self, run: RunIdentity, log: LogIdentity) -> None:
        """Claim the epoch after the last, however fast the owner before goes on committing."""
        known = self._record.epoch
        for _ in range(CLAIM_ATTEMPTS):
            self._look("")
            self._record = self._newest
            if self._record.epoch != known:
                raise Fenced(self.address.name, known + 1, self._record.run, self._record.epoch)
            check_log(self.address, self._record, log)
            claimed = replace(self._next(), epoch=known + 1, run=run, log=log)
            self._failure = self._record.failure
            if self._attempt(claimed, self._body("CLAIM", now_ms(), [], claimed)):
                return
        raise self._failed("")

    def _put(
        self, operation: str, actions: list[Action], record: CommitRecord, files: Sequence[WrittenFile] = (), basis: int | None = None
    ) -> CommitInfo:
        """Write a commit as the next version. ``basis``: give up when another program has changed the table's files since that version."""
        at_ms = now_ms()
        body = self._body(operation, at_ms, actions, record)
        for _ in range(PUT_ATTEMPTS):
            self._refuse_if_fenced(record)
            if basis is not None and self._foreign_change > basis:
                raise RewriteStale(self.address.name, self._foreign_change)
            if self._attempt(record, body):
                at = datetime.fromtimestamp(at_ms // 1000, UTC) + timedelta(milliseconds=at_ms % 1000)
                return CommitInfo(self._version, at, record, sum(f.rows for f in files), len(files), sum(f.nbytes for f in files))
        raise self._failed(record.id)

    def _body(self, operation: str, at_ms: int, actions: list[Action], record: CommitRecord) -> bytes:
        return encode([commit_info(operation, at_ms, record.to_json()), *actions, txn(self.address.owner_txn, record.epoch)])

    def _attempt(self, record: CommitRecord, body: bytes) -> bool:
        """Put the next version. False: it has not landed; what had come in between has been read."""
        version = self._version + 1
        try:
            landed = self._log.put(version, body)
        except OSError as error:  # unknown: it may be there
            self._trouble = error
            landed = False
        if landed:
            self._version, self._newest = version, record
        elif not self._find(record.id):
            return False
        self._refuse_if_overtaken()
        self._own_version, self._record = self._version, self._newest
        return True

    def _find(self, commit_id: str) -> bool:
        """``_look``, when the storage may still be out of reach: what cannot be looked for is put again, as the same version only."""
        try:
            return self._look(commit_id)
        except OSError as error:
            self._trouble = error
            return False

    def _look(self, commit_id: str) -> bool:
        """Read the versions after the last one seen, up to ``commit_id``. True: it is there, so it had landed.

        A version that no owner can go on after is not passed, so that every later commit meets it again.
        """
        name = self.address.name
        while (actions := self._log.read(version := self._version + 1)) is not None:
            if any("metaData" in action or "protocol" in action for action in actions):
                raise TableAltered(name, f"version {version} changed its schema, properties or protocol")
            if self.address.owner_txn in txns_of(actions):
                self._newest = self._ledger(actions)
            elif any(app_id.startswith(self.address.txn_prefix) for app_id in txns_of(actions)):
                raise LedgerBroken(name, f"version {version} moved its positions without owning it")
            elif any("add" in action or "remove" in action for action in actions):
                self._foreign_change = version
            self._version = version
            if self._newest.id == commit_id:
                return True
        return False

    def _ledger(self, actions: list[Action]) -> CommitRecord:
        record = record_of(self.address, actions)
        if record is None:
            raise LedgerBroken(self.address.name, f"version {self._version + 1} took the table's epoch without a ledger")
        return record

    def _refuse_if_fenced(self, mine: CommitRecord) -> None:
        """``mine``: what is written in this epoch and run. Raises Fenced, or CommitFailed for one of its own that came late."""
        if self._newest is self._record:
            return
        if (self._newest.epoch, self._newest.run) == (mine.epoch, mine.run):
            cause = "a commit of this run has landed that it had given up as failed; the next run goes on after it"
            raise CommitFailed(self.address.name, self._version, self._newest.id, cause)
        raise Fenced(self.address.name, self.epoch, self._newest.run, self._newest.epoch)

    def _refuse_if_overtaken(self) -> None:
        """A version that was free because a later owner had cleaned it up is no commit: readers start at a checkpoint above it.

        That takes a process that was stopped for longer than the log's retention. The version before mine is then gone as well, since the
        log is cleaned up without a gap. Nothing else says so: a checkpoint above a commit that landed is made while its owner sleeps.
        """
        version = self._version
        if self._log.commit_path(version - 1).exists():
            return
        self._log.commit_path(version).unlink(missing_ok=True)
        self._version -= 1
        ledger = newest(self.address)
        assert ledger is not None
        assert ledger.record is not None
        self._newest = ledger.record
        raise Fenced(self.address.name, self.epoch, self._newest.run, self._newest.epoch)

    def _failed(self, commit_id: str) -> CommitFailed:
        cause: Any = self._trouble or "other programs commit to the table faster than its owner"
        return CommitFailed(self.address.name, self._version + 1, commit_id, str(cause))
