"""The live mirror: a thread beside the stream that writes to PostgreSQL what the stream reports.

Reporting never blocks and never fails. While PostgreSQL is down, records wait in a bounded queue; when it is full they are dropped, and
the catch-up that follows every connect (and every overflow) reads what is missing from the truth itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType

import psycopg
from pydantic import SecretStr

from connectors.loads import Identity, LoadState
from flows.errors import KappaError
from flows.ledger import RunIdentity
from flows.project import Project
from infra.addresses import Addresses, local_stack
from infra.metadata.catch_up import CHUNK_RECORDS, History, catch_up
from infra.metadata.connection import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S, Database, address, first_line, reason
from infra.metadata.history import WarehouseHistory
from infra.metadata.records import Catalogue, Commit, Load, Record, Run, write
from infra.metadata.schema import HEAD, revision, upgrade
from sinks.catalog import CatalogState
from sinks.owner import CommitInfo

log = logging.getLogger("kappa.metadata")


class Mirror:
    """Mirrors one warehouse. With ``dsn`` None it does nothing.

    ``warehouse`` is the name in warehouse.toml: one database may hold several. ``history`` is where a catch-up reads; it is called on the
    mirror's thread only. ``say`` takes one line when PostgreSQL goes down and one when it is back. Leaving the context writes what is
    queued, for at most ``close_timeout_s``; an exception passes through.
    """

    def __init__(
        self,
        dsn: SecretStr | None,
        *,
        warehouse: str,
        history: History | None = None,
        say: Callable[[str], None] = log.warning,
        queue_records: int = 1000,
        retry_s: float = 2.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        close_timeout_s: float = 5.0,
    ) -> None:
        self._dsn = dsn
        self._warehouse = warehouse
        self._history = history
        self._say = say
        self._queue_records = queue_records
        self._retry_s = retry_s
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._close_timeout_s = close_timeout_s
        self._records: deque[Record] = deque()
        self._wake = threading.Condition()
        self._dropped = False
        self._stop = threading.Event()
        self._closed = threading.Event()
        self._down = False
        self._blind = False
        self._thread = threading.Thread(target=self._work, name="kappa-metadata", daemon=True)

    @classmethod
    def of(cls, project: Project, addresses: Addresses, say: Callable[[str], None]) -> Mirror:
        """The mirror of a warehouse folder: in the PostgreSQL of its settings, or of its local stack even when that is down now."""
        local = local_stack(project).postgres.dsn
        dsn = addresses.postgres_dsn or (SecretStr(local) if local else None)
        history = WarehouseHistory(project.storage, lambda: addresses.kafka)
        return cls(dsn, warehouse=project.settings.name, history=history, say=say)

    def __enter__(self) -> Mirror:
        if self._dsn is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._dsn is None:
            return
        with self._wake:
            self._stop.set()
            self._wake.notify()
        self._thread.join(self._close_timeout_s)
        self._closed.set()

    def run_started(self, run: RunIdentity) -> None:
        """A run began."""
        self._put(Run(run), must_keep=True)

    def run_ended(self, run: RunIdentity, status: str, error: str | None = None) -> None:
        """A run ended now: ``status`` is one word, ``error`` the message of what ended it."""
        self._put(Run(run, datetime.now(UTC), status, error), must_keep=True)

    def commit(self, table: str, generation: str, info: CommitInfo) -> None:
        """A table's commit has landed."""
        self._put(Commit.of(table, generation, info))

    def catalogue(self, state: CatalogState) -> None:
        """A catalogue file was written."""
        self._put(Catalogue(state.n, state.to_json()))

    def load(self, identity: Identity, state: LoadState) -> None:
        """A transaction of a load was committed."""
        self._put(Load.of(identity, state))

    def _put(self, record: Record, *, must_keep: bool = False) -> None:
        """Queue a record. Runs, two records each, are always kept: nothing else knows them."""
        if self._dsn is None:
            return
        with self._wake:
            if must_keep or len(self._records) < self._queue_records:
                self._records.append(record)
            else:
                self._dropped = True
            self._wake.notify()

    def _work(self) -> None:
        assert self._dsn is not None
        while True:
            try:
                with Database(
                    self._dsn, connect_timeout_s=self._connect_timeout_s, statement_timeout_s=self._statement_timeout_s
                ) as database:
                    if revision(database) != HEAD:
                        upgrade(self._dsn)
                    self._serve(database)
                return
            except (psycopg.Error, OSError, KappaError) as error:
                self._say_down(error)
            if self._stop.wait(self._retry_s):
                return

    def _serve(self, database: Database) -> None:
        """Catch up, then write what is reported until the mirror is closed. Raises psycopg.Error."""
        self._catch_up(database)
        self._flush(database)
        self._say_back()
        while not self._stop.is_set():
            with self._wake:
                self._wake.wait_for(lambda: self._records or self._dropped or self._stop.is_set())
                dropped, self._dropped = self._dropped, False
            self._flush(database)
            if dropped:
                self._catch_up(database)
        self._flush(database)
        self._catch_up(database)  # what nobody reports: claims, failures, rewrites, other programs' commits

    def _flush(self, database: Database) -> None:
        """Write what is queued now. What could not be written stays first in the queue. Raises psycopg.Error."""
        while True:
            with self._wake:
                batch = [self._records.popleft() for _ in range(min(len(self._records), CHUNK_RECORDS))]
            if not batch:
                return
            try:
                write(database, self._warehouse, batch)
            except BaseException:
                with self._wake:
                    self._records.extendleft(reversed(batch))
                raise

    def _catch_up(self, database: Database) -> None:
        """Until the mirror is closed; when it is being closed, the tables alone, until its time is over. Raises psycopg.Error."""
        if self._history is None:
            return
        closing = self._stop.is_set()
        stopped = self._closed.is_set if closing else self._stop.is_set
        try:
            catch_up(database, self._warehouse, self._history, loads=not closing, stopped=stopped)
            self._blind = False
        except psycopg.Error:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the storage or Kafka raises, the mirror goes on with what is reported
            if not self._blind:
                self._say(f"the records in PostgreSQL could not catch up: {first_line(error)} (next: kappa metadata rebuild)")
            self._blind = True

    def _say_down(self, error: BaseException) -> None:
        assert self._dsn is not None
        if not self._down:
            cause = reason(error, self._dsn)
            self._say(f"PostgreSQL is down: streams go on, the records catch up later ({address(self._dsn)}: {cause})")
        self._down = True

    def _say_back(self) -> None:
        assert self._dsn is not None
        if self._down:
            self._say(f"PostgreSQL is back: the records have caught up ({address(self._dsn)})")
        self._down = False
