"""Run a table's SQL over the rows of its upstream, in DuckDB, a batch at a time; records that the SQL cannot take become rejects.

Every offset of the input ends in exactly one of rows, filtered and rejects: found by evaluating, never by subtraction, and then checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import NO_OFFSETS, REJECTED, Batch, Transformed, fitted
from flows.database import Database
from flows.errors import KappaError
from flows.plan import Node
from flows.sql.rewrite import ROW, UPSTREAM, Part
from flows.stage.codes import Code
from flows.upsert import tombstones, without_values

# What a record's values can make DuckDB raise. Anything else (memory, an interrupt, a fault of DuckDB) is not the record's.
_RECORD_ERRORS = (duckdb.DataError, duckdb.ProgrammingError, duckdb.IntegrityError, duckdb.NotSupportedError)
_REASON_CHARACTERS = 1000
_VALUE_CHARACTERS = 100

_Offsets = npt.NDArray[np.int64]


class TransformUnbalanced(KappaError):
    """A table's SQL lost or doubled records: committing them would break the ledger."""


class TransformFailed(KappaError):
    """DuckDB failed on a batch for a reason that is no record's: memory, an interrupt, a fault."""


@dataclass(slots=True)
class _Outcome:
    """What the SQL made of consecutive pieces of one batch, in order."""

    rows: list[pa.Table] = field(default_factory=list)
    filtered: list[_Offsets] = field(default_factory=list)
    rejected: list[tuple[int, Code, str]] = field(default_factory=list)


