"""DuckDB inside a dataflow: one database for a worker thread, and a cursor of it for each table.

A database costs 2.5 MB, a cursor next to nothing (measured); and one limit bounds what the SQL of all tables holds at a time.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from flows.sql.tree import SESSION, connect

# DuckDB's optimizers may evaluate an expression on rows that a condition keeps from it, or a condition before the one on its left, and
# then other records would raise with other versions. Only columns that nothing uses are left out: SQL means what it says.
_LITERAL = "SELECT string_agg(name, ',') FROM duckdb_optimizers() WHERE name <> 'unused_columns'"


class Database:
    """An in-memory database for one thread, opened by the first cursor. ``memory_bytes``: most that its queries hold (None: DuckDB's)."""

    def __init__(self, memory_bytes: int | None = None) -> None:
        self._memory_bytes = memory_bytes
        self._root: duckdb.DuckDBPyConnection | None = None

    def cursor(self) -> Cursor:
        """A connection of its own to the database."""
        if self._root is None:
            self._root = self._open()
        return Cursor(self._root.cursor())

    def _open(self) -> duckdb.DuckDBPyConnection:
        root = connect()
        (optimizers,) = root.execute(_LITERAL).fetchone() or ("",)
        root.execute(f"SET disabled_optimizers = '{optimizers}'")
        if self._memory_bytes is not None:
            root.execute(f"SET memory_limit = '{self._memory_bytes}B'")
        return root


class Cursor:
    """Asks SQL about rows of Arrow, which it holds no longer than that takes."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        connection.execute(SESSION)  # a cursor does not inherit them

    def query(self, sql: str, **tables: pa.Table) -> pa.Table:
        """The answer to ``sql``, which reads ``tables`` by their names. Raises duckdb.Error.

        In pieces of as many rows: by default DuckDB reserves room for a million in each column of each answer.
        """
        try:
            for name, rows in tables.items():
                self._connection.register(name, rows)
            return self._connection.execute(sql).to_arrow_table(max(1, *(rows.num_rows for rows in tables.values())))
        finally:
            for name in tables:
                self._connection.unregister(name)

    def close(self) -> None:
        """Free the connection."""
        self._connection.close()
