"""Attaching Delta tables to DuckDB: the extensions, and what S3 needs to be reached."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping

import duckdb

from flows.errors import KappaError
from flows.objects import is_url, parse_url
from flows.objects.account import account

EXTENSIONS = ("delta", "httpfs")


class SettingsRefused(KappaError):
    """DuckDB does not take the settings of S3. Its own words are left out: they may hold the secret key."""

    def __init__(self, bucket: str, cause: str) -> None:
        super().__init__(f"DuckDB refuses the settings of S3 for bucket {bucket}", cause=cause, next_step="correct the AWS_ variables")


def connect(config: Mapping[str, str]) -> duckdb.DuckDBPyConnection:
    """An in-memory database that can read Delta tables, also on S3. ``config``: DuckDB's.

    DuckDB hashes all of an extension's file for its signature each time it loads one: 0.2 s of a processor, where loading takes 0.02
    (measured). These two come in wheels whose hashes were checked when they were installed, as DuckDB's own library does; so they are
    loaded without, and from then on DuckDB asks for signatures as ever, and nothing can change that back.
    """
    connection = duckdb.connect(config={**config, "allow_unsigned_extensions": "true"})
    for name in EXTENSIONS:
        connection.load_extension(extension(name))
    connection.execute("SET GLOBAL allow_unsigned_extensions = false")
    return connection


class Attachments:
    """Attaches tables to one connection, which ``connect`` has made."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._secrets: dict[str, str] = {}  # bucket -> the statement that DuckDB got last

    def attach(self, uri: str, version: int, catalog: str) -> None:
        """Attach a table at a version under a quoted name. Raises duckdb.Error, SettingsRefused, and what objects.account raises."""
        if is_url(uri):
            self._reach(parse_url(uri).bucket)
        self.connection.execute(f"ATTACH {_text(uri)} AS {catalog} (TYPE delta, VERSION {version}, PIN_SNAPSHOT, READ_ONLY)")

    def _reach(self, bucket: str) -> None:
        """Give DuckDB the settings of S3 for a bucket: again when they have changed, since the keys of a role expire."""
        statement = account().duckdb_secret(bucket)
        if self._secrets.get(bucket) == statement:
            return
        try:
            self.connection.execute(statement)
        except duckdb.Error as error:
            raise SettingsRefused(bucket, type(error).__name__) from None
        self._secrets[bucket] = statement


def extension(name: str) -> str:
    """The path of a DuckDB extension as the wheel ``duckdb-extension-<name>`` carries it: nothing is copied or downloaded."""
    folder = importlib.resources.files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
    return str(folder / f"{name}.duckdb_extension")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
