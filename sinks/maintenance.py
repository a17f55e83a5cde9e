"""Keeping a table quick: checkpoints, compaction, vacuum, log cleanup. Made beside the stream, in a thread of the run's pool.

Nothing here decides what the table says. The work reads and writes files; only the owner commits, in its own thread and under its
epoch, and a compaction whose files have changed meanwhile is thrown away. What fails is logged and tried again later.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from threading import Event, Lock

from flows.errors import KappaError
from flows.settings import MaintenanceSettings
from sinks.address import TableAddress
from sinks.cleanup import Vacuum, clean_log
from sinks.compaction import GROUP_BYTES, Stopped, choose, live_files, rewrite
from sinks.errors import CommitFailed, RewriteStale
from sinks.log import DeltaLog
from sinks.owner import Owner, Rewrite
from sinks.table import open_table

CHECKPOINT_COMMITS = 10
CLEANUP_INTERVAL_S = 60.0
FINISH_S = 5.0  # how long the end of a run waits for a compaction
SHARE = 0.25  # of the time that maintenance may take when commits come faster than it can follow

_compacting = Lock()  # one compaction at a time in a process: each holds several row groups in memory
_log = logging.getLogger("kappa.maintenance")


@dataclass(slots=True)
class Maintenance:
    """The maintenance of one table: call ``after_commit`` after every commit of its owner, and ``finish`` at the end.

    ``group_bytes``: size of the row groups that a compaction writes, which decides what memory it takes; ``compacts``: False for an upsert
    table, whose commits keep its files whole.
    """

    settings: MaintenanceSettings
    pool: Executor
    group_bytes: int = GROUP_BYTES
    compacts: bool = True
    _job: Future[Rewrite | None] | None = None
    _seen: int = 0
    _next_cleanup: float = field(default_factory=time.monotonic)
    _not_before: float = 0.0
    _vacuum: Vacuum | None = None
    _stop: Event = field(default_factory=Event)

    def after_commit(self, owner: Owner) -> None:
        """Commit a compaction that is ready, and start what is due. Never waits. Raises what ``Owner.rewrite`` raises, but RewriteStale."""
        if self._job is not None and self._job.done():
            self._commit(owner, self._job)
            self._job = None
        due = owner.version - self._seen >= min(CHECKPOINT_COMMITS, self.settings.compact_files)
        if self._job is None and due and time.monotonic() >= self._not_before:
            self._seen = owner.version
            self._job = self.pool.submit(self._tend, owner.address, owner.version, owner.own_version)

    def finish(self, owner: Owner) -> None:
        """Wait a few seconds for what is running and commit it, else give it up. Raises as ``after_commit``."""
        if self._job is not None and not self._job.cancel():
            wait([self._job], FINISH_S)
            self._stop.set()
            self._commit(owner, self._job)
        self._job = None

    def _commit(self, owner: Owner, job: Future[Rewrite | None]) -> None:
        try:
            work = job.result()
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001 - never in the way of the stream
            _log.warning("%s: maintenance failed and will be tried again: %.500s", owner.address.name, error)
            return
        if work is None:
            return
        try:
            owner.rewrite(work)
        except RewriteStale as stale:
            _log.info("%s", stale)
            work.discard(owner.address.folder)
        except CommitFailed:
            raise  # it may have landed, and then it names the files
        except KappaError:
            work.discard(owner.address.folder)
            raise

    def _tend(self, address: TableAddress, version: int, own_version: int) -> Rewrite | None:
        """In a thread: checkpoint, clean up, and write the files of a compaction."""
        started = time.monotonic()
        try:
            table = open_table(address, version)
            log = DeltaLog(address.folder)
            if version - log.last_checkpoint() >= CHECKPOINT_COMMITS:
                table.create_checkpoint()
            files = live_files(table)
            if started >= self._next_cleanup:
                self._next_cleanup = started + min(CLEANUP_INTERVAL_S, max(1.0, self.settings.retention_s / 10))
                self._vacuum = self._vacuum or Vacuum(address, self.settings.cuts_kept_s)
                self._vacuum.run({file.path for file in files}, version, self.settings.retention_s)
                clean_log(log, self.settings.retention_s, keep_from=self._vacuum.pins.keep_log_from(own_version))
            runs = choose(files, self.settings.target_file_bytes, self.settings.compact_files) if self.compacts else []
            if not runs or not _compacting.acquire(blocking=False):
                return None
            try:
                return rewrite(address, table, runs, durable=self.settings.durable, stop=self._stop, group_bytes=self.group_bytes)
            finally:
                _compacting.release()
        finally:
            ended = time.monotonic()
            self._not_before = ended + (ended - started) * (1 / SHARE - 1)
