"""Attaching Delta tables to DuckDB: the extensions, and what S3 needs to be reached."""

from __future__ import annotations

import importlib.resources

import duckdb

from flows.errors import KappaError
from flows.objects import is_url, parse_url
from flows.objects.account import account


class SettingsRefused(KappaError):
    """DuckDB does not take the settings of S3. Its own words are left out: they may hold the secret key."""

    def __init__(self, bucket: str, cause: str) -> None:
        super().__init__(f"DuckDB refuses the settings of S3 for bucket {bucket}", cause=cause, next_step="correct the AWS_ variables")


class Attachments:
    """Attaches tables to one connection. Nothing is loaded before the first: the delta extension takes 0.23 s."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._extensions: set[str] = set()
        self._secrets: dict[str, str] = {}  # bucket -> the statement that DuckDB got last

    def attach(self, uri: str, version: int, catalog: str) -> None:
        """Attach a table at a version under a quoted name. Raises duckdb.Error, SettingsRefused, and what objects.account raises."""
        if is_url(uri):
            self._reach(parse_url(uri).bucket)
        self._load("delta")
        self.connection.execute(f"ATTACH {_text(uri)} AS {catalog} (TYPE delta, VERSION {version}, PIN_SNAPSHOT, READ_ONLY)")

    def _reach(self, bucket: str) -> None:
        """Give DuckDB the settings of S3 for a bucket: again when they have changed, since the keys of a role expire."""
        statement = account().duckdb_secret(bucket)
        if self._secrets.get(bucket) == statement:
            return
        self._load("httpfs")
        try:
            self.connection.execute(statement)
        except duckdb.Error as error:
            raise SettingsRefused(bucket, type(error).__name__) from None
        self._secrets[bucket] = statement

    def _load(self, name: str) -> None:
        if name not in self._extensions:
            self.connection.load_extension(extension(name))
            self._extensions.add(name)


def extension(name: str) -> str:
    """The path of a DuckDB extension as the wheel ``duckdb-extension-<name>`` carries it: nothing is copied or downloaded."""
    folder = importlib.resources.files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
    return str(folder / f"{name}.duckdb_extension")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