class Conform:
    """One table's transform, with a cursor of its own. For the thread of its database; cheap to keep, so keep one for each table."""

    def __init__(self, node: Node, database: Database | None = None) -> None:
        self.node = node
        self._partition_texts = [name for name in node.partition_by if pa.types.is_string(node.schema.field(name).type)]
        self._cursor = (database or Database()).cursor()

    def conform(self, rows: pa.Table, batch: Batch, deletes: pa.Table | None = None) -> Transformed:
        """Transform the upstream's ``rows`` of ``batch``, which are sorted by ``_offset`` (and ``_row``).

        ``deletes``: the keys of records without a value, which an upsert table may take as tombstones.
        Rejects carry the key, value and headers of the batch's records. Raises TransformFailed and TransformUnbalanced.
        """
        outcome = _Outcome()
        rows = fitted(rows, self.node.upstream_schema)  # of an upstream that has got more columns since this SQL was bound, or had fewer
        try:
            if rows.num_rows:
                self._transform(rows, outcome)
        except duckdb.Error as error:
            raise TransformFailed(
                f"the SQL of {self.node.name} failed on {_where(batch)}",
                cause=str(error),
                next_step="kappa run again; if memory was short, with a greater run.memory_limit in warehouse.toml",
            ) from error
        made = pa.concat_tables(outcome.rows) if outcome.rows else self.node.schema.empty_table()
        filtered = np.sort(np.concatenate(outcome.filtered)) if outcome.filtered else np.empty(0, np.int64)
        self._check(rows, made, filtered, outcome.rejected, batch)
        deleting = NO_OFFSETS
        if deletes is not None and self.node.upsert is not None and self.node.upsert.delete_key:
            deleting = deletes.column("_offset").combine_chunks()
            gone = tombstones(self.node.schema, self.node.upsert, deletes)
            made = pa.concat_tables([made, self._without_empty_partitions(gone, outcome)])
        outcome.rejected.sort()
        return Transformed(made, pa.array(filtered), _rejects(outcome.rejected, batch), deleting)

    def close(self) -> None:
        """Free the cursor."""
        self._cursor.close()

    def _transform(self, rows: pa.Table, outcome: _Outcome) -> None:
        """Transform ``rows``; when the SQL raises, put the records on which it does aside and transform the others."""
        try:
            made, filtered = self._attempt(rows)
        except _RECORD_ERRORS as error:
            self._set_aside(rows, error, outcome)
            return
        except duckdb.OutOfMemoryException:
            if len(halves := _halves(rows)) == 1:
                raise
            for half in halves:
                self._transform(half, outcome)
            return
        outcome.rows.append(self._keyed(self._without_empty_partitions(made, outcome), outcome))
        outcome.filtered.extend(filtered)

    def _without_empty_partitions(self, made: pa.Table, outcome: _Outcome) -> pa.Table:
        """Delta stores an empty text in a partition column as NULL: a record with such a row is a reject, rather than altered silently."""
        for name in self._partition_texts:
            empty = pc.equal(made.column(name), "").fill_null(False)
            reason = f"the partition column {name} is '', which Delta stores as NULL; NULLIF({name}, '') says so in the SQL"
            made = _refuse(made, empty, Code.TRANSFORM_ERROR, reason, outcome)
        return made

    def _keyed(self, made: pa.Table, outcome: _Outcome) -> pa.Table:
        """Rows of an upsert table: a record with a row without its key is a reject; a deleted row keeps nothing but its key."""
        upsert = self.node.upsert
        if upsert is None:
            return made
        for name in upsert.key:
            if made.column(name).null_count:
                made = _refuse(made, pc.is_null(made.column(name)), Code.NULL_KEY, f"the key column {name} is null", outcome)
        kept = (*upsert.key, *self.node.partition_by, *([upsert.sequence] if upsert.sequence else []))
        return without_values(made, kept)

    def _set_aside(self, rows: pa.Table, error: duckdb.Error, outcome: _Outcome) -> None:
        if bad := self._probe(rows):
            outcome.rejected.extend((offset, Code.TRANSFORM_ERROR, reason) for offset, reason in bad.items())
            good = rows.filter(pc.invert(pc.is_in(rows.column("_offset"), pa.array(bad, pa.int64()))))
            if good.num_rows:
                self._transform(good, outcome)
        elif len(halves := _halves(rows)) == 1:
            outcome.rejected.append((rows.column("_offset")[0].as_py(), Code.TRANSFORM_ERROR, _reason(error)))
        else:
            for half in halves:
                self._transform(half, outcome)

    def _probe(self, rows: pa.Table) -> dict[int, str]:
        """offset -> reason of the records on which an expression raises; empty when the SQL's shape does not allow to ask so."""
        probe = self.node.probe
        if probe is None:
            return {}
        try:
            flags = self._query(probe.sql, rows)
        except (*_RECORD_ERRORS, duckdb.OutOfMemoryException):  # or one that TRY does not catch, such as an unknown time zone: bisect
            return {}
        reasons: dict[int, str] = {}
        for part, raised in zip(probe.parts, flags.columns[1:], strict=True):
            for row in np.flatnonzero(raised.to_numpy()).tolist():
                reasons.setdefault(flags.column(0)[row].as_py(), _explain(part, rows, row))
        return reasons

    def _attempt(self, rows: pa.Table) -> tuple[pa.Table, list[_Offsets]]:
        if self.node.picks is not None:
            return self._one_to_one(rows), []
        made = self._ordered(self._query(self.node.transform_sql, rows))
        filtered = [_offsets(self._query(sql, rows)) for sql in self.node.filter_sqls]
        return made.select(self.node.schema.names).cast(self.node.schema), filtered

    def _query(self, sql: str, rows: pa.Table) -> pa.Table:
        return self._cursor.query(sql, **{UPSTREAM: rows})

    def _one_to_one(self, rows: pa.Table) -> pa.Table:
        """Columns that are the upstream's are taken as they are; only the others pass through DuckDB."""
        node = self.node
        assert node.picks is not None
        columns: dict[str, Any] = {new: rows.column(old) for new, old in node.picks.items()}
        if node.computed_sql is not None:
            computed = self._query(node.computed_sql, rows)
            assert np.array_equal(_offsets(computed), _offsets(rows)), "DuckDB changed the order of rows"
            columns |= {name: computed.column(name) for name in computed.column_names if name != "_offset"}
        given = [columns[name] if name in columns else rows.column(name) for name in node.schema.names]
        return pa.table(given, names=node.schema.names).cast(node.schema)

    def _ordered(self, made: pa.Table) -> pa.Table:
        """Rows by position; the rows of one record by their ordinals, which become ``_row`` when this table's unnest made them."""
        if self.node.unnests:
            keys = [(name, "ascending") for name in ("_offset", *self.node.ordinals)]
            made = made.take(pc.sort_indices(made, sort_keys=keys))
            ordinal = pa.array(_ordinals(_offsets(made)), pa.int32())
            return made.drop_columns([ROW]).append_column(ROW, ordinal) if ROW in made.column_names else made.append_column(ROW, ordinal)
        assert (np.diff(_offsets(made)) >= 0).all(), "DuckDB changed the order of rows"
        return made

    def _check(self, rows: pa.Table, made: pa.Table, filtered: _Offsets, rejected: list[tuple[int, Code, str]], batch: Batch) -> None:
        """Every input offset is in exactly one of the three: the ledger's guard."""
        written = _offsets(made)
        if self.node.has_row:
            written = np.unique(written)
        refused = np.fromiter((offset for offset, *_ in rejected), np.int64, len(rejected))
        ended = np.concatenate([written, filtered, refused])
        if len(filtered) or len(refused):
            ended.sort()
        expected = _offsets(rows)
        if self.node.has_row and len(expected):
            expected = expected[np.r_[True, np.diff(expected) > 0]]
        if np.array_equal(ended, expected):
            return
        lost = np.setdiff1d(expected, ended)[:5].tolist()
        values, counts = np.unique(ended, return_counts=True)
        doubled = values[counts > 1][:5].tolist()
        raise TransformUnbalanced(
            f"the SQL of {self.node.name} does not account for every record of {_where(batch)}",
            cause=f"lost offsets {lost}, counted twice {doubled} (at most five of each are shown)",
            next_step=f"report this with the SQL of {self.node.name}; nothing of this batch was committed",
        )


