"""The Bytewax sink of a table: slices are buffered, written as files beside the stream, and committed by the owner.

A commit is made in ``snapshot()`` at the end of an epoch that carried a mark: rows and positions together, all partitions in one
Delta commit. Nothing raises through Bytewax (DESIGN invariant I8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

import pyarrow as pa
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.batch import Failure, Slice
from flows.control import RunControl
from flows.errors import KappaError
from flows.faults import reach
from flows.ledger import Span, count, drop_below
from sinks.errors import LedgerBroken
from sinks.files import Change, Pending
from sinks.landing import land
from sinks.maintenance import Maintenance
from sinks.owner import CommitInfo, Owner


@dataclass(frozen=True, slots=True)
class TableParts:
    """What a sink partition works with. ``starts``: (topic, partition) -> next position, also of partitions that it has not yet committed;
    ``pending`` makes what gathers the rows of one commit; ``multiplies``: a record may have several rows; ``still_live`` returns why the
    generation is live no more, or None; ``failed`` is called once the table has failed.
    """

    owner: Owner
    starts: Mapping[tuple[str, int], int]
    pending: Callable[[], Pending]
    multiplies: bool
    maintenance: Maintenance | None
    pool: ThreadPoolExecutor
    flush_bytes: int
    still_live: Callable[[], str | None]
    committed: Callable[[CommitInfo], None]
    failed: Callable[[], None] = lambda: None


class PositionGap(KappaError):
    """A batch does not begin where the table stands: a fault of the dataflow, never of the data."""

    def __init__(self, table: str, stands: int, part: Slice) -> None:
        super().__init__(
            f"{table} stands at {part.topic}/{part.partition}/{stands}, and the batch begins at {part.start}",
            cause="the batches of a partition do not join; committing them would lose records",
            next_step="kappa run: it goes on from the table's checkpoint; please report this",
        )


class TableSink(FixedPartitionedSink[Slice, None]):
    """One partition, the owner."""

    def __init__(self, table: str, parts: TableParts, control: RunControl) -> None:
        self._partition = TablePartition(table, parts, control)

    def list_parts(self) -> list[str]:
        return ["owner"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> TablePartition:
        """No resume state: the table is the checkpoint."""
        return self._partition


class TablePartition(StatefulSinkPartition[Slice, None]):
    """Buffers slices of all partitions of the log between two commits."""

    def __init__(self, table: str, parts: TableParts, control: RunControl) -> None:
        self._table = table
        self._parts = parts
        self._control = control
        self._positions = dict(parts.starts)
        self._multiplies = parts.multiplies
        # the first commit of a generation names every partition, so that one that is added later is noticed
        self._spans = {log: Span(at, at, 0, 0, 0, 0) for log, at in parts.starts.items() if log not in parts.owner.positions}
        self._warned: dict[str, int] = {}
        self._buffer: list[pa.Table] = []
        self._buffered_bytes = 0
        self._draft = parts.pending()
        self._piece: Future[None] | None = None  # the piece that is being written to the draft
        self._marked = False
        self._over = False

    def write_batch(self, values: list[Slice]) -> None:
        """Take the slices of one epoch."""
        for part in values:
            if self._is_over():
                return
            if part.failure is not None:
                self._fail(part.failure)
                return
            try:
                self._take(part)
                if self._marked:
                    self._flush(must=True)  # all tables write their last piece before the first of them commits
            except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
                self._stop_for(error)
                return

    def snapshot(self) -> None:
        """The end of an epoch: commit when it carried a mark."""
        if self._is_over() or not self._marked:
            return
        self._marked = False
        try:
            self._commit()
            if self._parts.maintenance is not None:
                self._parts.maintenance.after_commit(self._parts.owner)
        except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
            self._stop_for(error)

    def close(self) -> None:
        """Delete what no commit names, and give maintenance its end."""
        try:
            over = self._is_over()
            self._discard()
            if self._parts.maintenance is not None and not over:
                self._parts.maintenance.finish(self._parts.owner)
        except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
            self._stop_for(error)

    def _is_over(self) -> bool:
        """Whether nothing more is written: the run has broken off, or this branch has ended, if only because its upstream's sink failed."""
        if self._over or self._control.fatal is not None:
            return True
        failure = self._control.failures.get(self._table)
        if failure is not None:
            self._fail(failure)
        return self._over

    def _take(self, part: Slice) -> None:
        log = (part.topic, part.partition)
        stands = self._positions[log]
        self._marked |= part.mark
        needed = drop_below(part, stands)
        if needed is None or needed.end == needed.start:
            return
        if needed.start != stands:
            raise PositionGap(self._table, stands, part)
        span = count(needed)
        self._spans[log] = self._spans[log].then(span) if log in self._spans else span
        self._positions[log] = needed.end
        for rule, offsets in needed.warned.items():
            self._warned[rule] = self._warned.get(rule, 0) + len(offsets)
        if needed.rows.num_rows:
            self._buffer.append(needed.rows)
            self._buffered_bytes += needed.rows.nbytes
            if self._buffered_bytes >= self._parts.flush_bytes:
                self._flush(must=self._buffered_bytes >= 2 * self._parts.flush_bytes)

    def _flush(self, *, must: bool) -> None:
        """Hand the buffer to a writing thread once the piece before it is written. ``must``: wait for that, which bounds memory."""
        if not self._buffer:
            return
        if self._piece is not None:
            if not must and not self._piece.done():
                return
            self._piece.result()
        rows = pa.concat_tables(self._buffer)
        self._buffer, self._buffered_bytes = [], 0
        self._piece = self._parts.pool.submit(self._draft.write, rows)

    def _finish(self) -> CommitInfo:
        """Commit the rows that were taken; the next go to a new draft. Again when another program has changed the files meanwhile."""
        self._flush(must=True)
        if self._piece is not None:
            self._piece.result()
            self._piece = None
        info = land(self._draft, self._parts.owner, self._spans, self._warned, check=self._check_rows)
        self._draft = self._parts.pending()
        return info

    def _discard(self) -> None:
        """Drop what has not been committed."""
        self._buffer, self._buffered_bytes, self._spans, self._warned = [], 0, {}, {}
        if self._piece is not None:
            wait([self._piece])
        self._draft.discard()
        self._draft, self._piece = self._parts.pending(), None

    def _commit(self) -> None:
        why = self._parts.still_live()
        if why is not None:
            self._over = True
            self._control.end(self._table, why)
            return
        if not self._spans:
            self._parts.owner.check()
            return
        info = self._finish()
        self._spans, self._warned = {}, {}
        self._parts.committed(info)
        reach("between-tables")

    def _check_rows(self, change: Change) -> None:
        """What was written is what was counted: only a table with ``_row`` has more rows than records. Raises LedgerBroken."""
        rows, written = change.rows, sum(span.written for span in self._spans.values())
        if rows < written or (rows > written and not self._multiplies):
            raise LedgerBroken(self._table, f"{rows} rows were written to files, and {written} records were counted")

    def _stop_for(self, error: Exception) -> None:
        if isinstance(error, KappaError) and error.stops_run:
            self._control.abort(error)
            return
        where = tuple(f"{topic}/{partition}/{span.start}..{span.end}" for (topic, partition), span in self._spans.items())
        self._fail(Failure.of(self._table, error, where))

    def _fail(self, failure: Failure) -> None:
        """Mark the table failed, in its own log too, and drop what has not been committed."""
        self._over = True
        failure = replace(failure, table=self._table)
        self._control.fail(failure)
        try:
            self._discard()
        except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
            self._control.notify(f"{self._table}: what was not committed could not be deleted: {error}")
        write_failure(self._parts.owner, failure, self._control)
        self._parts.failed()


def write_failure(owner: Owner, failure: Failure, control: RunControl) -> None:
    """Write into a table why it has failed, for ``kappa tables`` and for readers. Never raises."""
    try:
        owner.fail(failure)
    except Exception as error:  # noqa: BLE001 - errors are data: nothing raises through Bytewax
        if isinstance(error, KappaError) and error.stops_run:
            control.abort(error)
        else:
            control.notify(f"{failure.table}: its failure could not be written into the table: {error}")
