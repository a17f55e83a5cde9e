"""DuckDB over versions of tables that a run itself keeps: attached when they are asked for, detached when others take their place."""

from __future__ import annotations

import tempfile

import duckdb
import pyarrow as pa

from flows.sql.tree import SESSION
from sinks.address import TableAddress
from sinks.engine import attach_sql, delta_extension


class Versions:
    """One in-memory database, for one thread at a time. ``memory_bytes``: most that its queries hold; the rest spills to disk."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._attached: dict[str, str] = {}

    def table(self, address: TableAddress, version: int) -> str:
        """The table at a version, as SQL names it. Raises duckdb.Error when its log cannot be read."""
        name = f'"{address.name}/{address.generation}@{version}"'
        if name not in self._attached:
            self._open().execute(attach_sql(address.uri, version, name))
            self._attached[name] = f"{address.name}/{address.generation}"
        return name

    def keep(self, address: TableAddress, version: int) -> None:
        """Detach the other versions of a table."""
        table, kept = f"{address.name}/{address.generation}", self.table(address, version)
        for name in [name for name, of in self._attached.items() if of == table and name != kept]:
            self._open().execute(f"DETACH {name}")
            del self._attached[name]

    def run(self, sql: str) -> None:
        """Raises duckdb.Error."""
        self._open().execute(sql)

    def ask(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The answer to ``sql``, which may read ``tables`` by their names. Raises duckdb.Error."""
        connection = self._open()
        try:
            for name, rows in tables.items():
                connection.register(name, rows)
            return connection.execute(sql).to_arrow_table()
        finally:
            for name in tables:
                connection.unregister(name)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._spill is not None:
            self._spill.cleanup()

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            self._spill = tempfile.TemporaryDirectory(prefix="kappa-summary-")
            limits: dict[str, str | bool | int | float | list[str]] = {
                "memory_limit": f"{self._memory_bytes}B",
                "temp_directory": self._spill.name,
            }
            self._connection = duckdb.connect(config=limits)
            self._connection.execute(SESSION)
            self._connection.load_extension(delta_extension())
        return self._connection
