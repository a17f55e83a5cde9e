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
from infra.metadata.schema import HEAD, revision, upgrade

CHUNK_RECORDS = 500
_OF_GENERATION = "WHERE warehouse = %s AND table_name = %s AND generation = %s"


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


@dataclass(frozen=True, slots=True)
class Survey:
    """What the mirror holds of a warehouse, and what of the catalogue files and Delta logs it lacks."""

    revision: str | None
    head: str
    records: dict[str, int]
    missing: dict[str, int]

    @property
    def complete(self) -> bool:
        return self.revision == self.head and not any(self.missing.values())


def survey(database: Database, warehouse: str, history: History) -> Survey:
    """Look, and write nothing. Raises psycopg.Error, and what ``history`` raises."""
    found = revision(database)
    if found is None:
        missing = {"catalogues": len(history.catalogues()), "commits": sum(len(table.versions()) for table in history.logs())}
        return Survey(None, HEAD, {}, missing)
    names = ("runs", "catalogues", "commits", "loads")
    records = {name: database.fetch(f"SELECT count(*) FROM kappa.{name} WHERE warehouse = %s", [warehouse])[0][0] for name in names}
    catalogues = len(_catalogue_gap(database, warehouse, history).numbers)
    commits = sum(len(_commit_gap(database, warehouse, table).numbers) for table in history.logs())
    return Survey(found, HEAD, records, {"catalogues": catalogues, "commits": commits})


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


@dataclass(frozen=True, slots=True)
class _Gap:
    """The numbers that the mirror lacks. ``replaced``: what it holds belongs to a former storage root, so that it lacks all of them."""

    numbers: Sequence[int]
    replaced: bool


def _gap(known: Set[int], present: Sequence[int], same: Callable[[int], bool]) -> _Gap:
    """Numbers above the newest, or another content at the newest that both have, are those of a former storage root."""
    shared = known & set(present)
    if known and present and (max(known) > present[-1] or (shared and not same(max(shared)))):
        return _Gap(present, replaced=True)
    return _Gap([number for number in present if number not in known], replaced=False)


def _catalogue_gap(database: Database, warehouse: str, history: History) -> _Gap:
    known = {n for (n,) in database.fetch("SELECT n FROM kappa.catalogues WHERE warehouse = %s", [warehouse])}

    def same(n: int) -> bool:
        stored = database.fetch("SELECT content FROM kappa.catalogues WHERE warehouse = %s AND n = %s", [warehouse, n])
        return stored == [(history.catalogue(n).content,)]

    return _gap(known, history.catalogues(), same)


def _commit_gap(database: Database, warehouse: str, table: TableLog) -> _Gap:
    # Known first, log second: what is committed and mirrored in between is then in the log, never above its end.
    known = dict(database.fetch(f"SELECT version, commit_id FROM kappa.commits {_OF_GENERATION}", _generation(warehouse, table)))

    def same(version: int) -> bool:
        commit = table.read(version)
        return commit is None or known[version] == (commit.metadata or {}).get("id")

    return _gap(known.keys(), table.versions(), same)


def _generation(warehouse: str, table: TableLog) -> list[str]:
    return [warehouse, table.table, table.generation]


def _catalogues(database: Database, warehouse: str, history: History, everything: bool) -> Iterator[Catalogue]:
    gap = _catalogue_gap(database, warehouse, history)
    if gap.replaced:
        with database.transaction() as cursor:
            cursor.execute("DELETE FROM kappa.catalogues WHERE warehouse = %s", [warehouse])
    return map(history.catalogue, history.catalogues() if everything else gap.numbers)


def _commits(database: Database, warehouse: str, table: TableLog, everything: bool) -> Iterator[Commit]:
    gap = _commit_gap(database, warehouse, table)
    if gap.replaced:
        with database.transaction() as cursor:
            cursor.execute(f"DELETE FROM kappa.commits {_OF_GENERATION}", _generation(warehouse, table))
    versions = table.versions() if everything else gap.numbers
    return (commit for commit in map(table.read, versions) if commit is not None)
