"""The maintenance of one table on demand: compaction, checkpoint, vacuum, log cleanup, by a process that does not own it.

Only a compaction needs a commit. It takes the table's next epoch in the same commit, as exactly the version after the one whose files
were read: when anybody has committed meanwhile, nothing is taken and the new files are deleted. Who may be the owner of a table is left
alone, since an owner without its epoch stops its run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

from flows.errors import KappaError
from flows.faults import reach
from flows.ledger import RunIdentity
from flows.objects import Place
from flows.settings import MaintenanceSettings
from sinks.address import TableAddress
from sinks.cleanup import Vacuum, expired_log
from sinks.compaction import LiveFile, Stopped, choose_all, live_files, rewrite
from sinks.errors import CommitFailed, Fenced, RewriteStale
from sinks.history import newest
from sinks.log import DeltaLog
from sinks.owner import Owner, Rewrite
from sinks.table import open_table


@dataclass(frozen=True, slots=True)
class Amount:
    """Files and their bytes, None before they are written."""

    files: int = 0
    nbytes: int | None = 0

    @classmethod
    def of(cls, paths: Iterable[Place]) -> Amount:
        """What lies there now; a path without a file counts for nothing."""
        sizes = []
        for path in paths:
            with suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        return cls(len(sizes), sum(sizes))


@dataclass(slots=True)
class Upkeep:
    """What was done to a table, or would be. ``merged``: files that a compaction replaces, ``into``: by these; ``left``: why the
    compaction that is due was left to others; ``checkpoint``: the version of a new one; ``removed``: data files that no kept version
    names; ``log``: files of the log; ``kept``: data files that only versions of the retention still name.
    """

    version: int
    merged: Amount = Amount()
    into: Amount = Amount()
    left: str = ""
    checkpoint: int | None = None
    removed: Amount = Amount()
    log: Amount = Amount()
    kept: Amount = Amount()

    @property
    def anything(self) -> bool:
        """Whether something was, or would be, done."""
        return bool(self.merged.files or self.removed.files or self.log.files) or self.checkpoint is not None


@dataclass(frozen=True, slots=True)
class Upkeeper:
    """Tends tables. ``run``: how this process signs; ``leave``: why a table is to be left to the process of its last commit, or None;
    ``dry``: only look; ``stop``: set to end as soon as nothing is left half done.
    """

    settings: MaintenanceSettings
    run: RunIdentity
    leave: Callable[[RunIdentity], str | None]
    dry: bool
    stop: Event

    def tend(self, address: TableAddress, *, compacts: bool) -> Upkeep:
        """Tend one table. Raises Stopped, and what reading a table, its ledger, or a commit raise."""
        done = Upkeep(open_table(address).version())
        if compacts:
            self._compact(address, done)
        reach("compacted")
        self._clean(address, done)
        return done

    def _compact(self, address: TableAddress, done: Upkeep) -> None:
        """Pass after pass until no small files are neighbours: what is written may be much smaller than what it replaces."""
        owner = Owner.successor(address, self.run, durable=self.settings.durable)
        before = live_files(open_table(address, owner.version))
        files, taken = before, False
        while runs := choose_all(files, self.settings.target_file_bytes):
            if not taken and (why := self.leave(owner.run)) is not None:
                done.left = why
                return
            if self.dry:
                done.merged, done.into = _amount(file for run in runs for file in run), Amount(len(runs), None)
                return
            work = self._write(address, owner, runs)
            try:
                owner.rewrite(work) if taken else owner.take_over(work, self.run)
            except CommitFailed:
                raise  # it may have landed, and then it names the files
            except KappaError as error:
                work.discard(address.folder)
                if isinstance(error, Fenced | RewriteStale):
                    done.left = f"meanwhile {error.what}"
                    return
                raise
            taken, files = True, live_files(open_table(address, owner.version))
            done.version, done.merged, done.into = owner.version, _without(before, files), _without(files, before)

    def _write(self, address: TableAddress, owner: Owner, runs: list[list[LiveFile]]) -> Rewrite:
        if self.stop.is_set():
            raise Stopped
        return rewrite(address, open_table(address, owner.version), runs, durable=self.settings.durable, stop=self.stop)

    def _clean(self, address: TableAddress, done: Upkeep) -> None:
        """Checkpoint, vacuum and log cleanup: nothing here changes what the table says, so anybody may do it beside an owner."""
        ledger = newest(address)
        if ledger is None:
            return  # nobody has claimed it yet
        table = open_table(address)
        log, retention_s = DeltaLog(address.folder), self.settings.retention_s
        if log.last_checkpoint() < table.version():
            done.checkpoint = table.version()
            if not self.dry:
                table.create_checkpoint()
        vacuum = Vacuum(address, self.settings.cuts_kept_s)
        if not self.dry:
            vacuum.pins.expire()
        unneeded = vacuum.expired({file.path for file in live_files(table)}, table.version(), retention_s)
        done.removed, done.kept = Amount.of(unneeded), Amount.of(vacuum.kept)
        old = expired_log(log, retention_s, keep_from=vacuum.pins.keep_log_from(ledger.version))
        done.log = Amount.of(old)
        for path in [] if self.dry else [*unneeded, *old]:
            path.unlink(missing_ok=True)


def _amount(files: Iterable[LiveFile]) -> Amount:
    sizes = [file.nbytes for file in files]
    return Amount(len(sizes), sum(sizes))


def _without(files: Iterable[LiveFile], others: Iterable[LiveFile]) -> Amount:
    """The files that are not among the others."""
    paths = {file.path for file in others}
    return _amount(file for file in files if file.path not in paths)
