"""A history in memory: the truth that the mirror is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg

from connectors.loads import Identity, LoadState
from flows.ledger import LogIdentity, RunIdentity, Span
from infra.metadata import Catalogue, Commit, Load
from sinks.catalog import CatalogState, TableEntry
from sinks.owner import CommitInfo
from sinks.record import CommitRecord

START = datetime(2026, 11, 22, 18, tzinfo=UTC)
RUN = RunIdentity("host-1", 4711, "2026-11-22T18:00:00.000000Z")
TABLE, GENERATION = "core.flight", "3f9a0c12b7de-1"


LOG = LogIdentity("cluster-1", {"flights": "topic-1"})


def make_info(version: int, life: str = "a") -> CommitInfo:
    span = Span(version * 10, version * 10 + 10, read=10, written=9, filtered=0, rejected=1)
    total = Span(0, version * 10 + 10, 10 * version + 10, 9 * version + 9, 0, version + 1)
    partition = ("flights", 0)
    record = CommitRecord(f"{life}-{version}", 4, RUN, LOG, {partition: span}, {partition: total})
    return CommitInfo(version, START + timedelta(seconds=version), record, rows=9, files=1, nbytes=900)


def make_commit(version: int, life: str = "a") -> Commit:
    return Commit.of(TABLE, GENERATION, make_info(version, life))


def make_state(n: int, life: str = "a") -> CatalogState:
    generation = f"3f9a0c12b7de-{n}"
    tables = {TABLE: TableEntry("append", generation, f"core/flight/{generation}")}
    return CatalogState(n, f"2026-11-22T18:00:{n:02}.000000Z", f"run {life}", tables)


def make_catalogue(n: int, life: str = "a") -> Catalogue:
    return Catalogue(n, make_state(n, life).to_json())


def make_load(number: int, rows: int, *, done: bool) -> tuple[Identity, LoadState]:
    at = f"2026-11-22T18:00:{rows:02}.000000Z"
    identity = Identity("flights", f"{number:064x}", {"delimiter": ","})
    return identity, LoadState(f"load-{number}", f"/files/{number}.csv", rows, rows * 20, done, at)


@dataclass
class MemoryLog:
    table: str
    generation: str
    kept: dict[int, Commit] = field(default_factory=dict)

    def versions(self) -> list[int]:
        return sorted(self.kept)

    def read(self, version: int) -> Commit | None:
        return self.kept.get(version)


@dataclass
class MemoryHistory:
    """Implements infra.metadata.History."""

    files: dict[int, Catalogue] = field(default_factory=dict)
    tables: list[MemoryLog] = field(default_factory=list)
    topic: list[Load] = field(default_factory=list)

    def catalogues(self) -> list[int]:
        return sorted(self.files)

    def catalogue(self, n: int) -> Catalogue:
        return self.files[n]

    def logs(self) -> list[MemoryLog]:
        return self.tables

    def loads(self) -> list[Load]:
        return self.topic

    @classmethod
    def of(cls, commits: int, life: str = "a") -> MemoryHistory:
        log = MemoryLog(TABLE, GENERATION, {v: make_commit(v, life) for v in range(commits)})
        return cls({n: make_catalogue(n, life) for n in (1, 2)}, [log], [Load.of(*make_load(1, 50, done=True))])


def content(dsn: str, *tables: str) -> dict[str, list[tuple]]:
    """All rows of the mirror's tables, sorted."""
    with psycopg.connect(dsn) as connection:
        return {
            table: sorted(connection.execute(f"SELECT to_jsonb(t)::text FROM kappa.{table} t").fetchall())
            for table in tables or ("commits", "catalogues", "loads")
        }
