"""How ``memory_limit`` is shared out (DESIGN invariant I9): the whole process, interpreter and libraries included."""

from __future__ import annotations

from dataclasses import dataclass

from connectors.kafka import Limits
from flows.settings import RunSettings

MIB = 1024 * 1024
PROCESS_BYTES = 260 * MIB  # measured: interpreter, Arrow, DuckDB, deltalake and librdkafka, with one flow that is idle


@dataclass(frozen=True, slots=True)
class Budget:
    """What one flow of a run may hold, in bytes."""

    limits: Limits
    flush_bytes: int
    duckdb_bytes: int


def share(settings: RunSettings, flows: int, tables_per_flow: int) -> Budget:
    """Split the limit over the flows that run at the same time, each lane of a flow, and each table's buffer."""
    free = max(64 * MIB, settings.memory_limit - PROCESS_BYTES) // max(1, flows)
    lane = free // settings.workers
    # a batch is held as messages, as columns, decoded and written: about eight times its bytes, beside the prefetch queue
    batch_bytes = max(256 * 1024, min(settings.batch_bytes, lane // 24))
    return Budget(
        Limits(
            commit_rows=settings.commit_rows,
            commit_bytes=settings.commit_bytes,
            commit_interval_s=settings.commit_interval_s,
            batch_rows=settings.batch_rows,
            batch_bytes=batch_bytes,
            prefetch_bytes=max(MIB, min(32 * MIB, lane // 8)),
        ),
        flush_bytes=max(MIB, min(16 * MIB, free // 8 // max(1, tables_per_flow))),
        duckdb_bytes=max(32 * MIB, free // 8),
    )
