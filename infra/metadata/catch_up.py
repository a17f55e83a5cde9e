"""Fill the mirror from the truth: the catalogue files, the Delta logs and the topic ``kappa.loads``.

Only what is missing is read: a Delta version and a catalogue number are written once, so those that the mirror holds need no second
look. A storage root that was deleted and made anew begins its numbers again; the newest shared one then differs, and what the mirror
holds of the former one is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from pydantic import SecretStr

from infra.metadata.connection import Database, reached
from infra.metadata.records import Catalogue, Commit, Load, Record, write
from infra.metadata.schema import upgrade

CHUNK_RECORDS = 500


class TableLog(Protocol):
    """The Delta log of one table generation, as far as it is still kept."""

    @property
    def table(self) -> str: ...
    @property
    def generation(self) -> str: ...
    def versions(self) -> Sequence[int]:
        """The versions whose commits can still be read, ascending."""
        ...

    def read(self, version: int) -> Commit | None:
        """One commit; None when log cleanup was quicker."""
        ...


class History(Protocol):
    """Everything that the mirror can be rebuilt from."""

    def catalogues(self) -> Sequence[int]:
        """The numbers of the catalogue files, ascending."""
        ...

    def catalogue(self, n: int) -> Catalogue: ...
    def logs(self) -> Iterable[TableLog]: ...
    def loads(self) -> Iterable[Load]: ...


@dataclass(slots=True)
class Added:
    """How many records a catch-up wrote."""

    catalogues: int = 0
    commits: int = 0
    loads: int = 0


def rebuild(dsn: SecretStr | None, warehouse: str, history: History) -> Added:
    """Write everything that the history still holds, whether the mirror has it or not. What only the mirror knows (runs, commits older
    than the log retention) stays. Raises MetadataUnreachable, SchemaNewer, and what ``history`` raises.
    """
    with reached(dsn) as database:
        assert dsn is not None
        upgrade(dsn)
        return catch_up(database, warehouse, history, everything=True)


def catch_up(
    database: Database,
    warehouse: str,
    history: History,
    *,
    everything: bool = False,
    loads: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> Added:
    """Write what is missing, in transactions of ``CHUNK_RECORDS``, until done or ``stopped()``.

    Raises psycopg.Error, and what ``history`` raises.
    """

    def put(records: Iterator[Record]) -> int:
        written = 0
        while not stopped() and (chunk := list(islice(records, CHUNK_RECORDS))):
            write(database, warehouse, chunk)
            written += len(chunk)
        return written

    added = Added()
    added.catalogues = put(_catalogues(database, warehouse, history, everything))
    for table in history.logs():
        if stopped():
            return added
        added.commits += put(_commits(database, warehouse, table, everything))
    if loads and not stopped():
        added.loads = put(iter(history.loads()))
    return added


def _catalogues(database: Database, warehouse: str, history: History, everything: bool) -> Iterator[Catalogue]:
    known = {n for (n,) in database.fetch("SELECT n FROM kappa.catalogues WHERE warehouse = %s", [warehouse])}
    numbers = history.catalogues()

    def same(n: int) -> bool:
        stored = database.fetch("SELECT content FROM kappa.catalogues WHERE warehouse = %s AND n = %s", [warehouse, n])
        return stored == [(history.catalogue(n).content,)]

    if _replaced(known, numbers, same):
        with database.transaction() as cursor:
            cursor.execute("DELETE FROM kappa.catalogues WHERE warehouse = %s", [warehouse])
        known = set()
    return (history.catalogue(n) for n in numbers if everything or n not in known)


def _commits(database: Database, warehouse: str, table: TableLog, everything: bool) -> Iterator[Commit]:
    generation = [warehouse, table.table, table.generation]
    where = "WHERE warehouse = %s AND table_name = %s AND generation = %s"
    # Known first, log second: what is committed and mirrored in between is then in the log, never above its end.
    known = dict(database.fetch(f"SELECT version, commit_id FROM kappa.commits {where}", generation))
    versions = table.versions()

    def same(version: int) -> bool:
        commit = table.read(version)
        return commit is None or known[version] == (commit.metadata or {}).get("id")

    if _replaced(known.keys(), versions, same):
        with database.transaction() as cursor:
            cursor.execute(f"DELETE FROM kappa.commits {where}", generation)
        known = {}
    missing = (version for version in versions if everything or version not in known)
    return (commit for commit in map(table.read, missing) if commit is not None)


def _replaced(known: Set[int], numbers: Sequence[int], same: Callable[[int], bool]) -> bool:
    """Whether the mirror holds a former storage root: numbers above the newest, or another content at the newest that both have."""
    if not known or not numbers:
        return False
    shared = known & set(numbers)
    return max(known) > numbers[-1] or (bool(shared) and not same(max(shared)))
