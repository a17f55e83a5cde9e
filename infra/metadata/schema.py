"""The schema's version: Alembic migrations, packaged with kappa and applied from code."""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
from pydantic import SecretStr

from flows.errors import KappaError
from infra.metadata.connection import Database, limit

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = max(path.stem[1:5] for path in (MIGRATIONS / "versions").glob("r[0-9]*.py"))
LOCK = 0x6B61707061  # "kappa": the advisory lock of whoever migrates
_one_thread = threading.Lock()  # Alembic's context is a global of the process


class SchemaNewer(KappaError):
    """The schema was made by a newer kappa."""


def revision(database: Database) -> str | None:
    """The revision of schema ``kappa``, None when there is none yet. Raises psycopg.Error."""
    if database.fetch("SELECT to_regclass('kappa.alembic_version')") == [(None,)]:
        return None
    rows = database.fetch("SELECT version_num FROM kappa.alembic_version")
    return str(rows[0][0]) if rows else None


def upgrade(dsn: SecretStr) -> bool:
    """Bring schema ``kappa`` to ``HEAD``; False when it was there.

    All migrations are one transaction under an advisory lock: of two processes that upgrade at once, one waits and then finds nothing to
    do. Raises SchemaNewer, psycopg.Error.
    """
    with Database(dsn) as database:
        found = revision(database)
        if found is not None and found > HEAD:
            raise SchemaNewer(
                f"schema kappa in PostgreSQL has revision {found}, this kappa knows {HEAD}",
                cause="a newer kappa upgraded it",
                next_step="install that version of kappa-warehouse",
            )
        if found != HEAD:
            database.connection.autocommit = False
            with _one_thread, limit(database.connection, database.timeout_s):
                _migrate(database.connection)
    return found != HEAD


def _migrate(connection: psycopg.Connection) -> None:
    # Imported here: a schema that is at HEAD, which is nearly always, does not pay for them (0.6 s).
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine, exc, text
    from sqlalchemy.pool import StaticPool

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with engine.begin() as transaction:
            transaction.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            transaction.execute(text("CREATE SCHEMA IF NOT EXISTS kappa"))
            config.attributes["connection"] = transaction
            command.upgrade(config, "head")
    except exc.DBAPIError as error:
        raise (error.orig if isinstance(error.orig, psycopg.Error) else error) from None
