"""What the mirror writes: one record type a table of schema ``kappa``, each with its own idempotent upsert.

Writing a record twice, from two processes, or again after an outage leaves one row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, ClassVar, TypeAlias

import psycopg
from psycopg.types.json import Jsonb

from connectors.loads import Identity, LoadState
from flows.ledger import RunIdentity
from infra.metadata.connection import Database, first_line
from sinks.owner import CommitInfo

log = logging.getLogger("kappa.metadata")


@dataclass(frozen=True, slots=True)
class Run:
    """A run that started (``ended_at`` None) or ended with ``status`` and, when it failed, ``error``."""

    ORDER: ClassVar = 0
    UPSERT: ClassVar = """
        INSERT INTO kappa.runs (warehouse, host, pid, started_at, ended_at, status, error)
        VALUES (%(warehouse)s, %(host)s, %(pid)s, %(started_at)s, %(ended_at)s, %(status)s, %(error)s)
        ON CONFLICT (warehouse, host, pid, started_at) DO UPDATE
        SET ended_at = excluded.ended_at, status = excluded.status, error = excluded.error
        WHERE excluded.ended_at IS NOT NULL"""

    run: RunIdentity
    ended_at: datetime | None = None
    status: str | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.run.host, self.run.pid, self.run.started_at)

    def row(self) -> dict[str, Any]:
        return {
            "host": self.run.host,
            "pid": self.run.pid,
            "started_at": self.run.started_at,
            "ended_at": self.ended_at,
            "status": self.status,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The catalogue file number ``n``: ``content`` is its JSON."""

    ORDER: ClassVar = 1
    UPSERT: ClassVar = """
        INSERT INTO kappa.catalogues (warehouse, n, created_at, created_by, content)
        VALUES (%(warehouse)s, %(n)s, %(created_at)s, %(created_by)s, %(content)s)
        ON CONFLICT (warehouse, n) DO UPDATE
        SET created_at = excluded.created_at, created_by = excluded.created_by, content = excluded.content"""

    n: int
    content: Mapping[str, Any]

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.n,)

    def row(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "created_at": self.content["created_at"],
            "created_by": self.content.get("by"),
            "content": Jsonb(_storable(self.content)),
        }


@dataclass(frozen=True, slots=True)
class Commit:
    """One version of a table generation's Delta log.

    ``metadata`` is the commit's ``kappa`` metadata (docs/formats.md), None when something else than kappa made the version.
    ``files``, ``rows`` and ``bytes`` are those that the commit added; ``at`` is when, with its time zone.
    """

    ORDER: ClassVar = 2
    UPSERT: ClassVar = """
        INSERT INTO kappa.commits (warehouse, table_name, generation, version, commit_id, epoch, host, pid, started_at,
                                   committed_at, files, rows, bytes, metadata)
        VALUES (%(warehouse)s, %(table_name)s, %(generation)s, %(version)s, %(commit_id)s, %(epoch)s, %(host)s, %(pid)s, %(started_at)s,
                %(committed_at)s, %(files)s, %(rows)s, %(bytes)s, %(metadata)s)
        ON CONFLICT (warehouse, table_name, generation, version) DO UPDATE
        SET commit_id = excluded.commit_id, epoch = excluded.epoch, host = excluded.host, pid = excluded.pid,
            started_at = excluded.started_at, committed_at = excluded.committed_at, files = excluded.files, rows = excluded.rows,
            bytes = excluded.bytes, metadata = excluded.metadata"""

    table: str
    generation: str
    version: int
    metadata: Mapping[str, Any] | None
    files: int
    rows: int
    bytes: int
    at: datetime

    @classmethod
    def of(cls, table: str, generation: str, info: CommitInfo) -> Commit:
        """What an owner reports."""
        return cls(table, generation, info.version, info.record.to_json(), info.files, info.rows, info.nbytes, info.at)

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.table, self.generation, self.version)

    def row(self) -> dict[str, Any]:
        metadata = self.metadata or {}
        run = metadata.get("run", {})
        return {
            "table_name": self.table,
            "generation": self.generation,
            "version": self.version,
            "commit_id": metadata.get("id"),
            "epoch": metadata.get("epoch"),
            "host": run.get("host"),
            "pid": run.get("pid"),
            "started_at": run.get("started_at"),
            "committed_at": self.at,
            "files": self.files,
            "rows": self.rows,
            "bytes": self.bytes,
            "metadata": Jsonb(_storable(metadata)) if metadata else None,
        }


