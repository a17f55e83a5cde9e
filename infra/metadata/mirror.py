"""The live mirror: a thread beside the stream that writes to PostgreSQL what the stream reports.

Reporting never blocks and never fails. While PostgreSQL is down, records wait in a bounded queue; when it is full they are dropped, and
the catch-up that follows every connect (and every overflow) reads what is missing from the truth itself.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import psycopg
from pydantic import SecretStr

from flows.errors import KappaError
from flows.ledger import RunIdentity
from infra.metadata.catch_up import CHUNK_RECORDS, History, catch_up
from infra.metadata.connection import CONNECT_TIMEOUT_S, STATEMENT_TIMEOUT_S, Database, address, reason
from infra.metadata.records import Catalogue, Commit, Load, Record, Run, write
from infra.metadata.schema import HEAD, revision, upgrade

log = logging.getLogger("kappa.metadata")


class Mirror:
    """Mirrors one warehouse. With ``dsn`` None it does nothing.

    ``warehouse`` is the name in warehouse.toml: one database may hold several. ``history`` is where a catch-up reads; it is called on the
    mirror's thread only. Leaving the context writes what is queued, for at most ``close_timeout_s``; an exception passes through.
    """

    def __init__(
        self,
        dsn: SecretStr | None,
        *,
        warehouse: str,
        history: History | None = None,
        queue_records: int = 1000,
        retry_s: float = 2.0,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        close_timeout_s: float = 5.0,
    ) -> None:
        self._dsn = dsn
        self._warehouse = warehouse
        self._history = history
        self._queue_records = queue_records
        self._retry_s = retry_s
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._close_timeout_s = close_timeout_s
        self._records: deque[Record] = deque()
        self._wake = threading.Condition()
        self._dropped = False
        self._stop = threading.Event()
        self._down = False
        self._thread = threading.Thread(target=self._work, name="kappa-metadata", daemon=True)

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

    def run_started(self, run: RunIdentity) -> None:
        """A run began."""
        self._put(Run(run), must_keep=True)

    def run_ended(self, run: RunIdentity, status: str, error: str | None = None) -> None:
        """A run ended now: ``status`` is one word, ``error`` the message of what ended it."""
        self._put(Run(run, datetime.now(UTC), status, error), must_keep=True)

    def commit(
        self,
        table: str,
        generation: str,
        version: int,
        metadata: Mapping[str, Any],
        files: int,
        rows: int,
        bytes: int,  # noqa: A002 - the column's name
        at: datetime,
    ) -> None:
        """A table's commit was made. ``metadata`` must not be changed afterwards. See Commit for the units."""
        self._put(Commit(table, generation, version, metadata, files, rows, bytes, at))

    def catalogue(self, n: int, content: Mapping[str, Any]) -> None:
        """Catalogue file ``n`` was written."""
        self._put(Catalogue(n, content))

    def load(
        self,
        load_id: str,
        source: str,
        uri: str,
        sha256: str,
        rows: int,
        bytes: int,  # noqa: A002 - the column's name
        done: bool,
        at: datetime,
    ) -> None:
        """A load's transaction was committed: ``rows`` of the file are sent so far, ``bytes`` is the file's size."""
        self._put(Load(load_id, source, uri, sha256, rows, bytes, done, at))

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
        if self._history is None:
            return
        try:
            catch_up(database, self._warehouse, self._history, stopped=self._stop.is_set)
        except psycopg.Error:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the storage or Kafka raises, the mirror goes on with what is reported
            log.warning("the records in PostgreSQL could not catch up: %s (next: kappa metadata rebuild)", error)

    def _say_down(self, error: BaseException) -> None:
        assert self._dsn is not None
        if not self._down:
            cause = reason(error, self._dsn)
            log.warning("PostgreSQL is down: streams go on, the records catch up later (%s: %s)", address(self._dsn), cause)
        self._down = True

    def _say_back(self) -> None:
        assert self._dsn is not None
        if self._down:
            log.warning("PostgreSQL is back: the records have caught up (%s)", address(self._dsn))
        self._down = False
