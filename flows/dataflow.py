"""The dataflow of one source: consumed and decoded once, then fanned out to every table that derives from it.

The only caller of Bytewax operators::

    log -> raw.<source>
        -> stage -> staging.<source>, staging.<source>__rejected
                 -> conform -> core.<table>, core.<table>__rejected -> conform -> ...

Items are Arrow batches. Steps never raise: a failure travels in the item to the table's own sink (DESIGN invariant I8).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import bytewax.operators as op
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import DynamicSource
from bytewax.outputs import FixedPartitionedSink

from flows.batch import NO_OFFSETS, RAW, REJECTED, Batch, Failure, Slice, Staged, fitted
from flows.conform import Conform
from flows.contract import Source
from flows.control import RunControl
from flows.database import Database
from flows.errors import KappaError
from flows.plan import Node
from flows.stage import RuleFailed, Stage
from flows.stage.corrections import Stored

OWNER = "owner"  # the one sink partition of a table
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way through the tables: what one table made of it. ``filtered`` and ``rejected`` include the ancestors';
    ``deletes``: of staging.<source>, keys of records without a value, which are ``filtered`` there (flows.batch.Staged).
    """

    batch: Batch
    rows: pa.Table
    rejects: pa.Table
    filtered: pa.Int64Array
    rejected: pa.Int64Array
    rejected_upstream: pa.Int64Array = field(default_factory=lambda: NO_OFFSETS)
    warned: Mapping[str, pa.Int64Array] = field(default_factory=dict)
    deletes: pa.Table | None = None
    failure: Failure | None = None


class PerWorker(Generic[T]):
    """One object a worker thread: DuckDB databases are not shared between workers.

    Not ``threading.local``: to Python each call from Bytewax's threads is a thread of its own, whose locals die with the call.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: dict[int, T] = {}

    def get(self) -> T:
        worker = threading.get_ident()
        if worker not in self._made:
            self._made[worker] = self._make()
        return self._made[worker]


def build(
    source: Source,
    nodes: Sequence[Node],
    sinks: Mapping[str, FixedPartitionedSink[Slice, None]],
    log: DynamicSource[Batch],
    control: RunControl,
    max_rejects: int,
    duckdb_bytes: int | None = None,
    stored: Stored | None = None,
    schemas: Mapping[str, pa.Schema] | None = None,
) -> Dataflow:
    """The dataflow that feeds ``sinks`` (table name -> sink). ``nodes``: the source's append tables in topological order;
    ``duckdb_bytes``: what DuckDB may hold for all of them, in each worker; ``stored``: what the tables hold of the records before the
    flow's first ones, for their corrections; ``schemas``: of tables that store more columns than ``source`` and ``nodes`` give.
    """
    stores = schemas or {}
    flow = Dataflow(f"kappa-{source.name}")
    batches = op.input("log", flow, log)
    raw, staging = f"raw.{source.name}", f"staging.{source.name}"

    def connect(table: str, stream: Stream[T], share: Callable[[T], Slice]) -> None:
        if table in sinks:
            step = table.replace(".", "-")  # Bytewax keeps the period for itself
            op.output(step, op.map(f"share-{step}", stream, lambda item: (OWNER, share(item))), sinks[table])

    connect(raw, batches, raw_share)
    needed = _needed(nodes, sinks)
    if not needed and staging not in sinks and f"{staging}__rejected" not in sinks:
        return flow
    databases = PerWorker(lambda: Database(duckdb_bytes))
    works = {staging: op.map("stage", batches, Staging(source, control, databases, stored, stores.get(staging)))}
    for node in nodes:
        if node.name in needed:
            conforming = Conforming(node, control, max_rejects, databases, stores.get(node.name))
            works[node.name] = op.map(f"conform-{node.name.replace('.', '-')}", works[node.upstream], conforming)
    for table, stream in works.items():
        connect(table, stream, share)
        connect(f"{table}__rejected", stream, rejected_share)
    return flow


def _needed(nodes: Sequence[Node], sinks: Mapping[str, object]) -> set[str]:
    """The append tables that are wanted, and those on the way to them."""
    needed: set[str] = set()
    for node in reversed(nodes):
        if node.name in sinks or f"{node.name}__rejected" in sinks or any(n.upstream == node.name and n.name in needed for n in nodes):
            needed.add(node.name)
    return needed


# --- shares: what each table writes and counts of a batch


def raw_share(batch: Batch) -> Slice:
    """The records as received."""
    number = pa.repeat(pa.scalar(batch.partition, pa.int32()), batch.records.num_rows)
    rows = pa.Table.from_arrays([number, *batch.records.columns], schema=RAW)
    return _slice(batch, rows, NO_OFFSETS, NO_OFFSETS)


def share(work: Work) -> Slice:
    """The table's own rows."""
    return replace(_slice(work.batch, work.rows, work.filtered, work.rejected), warned=work.warned, failure=work.failure)


def rejected_share(work: Work) -> Slice:
    """The table's own rejects; every other record is filtered, counted by its position."""
    rest = [pc.unique(work.rows.column("_offset").combine_chunks()), work.filtered, work.rejected_upstream]
    return replace(_slice(work.batch, work.rejects, pa.concat_arrays(rest), NO_OFFSETS), failure=work.failure)


