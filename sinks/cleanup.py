"""Vacuum and log cleanup. Both keep every version that was current within the retention, or that a published cut names.

Written here because deltalake's vacuum commits twice without the owner's epoch and with a ledger that may be stale by then, and because the
retention is a setting of the warehouse, not of the table.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from urllib.parse import unquote

from flows.objects import Place
from sinks.address import TableAddress
from sinks.log import CHECKPOINT, COMMIT, DeltaLog, numbers
from sinks.pins import Pins

ORPHAN_AGE_S = 86_400.0  # a file that no commit has named for so long was left by a process that died


@dataclass(slots=True)
class Vacuum:
    """Deletes data files that no kept version, and no published cut, names. Remembers what the commits removed, to read each but once.

    ``keep_cuts_s``: how long cuts that are not pinned are kept. ``kept``: the files that only older versions name, which the last
    ``expired`` has left for these.
    """

    address: TableAddress
    keep_cuts_s: float = 0.0
    _removed_at: dict[str, float] = field(default_factory=dict)
    _read_to: int = -1
    kept: list[Place] = field(default_factory=list)
    pins: Pins = field(init=False)

    def __post_init__(self) -> None:
        self.pins = Pins(self.address, self.keep_cuts_s)

    @property
    def folder(self) -> Place:
        return self.address.folder

    def run(self, live: set[str], version: int, retention_s: float) -> int:
        """``live``: the paths of ``version``. Returns how many files were deleted."""
        self.pins.expire()
        expired = self.expired(live, version, retention_s)
        for file in expired:
            file.unlink(missing_ok=True)
        return len(expired)

    def expired(self, live: set[str], version: int, retention_s: float) -> list[Place]:
        """The files that no kept version names: removed before the retention, or left by a process that died."""
        self._read(version)
        now = time.time()
        there = {str(file): file for file in _data_files(self.folder)}
        pinned = self.pins.files()
        expired = []
        for path in list(self._removed_at):
            if path in live:
                del self._removed_at[path]
            elif self._removed_at[path] < now - retention_s and path not in pinned:
                expired.append(str(self.folder / unquote(path)))
                del self._removed_at[path]
        kept = {str(self.folder / unquote(path)) for path in self._removed_at}
        known = kept | {str(self.folder / unquote(path)) for path in live | pinned} | set(expired)
        orphans = [file for name, file in there.items() if name not in known]
        oldest = now - max(retention_s, ORPHAN_AGE_S)
        self.kept = [there[name] for name in kept if name in there]
        return [there[name] for name in expired if name in there] + [file for file in orphans if (_modified_at(file) or now) < oldest]

    def _read(self, version: int) -> None:
        log = DeltaLog(self.folder)
        for each in log.versions():
            if self._read_to < each <= version:
                for action in log.read(each) or []:
                    if "remove" in action:
                        removed = action["remove"]
                        self._removed_at[removed["path"]] = (removed.get("deletionTimestamp") or 0) / 1000
        self._read_to = version


def _modified_at(file: Place) -> float:
    """Seconds since 1970; 0 when another process has just deleted it."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _data_files(folder: Place) -> Iterator[Place]:
    for path in folder.rglob("*.parquet"):
        if "/_delta_log/" not in str(path)[len(str(folder)) :]:
            yield path


def clean_log(log: DeltaLog, retention_s: float, keep_from: int) -> int:
    """Delete the log below a checkpoint that every version of the retention can be read from, and below ``keep_from``.

    From the lowest version up, without a gap: a version that is gone says that the one before it is gone too, by which an owner that slept
    knows a place that was cleaned up from the end of the log. Returns how many files were deleted.
    """
    gone = expired_log(log, retention_s, keep_from)
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def expired_log(log: DeltaLog, retention_s: float, keep_from: int) -> list[Place]:
    """What ``clean_log`` deletes, in its order."""
    cutoff = time.time() - retention_s
    listed = {path.name: path for path in log.path.iterdir()}
    versions, checkpoints = numbers(listed, COMMIT), numbers(listed, CHECKPOINT)
    expired = list(takewhile(lambda version: _modified_at(listed[log.commit_path(version).name]) <= cutoff, versions))
    checkpoints = [version for version in checkpoints if expired and version <= expired[-1]]
    if not checkpoints:
        return []
    numbered = [(int(name), path) for path in listed.values() if (name := path.name.lstrip(".")[:20]).isdigit()]
    return [path for _, path in sorted((number, path) for number, path in numbered if number < min(checkpoints[-1], keep_from))]