def _refuse(made: pa.Table, bad: pa.ChunkedArray, code: Code, reason: str, outcome: _Outcome) -> pa.Table:
    """``made`` without the records that have a row in ``bad``, which become rejects."""
    if not pc.any(bad).as_py():
        return made
    offsets = np.unique(_offsets(made.filter(bad)))
    outcome.rejected.extend((offset, code, reason) for offset in offsets.tolist())
    return made.filter(pc.invert(pc.is_in(made.column("_offset"), pa.array(offsets))))


def _where(batch: Batch) -> str:
    return f"{batch.topic}/{batch.partition}, offsets {batch.start} to {batch.end}"


def _offsets(table: pa.Table) -> _Offsets:
    values: _Offsets = table.column("_offset").to_numpy()
    return values


def _ordinals(offsets: _Offsets) -> _Offsets:
    """0-based place of each row among the rows of its offset; ``offsets`` are sorted."""
    starts = np.flatnonzero(np.r_[True, np.diff(offsets) > 0]) if len(offsets) else np.empty(0, np.int64)
    lengths = np.diff(np.append(starts, len(offsets)))
    return np.arange(len(offsets)) - np.repeat(starts, lengths)


def _halves(rows: pa.Table) -> list[pa.Table]:
    """Rows cut in two between records; one piece when they are one record's."""
    offsets = _offsets(rows)
    if offsets[0] == offsets[-1]:
        return [rows]
    middle = offsets[len(offsets) // 2]
    cut = int(np.searchsorted(offsets, middle, "left")) or int(np.searchsorted(offsets, middle, "right"))
    return [rows.slice(0, cut), rows.slice(cut)]


def _explain(part: Part, rows: pa.Table, row: int) -> str:
    """Which expression raised on which values; the same words whatever else is in the batch."""
    values = ", ".join(f"{name} = {str(rows.column(name)[row].as_py())[:_VALUE_CHARACTERS]!r}" for name in part.sources)
    return f"{part.label}: {part.sql} raised an error for {values or 'this row'}"[:_REASON_CHARACTERS]


def _reason(error: duckdb.Error) -> str:
    return str(error).split("\n\nLINE ")[0].strip()[:_REASON_CHARACTERS]


def _rejects(rejected: list[tuple[int, Code, str]], batch: Batch) -> pa.Table:
    """REJECTED rows for (offset, code, reason), in offset order."""
    if not rejected:
        return REJECTED.empty_table()
    offsets = np.array([offset for offset, *_ in rejected], np.int64)
    records = batch.records.take(pa.array(np.searchsorted(batch.records.column("_offset").to_numpy(), offsets)))
    assert records.column("_offset").to_numpy().tolist() == offsets.tolist(), "a reject without its record"
    count = len(rejected)
    columns = [
        pa.repeat(pa.scalar(batch.partition, pa.int32()), count),
        *records.columns,
        pa.array([code.value for _, code, _ in rejected], pa.string()),
        pa.nulls(count, pa.string()),
        pa.nulls(count, pa.string()),
        pa.array([reason for *_, reason in rejected], pa.string()),
    ]
    return pa.table(columns, schema=REJECTED)