def _slice(batch: Batch, rows: pa.Table, filtered: pa.Int64Array, rejected: pa.Int64Array) -> Slice:
    return Slice(batch.topic, batch.partition, batch.start, batch.end, batch.records.column(0), rows, filtered, rejected, mark=batch.mark)


# --- steps


class Staging:
    """Batch -> Work of staging.<source>: bytes to typed columns, rejects split off."""

    def __init__(
        self,
        source: Source,
        control: RunControl,
        databases: PerWorker[Database],
        stored: Stored | None = None,
        schema: pa.Schema | None = None,
    ) -> None:
        self._stage = PerWorker(lambda: Stage(source, databases.get(), stored=stored))
        self._table = f"staging.{source.name}"
        self._schema = schema or source.staging_schema
        self._empty = self._schema.empty_table()
        self._control = control

    def __call__(self, batch: Batch) -> Work:
        failure = self._control.failures.get(self._table)
        if failure is not None:
            return _dead(batch, self._empty, failure)
        try:
            staged = self._stage.get().stage(batch)
            check_staged(self._table, staged, batch)
        except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
            return _dead(batch, self._empty, _failed(self._control, self._table, batch, error))
        rejected = _offsets(staged.rejects)
        rows = fitted(staged.rows, self._schema)
        return Work(batch, rows, staged.rejects, staged.filtered, rejected, warned=staged.warned, deletes=staged.deletes)


class Conforming:
    """Work of the upstream -> Work of an append table: the user's SQL over the batch."""

    def __init__(
        self, node: Node, control: RunControl, max_rejects: int, databases: PerWorker[Database], schema: pa.Schema | None = None
    ) -> None:
        self._conform = PerWorker(lambda: Conform(node, databases.get()))
        self._node = node
        self._schema = schema or node.schema
        self._empty = self._schema.empty_table()
        self._control = control
        self._max_rejects = max_rejects
        self._lock = threading.Lock()
        self._rejects = 0

    def __call__(self, upstream: Work) -> Work:
        batch, table = upstream.batch, self._node.name
        failure = self._control.failures.get(table)
        if failure is None and upstream.failure is not None:
            failure = upstream.failure.inherited_by(table)
            self._control.fail(failure)
        if failure is not None:
            return _dead(batch, self._empty, failure)
        try:
            made = self._conform.get().conform(upstream.rows, batch, upstream.deletes)
            self._count_rejects(made.rejects.num_rows)
        except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
            return _dead(batch, self._empty, _failed(self._control, table, batch, error))
        return Work(
            batch,
            fitted(made.rows, self._schema),
            made.rejects,
            pa.concat_arrays([made.left_out(upstream.filtered), made.filtered]),
            pa.concat_arrays([upstream.rejected, _offsets(made.rejects)]),
            rejected_upstream=upstream.rejected,
            warned={},
        )

    def _count_rejects(self, count: int) -> None:
        with self._lock:
            self._rejects += count
            if self._rejects > self._max_rejects:
                raise TooManyRejects(self._node.name, self._rejects, self._max_rejects)


class StageUnbalanced(KappaError):
    """The contract's decoder lost or doubled records: committing them would break the ledger."""


def check_staged(table: str, staged: Staged, batch: Batch) -> None:
    """Every record of the batch is in exactly one of rows, rejects and filtered. Raises StageUnbalanced."""
    expected = batch.records.column(0).to_numpy()
    ended = np.concatenate([column.to_numpy() for column in (staged.rows["_offset"], staged.rejects["_offset"], staged.filtered)])
    if staged.rows.num_rows < len(ended):
        ended.sort()
    if not np.array_equal(ended, expected):
        wrong = np.setxor1d(ended, expected)[:5].tolist()
        raise StageUnbalanced(
            f"{table} does not account for every record of {batch.topic}/{batch.partition}, offsets {batch.start} to {batch.end}",
            cause=f"{len(expected)} records gave {len(ended)} rows, rejects and filtered; lost or made up, at most five shown: {wrong}",
            next_step=f"report this with the contract of {table}; nothing of this batch was committed",
        )


class TooManyRejects(KappaError):
    """A table's SQL raised on more records of a run than ``max_rejects``."""

    def __init__(self, table: str, rejects: int, limit: int) -> None:
        super().__init__(
            f"{table} refused {rejects} records in this run",
            cause=f"its SQL raised on more records than [run] max_rejects = {limit}",
            next_step=f"correct the SQL of {table}, then kappa apply; or raise max_rejects",
        )


def _offsets(rejects: pa.Table) -> pa.Int64Array:
    return rejects.column("_offset").combine_chunks()


def _dead(batch: Batch, empty: pa.Table, failure: Failure) -> Work:
    return Work(batch, empty, REJECTED.empty_table(), NO_OFFSETS, NO_OFFSETS, failure=failure)


def _failed(control: RunControl, table: str, batch: Batch, error: Exception) -> Failure:
    where = str(error.position) if isinstance(error, RuleFailed) else f"{batch.topic}/{batch.partition}/{batch.start}..{batch.end}"
    failure = Failure.of(table, error, (where,))
    control.fail(failure)
    return failure
