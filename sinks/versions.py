"""DuckDB over versions of tables that a run itself keeps: attached when they are asked for, detached when others take their place."""

from __future__ import annotations

import tempfile

import pyarrow as pa

from flows.sql.tree import SESSION
from sinks.address import TableAddress
from sinks.attachment import Attachments, connect


class Versions:
    """One in-memory database, for one thread at a time. ``memory_bytes``: most that its queries hold; the rest spills to disk."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._delta: Attachments | None = None
        self._attached: dict[str, str] = {}

    def table(self, address: TableAddress, version: int) -> str:
        """The table at a version, as SQL names it. Raises duckdb.Error when its log cannot be read, ObjectStoreFailed."""
        name = f'"{address.name}/{address.generation}@{version}"'
        if name not in self._attached:
            self._open().attach(address.uri, version, name)
            self._attached[name] = f"{address.name}/{address.generation}"
        return name

    def keep(self, address: TableAddress, version: int) -> None:
        """Detach the other versions of a table."""
        table, kept = f"{address.name}/{address.generation}", self.table(address, version)
        for name in [name for name, of in self._attached.items() if of == table and name != kept]:
            self._open().connection.execute(f"DETACH {name}")
            del self._attached[name]

    def run(self, sql: str) -> None:
        """Raises duckdb.Error."""
        self._open().connection.execute(sql)

    def ask(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The answer to ``sql``, which may read ``tables`` by their names. Raises duckdb.Error."""
        connection = self._open().connection
        try:
            for name, rows in tables.items():
                connection.register(name, rows)
            return connection.execute(sql).to_arrow_table()
        finally:
            for name in tables:
                connection.unregister(name)

    def close(self) -> None:
        if self._delta is not None:
            self._delta.connection.close()
        if self._spill is not None:
            self._spill.cleanup()

    def _open(self) -> Attachments:
        if self._delta is None:
            self._spill = tempfile.TemporaryDirectory(prefix="kappa-summary-")
            connection = connect({"memory_limit": f"{self._memory_bytes}B", "temp_directory": self._spill.name})
            connection.execute(SESSION)
            self._delta = Attachments(connection)
        return self._delta
