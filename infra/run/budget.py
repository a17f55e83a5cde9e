"""How ``memory_limit`` is shared out (DESIGN invariant I9): the whole process, interpreter and libraries included."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.kafka import Limits
from flows.settings import RunSettings

MIB = 1024 * 1024
PROCESS_BYTES = 260 * MIB  # measured: interpreter, Arrow, DuckDB, deltalake and librdkafka, with one flow that is idle
TABLE_BYTES = 2 * MIB  # measured: a quarter of that while a table is idle, with its table of rejects; the rest are its open files


@dataclass(frozen=True, slots=True)
class Budget:
    """What one flow of a run may hold, in bytes. ``duckdb_bytes``: of each worker."""

    limits: Limits
    flush_bytes: int
    duckdb_bytes: int
    leaf_bytes: int


def share(settings: RunSettings, flows: int, tables: int) -> Budget:
    """Split the limit over the flows that run at the same time, each lane of a flow, and each table's buffer.

    ``tables``: of one flow. Those of rejects do not count: a record's bytes are in one of the two.
    """
    tables = max(1, tables)
    free = max(64 * MIB, settings.memory_limit - PROCESS_BYTES - flows * tables * TABLE_BYTES) // max(1, flows)
    lane = free // settings.workers
    # A batch is held as messages and as columns, waiting and at work: twelve times its bytes; and each table makes its own rows of it,
    # which its sink holds: up to five times. Twice that, because pools keep as much again for a while (measured, as the next lines are).
    batch_bytes = max(256 * 1024, min(settings.batch_bytes, lane // (24 + 10 * tables)))
    return Budget(
        Limits(
            commit_rows=settings.commit_rows,
            commit_bytes=settings.commit_bytes,
            commit_interval_s=settings.commit_interval_s,
            batch_rows=settings.batch_rows,
            batch_bytes=batch_bytes,
            prefetch_bytes=max(MIB, min(32 * MIB, lane // 16)),
        ),
        # a sink holds up to twice that, and as much again is being written: an eighth of what is free for all tables
        flush_bytes=max(MIB // 4, min(16 * MIB, free // 32 // tables)),
        # a bound for the SQL's own work, which is short: a batch that does not fit is halved, but a record cannot be
        duckdb_bytes=max(128 * MIB, lane // 2),
        # two leaves are merged at a time, each held as it was, joined, and as it will be
        leaf_bytes=max(MIB, min(64 * MIB, free // 16)),
    )
