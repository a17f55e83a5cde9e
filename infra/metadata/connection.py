"""Connections to PostgreSQL that never wait for ever, and never show a password."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from flows.errors import KappaError

logging.getLogger("psycopg").setLevel(logging.ERROR)  # its warnings repeat what we report: "error ignored in ... rollback"

CONNECT_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 10.0


class MetadataUnreachable(KappaError):
    """PostgreSQL is down, does not answer, or refuses kappa."""


@contextmanager
def limit(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Hang up when the block takes longer: its statement then fails with psycopg.OperationalError.

    libpq has no timeout for reading an answer, and TCP keepalives are answered by the kernel of a server whose process is stopped.
    """
    twin = socket.socket(fileno=os.dup(connection.fileno()))
    hung = threading.Event()

    def hang_up() -> None:
        hung.set()
        with suppress(OSError):
            twin.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error:
        if hung.is_set():
            raise psycopg.OperationalError(f"no answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        twin.close()


class Database:
    """A connection to PostgreSQL of which every wait is bounded.

    The server ends a statement, a wait for a lock, or a transaction left open after ``statement_timeout_s``; ``limit`` ends the wait for
    a server that has stopped answering. Nothing is prepared: prepared statements break behind a transaction pooler.
    """

    def __init__(
        self, dsn: SecretStr, *, connect_timeout_s: float = CONNECT_TIMEOUT_S, statement_timeout_s: float = STATEMENT_TIMEOUT_S
    ) -> None:
        """Connect. Raises psycopg.Error, within about ``connect_timeout_s`` (libpq's least is 2) when nobody answers."""
        self.timeout_s = statement_timeout_s
        self.connection = psycopg.connect(
            dsn.get_secret_value(),
            connect_timeout=math.ceil(connect_timeout_s),
            autocommit=True,
            application_name="kappa",
            prepare_threshold=None,
        )
        try:
            self.fetch(
                "SELECT set_config('statement_timeout', %(t)s, false), set_config('idle_in_transaction_session_timeout', %(t)s, false),"
                " set_config('TimeZone', 'UTC', false)",
                {"t": f"{math.ceil(statement_timeout_s * 1000)}ms"},
            )
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.connection.close()

    def fetch(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises psycopg.Error."""
        with limit(self.connection, self.timeout_s):
            return self.connection.execute(query, parameters).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor]:
        """A transaction that is committed when the block ends, and takes no longer than the timeout. Raises psycopg.Error."""
        with limit(self.connection, self.timeout_s), self.connection.transaction(), self.connection.cursor() as cursor:
            yield cursor


def address(dsn: SecretStr) -> str:
    """``host:port/database``, for people; never the user's password."""
    try:
        parts = conninfo_to_dict(dsn.get_secret_value())
    except psycopg.ProgrammingError:
        return "a DSN that cannot be read"
    return f"{parts.get('host', 'localhost')}:{parts.get('port', 5432)}/{parts.get('dbname', '')}"


def reason(error: BaseException, dsn: SecretStr) -> str:
    """Why PostgreSQL failed, in one line, without the password."""
    try:
        password = str(conninfo_to_dict(dsn.get_secret_value()).get("password") or "")
    except psycopg.ProgrammingError:
        return "the DSN is not valid"  # libpq's message would quote a part of it
    line = first_line(error).rpartition("failed: ")[2]  # what is before it names the server once more
    return line.replace(password, "***") if password else line


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class when it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def reached(dsn: SecretStr | None) -> Iterator[Database]:
    """A connection for a command that cannot do without PostgreSQL. Raises MetadataUnreachable."""
    if dsn is None:
        raise MetadataUnreachable(
            "no PostgreSQL is known",
            cause="the local stack is down, and the settings name no other",
            next_step="kappa up, or set KAPPA_POSTGRES__DSN",
        )
    try:
        with Database(dsn) as database:
            yield database
    except psycopg.Error as error:
        raise MetadataUnreachable(
            f"PostgreSQL at {address(dsn)} failed", cause=reason(error, dsn), next_step="kappa up, or correct [postgres] dsn"
        ) from None