@dataclass(frozen=True, slots=True)
class Load:
    """How far a load has got. Compaction of ``kappa.loads`` may leave only ``source`` and ``uri`` of an old load: the rest is None."""

    ORDER: ClassVar = 3
    # A load only advances: a record that arrives late, or that knows less, takes nothing back.
    UPSERT: ClassVar = """
        INSERT INTO kappa.loads (warehouse, load_id, source, uri, sha256, rows, bytes, done, replaced_by, updated_at)
        VALUES (%(warehouse)s, %(load_id)s, %(source)s, %(uri)s, %(sha256)s, %(rows)s, %(bytes)s, %(done)s, %(replaced_by)s, %(updated_at)s)
        ON CONFLICT (warehouse, load_id) DO UPDATE
        SET source = excluded.source, uri = excluded.uri, sha256 = coalesce(excluded.sha256, loads.sha256),
            rows = greatest(loads.rows, excluded.rows), bytes = greatest(loads.bytes, excluded.bytes),
            done = (loads.done IS TRUE OR excluded.done), replaced_by = coalesce(excluded.replaced_by, loads.replaced_by),
            updated_at = greatest(loads.updated_at, excluded.updated_at)"""

    load_id: str
    source: str
    uri: str
    sha256: str | None = None
    rows: int | None = None
    bytes: int | None = None
    done: bool | None = None
    replaced_by: str | None = None
    at: datetime | None = None

    @classmethod
    def of(cls, identity: Identity, state: LoadState) -> Load:
        """What a load reports, and what ``kappa.loads`` holds."""
        return cls(
            state.load,
            identity.source,
            state.uri,
            identity.sha256,
            state.rows,
            state.nbytes,
            state.done,
            state.replaced_by,
            datetime.fromisoformat(state.at),
        )

    @property
    def key(self) -> tuple[Any, ...]:
        return (self.load_id,)

    def row(self) -> dict[str, Any]:
        return {
            "load_id": self.load_id,
            "source": self.source,
            "uri": self.uri,
            "sha256": self.sha256,
            "rows": self.rows,
            "bytes": self.bytes,
            "done": self.done,
            "replaced_by": self.replaced_by,
            "updated_at": self.at,
        }


Record: TypeAlias = Run | Catalogue | Commit | Load


def write(database: Database, warehouse: str, records: Sequence[Record]) -> None:
    """Write records in one transaction. A record that PostgreSQL cannot store is logged and left out, its neighbours are written.

    Rows are written in the order of their keys, so that two processes that write the same rows wait for each other and never deadlock.
    Raises psycopg.Error when the server is down or refuses all of them.
    """
    try:
        with database.transaction() as cursor:
            for _, group in groupby(sorted(records, key=lambda record: (record.ORDER, record.key)), key=lambda record: record.ORDER):
                rows = list(group)
                cursor.executemany(rows[0].UPSERT, _rows(warehouse, rows))
    except (psycopg.DataError, psycopg.IntegrityError, TypeError, ValueError) as error:
        if len(records) == 1:
            log.warning("PostgreSQL cannot store %s %s: %s", type(records[0]).__name__.lower(), records[0].key, first_line(error))
            return
        half = len(records) // 2
        write(database, warehouse, records[:half])
        write(database, warehouse, records[half:])


def _rows(warehouse: str, records: Iterable[Record]) -> list[dict[str, Any]]:
    return [_storable({"warehouse": warehouse, **record.row()}) for record in records]


def _storable(value: Any) -> Any:
    """The same value with what PostgreSQL's text cannot hold (NUL, lone surrogates of odd file names) replaced by U+FFFD."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {_storable(name): _storable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(member) for member in value]
    return value
