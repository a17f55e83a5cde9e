"""Reading what the commits of a table say: positions, spans, totals, owner, failure. Newest first, and only as far as asked.

One commit is one small file (measured: 20 us each), so that a reader who stops at the first answer pays for little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from sinks.address import TableAddress
from sinks.log import Action, DeltaLog, info_of
from sinks.record import CommitRecord
from sinks.table import reading, record_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Commit:
    """A version of the table. ``record`` is None for another program's commit; ``readable``: the version can still be read.

    ``rows_added`` counts the rows of added files (a rewrite adds the rows that it removes).
    """

    version: int
    at: datetime
    operation: str
    record: CommitRecord | None
    files_added: int
    files_removed: int
    rows_added: int
    readable: bool


def commits(address: TableAddress) -> Iterator[Commit]:
    """The commits that the log still holds, newest first. Nothing for a table that does not exist.

    Raises StorageUnsupported, and TableUnreadable at a commit that is none.
    """
    log = DeltaLog(address.folder)
    with reading(address):
        versions = log.versions()
        if not versions:
            return
        oldest = 0 if versions[0] == 0 else (log.checkpoints() or [0])[0]  # a version is read from a checkpoint and the commits after it
    for version in range(versions[-1], -1, -1):
        with reading(address):
            actions = log.read(version)
            if actions is None:
                return
            commit = _commit(address, version, actions, readable=version >= oldest)
        yield commit


def newest(address: TableAddress) -> Commit | None:
    """The newest commit that carries a ledger; None for a table without one."""
    return next((commit for commit in commits(address) if commit.record is not None), None)


def _commit(address: TableAddress, version: int, actions: Sequence[Action], *, readable: bool) -> Commit:
    info = info_of(actions)
    adds = [action["add"] for action in actions if "add" in action]
    return Commit(
        version=version,
        at=_EPOCH + timedelta(milliseconds=info.get("timestamp", 0)),
        operation=info.get("operation", ""),
        record=record_of(address, actions),
        files_added=len(adds),
        files_removed=sum("remove" in action for action in actions),
        rows_added=sum(msgspec.json.decode(add["stats"])["numRecords"] for add in adds if add.get("stats")),
        readable=readable,
    )
