"""The rows of a table against its ledger: each position once, none outside of what was committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.sql.tree import quoted
from infra.audit.findings import EXAMPLES, Proof
from sinks.engine import Engine, QueryFailed, message

CHUNK_OFFSETS = 4_000_000


class Rows:
    """One table pinned at the version that is audited. ``multiplies``: a record may have several rows, told apart by ``_row``;
    ``key``: of an upsert table, whose rows replace others.
    """

    def __init__(self, engine: Engine, table: str, key: Sequence[str] = ()) -> None:
        self.key = tuple(key)
        self._engine = engine
        schema, _, name = table.partition(".")
        self._from = f'"{schema}"."{name}"'
        self.table = table
        self.columns = engine.relation(f"FROM {self._from}").columns
        self.multiplies = "_row" in self.columns

    def totals(self) -> dict[int, tuple[int, int, int]]:
        """Partition -> (rows, least offset, greatest offset)."""
        found = self._ask(f"SELECT _partition, count(*), min(_offset), max(_offset) FROM {self._from} GROUP BY _partition")
        return {partition: (rows, least, greatest) for partition, rows, least, greatest in found}

    def check(self, proof: Proof, total: tuple[int, int, int] | None) -> None:
        """Count rows and distinct positions of a partition, in pieces of CHUNK_OFFSETS, and compare them with the ledger."""
        span, partition = proof.span, proof.partition
        rows, least, greatest = total or (0, span.start, span.start)
        proof.rows = rows
        if rows and (least < span.start or greatest >= span.end):
            outside = self._ask(
                f"SELECT _offset FROM {self._from} WHERE _partition = {partition} "
                f"AND NOT (_offset >= {span.start} AND _offset < {span.end}) ORDER BY 1 LIMIT {EXAMPLES}"
            )
            proof.find(f"rows lie outside of the committed range [{span.start}, {span.end})", (offset for (offset,) in outside))
        if not rows:
            return self._compare(proof)
        position = "_offset, _row" if self.multiplies else "_offset"
        for start in range(least, greatest + 1, CHUNK_OFFSETS):
            where = f"_partition = {partition} AND _offset >= {start} AND _offset < {min(start + CHUNK_OFFSETS, greatest + 1)}"
            ((offsets, positions, counted),) = self._ask(
                f"SELECT count(DISTINCT _offset), count(*), coalesce(sum(n), 0)::bigint "
                f"FROM (SELECT {position}, count(*) AS n FROM {self._from} WHERE {where} GROUP BY ALL)"
            )
            proof.offsets += offsets
            if positions != counted:
                doubled = self._ask(
                    f"SELECT _offset FROM {self._from} WHERE {where} GROUP BY {position} HAVING count(*) > 1 ORDER BY 1 LIMIT {EXAMPLES}"
                )
                proof.find(f"{counted - positions} rows are there twice", (offset for (offset,) in doubled))
        return self._compare(proof)

    def _compare(self, proof: Proof) -> None:
        if self.key:
            if proof.offsets > proof.span.written:
                proof.find(f"the rows have {proof.offsets} distinct positions, and the ledger says {proof.span.written} written")
            return
        if proof.offsets != proof.span.written:
            proof.find(f"the rows have {proof.offsets} distinct positions, and the ledger says {proof.span.written} written")

    def doubled_keys(self) -> list[tuple[str, int]]:
        """(key, rows) of keys that an upsert table has more than once, a few of them."""
        if not self.key:
            return []
        columns = ", ".join(map(quoted, self.key))
        query = f"SELECT to_json(struct_pack({columns}))::varchar, count(*) FROM {self._from} GROUP BY {columns} HAVING count(*) > 1"
        try:
            return self._engine.relation(f"{query} ORDER BY 1 LIMIT {EXAMPLES}").fetchall()
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def count(self) -> int:
        """How many rows there are."""
        ((number,),) = self._ask(f"SELECT count(*) FROM {self._from}")
        return number

    def tombstones(self) -> int:
        """How many rows are deleted keys."""
        ((number,),) = self._ask(f"SELECT count(*) FROM {self._from} WHERE _deleted")
        return number

    def tombstones_of(self, partition: int, columns: Sequence[str]) -> pa.Table:
        """``columns`` and ``_offset`` of the deleted keys whose latest record is of a partition of the log."""
        chosen = ", ".join(map(quoted, [*columns, "_offset"]))
        try:
            return self._engine.relation(f"SELECT {chosen} FROM {self._from} WHERE _deleted AND _partition = {partition}").to_arrow_table()
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def not_outranked(self, rows: pa.Table, order: Callable[[str], str], bare: str = "false") -> list[int]:
        """Offsets of ``rows``, which an upsert table does not hold, whose key has no later row there. ``order``: SQL that orders rows;
        ``bare``: which of them are deletes without a sequence, which only a row at a greater offset outranks.
        """
        same = " AND ".join(f"stored.{quoted(name)} = given.{quoted(name)}" for name in self.key)
        newer = f"CASE WHEN {bare} THEN stored._offset > given._offset ELSE {order('stored')} > {order('given')} END"
        later = f"SELECT 1 FROM {self._from} AS stored WHERE {same} AND {newer}"
        query = f"SELECT _offset FROM given WHERE NOT EXISTS ({later}) ORDER BY 1"
        try:
            return [offset for (offset,) in self._engine.relation(query, rows).fetchall()]
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def earlier(self, deletes: pa.Table) -> list[tuple[int, int]]:
        """(partition, offset) of ``deletes`` whose key has a row there that had come before them, in the same partition."""
        same = " AND ".join(f"stored.{quoted(name)} = given.{quoted(name)}" for name in self.key)
        before = "stored._partition = given._partition AND stored._offset < given._offset"
        query = f"SELECT _partition, _offset FROM given WHERE EXISTS (SELECT 1 FROM {self._from} AS stored WHERE {same} AND {before})"
        try:
            return self._engine.relation(query, deletes).fetchall()
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def read(self, partition: int, start: int, end: int) -> pa.Table:
        """The rows with positions in ``[start, end)``, by position. Raises QueryFailed."""
        order = "_offset, _row" if self.multiplies else "_offset"
        query = f"FROM {self._from} WHERE _partition = {partition} AND _offset >= {start} AND _offset < {end} ORDER BY {order}"
        try:
            return self._engine.relation(query).to_arrow_table()
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def offsets(self, partition: int, start: int, end: int) -> npt.NDArray[np.int64]:
        """The offsets of the rows in ``[start, end)``, ascending. Raises QueryFailed."""
        where = f"_partition = {partition} AND _offset >= {start} AND _offset < {end}"
        try:
            found = self._engine.relation(f"SELECT _offset FROM {self._from} WHERE {where} ORDER BY 1").to_arrow_table()
        except duckdb.Error as error:
            raise self._unreadable(error) from None
        offsets: npt.NDArray[np.int64] = found.column(0).to_numpy()
        return offsets

    def _ask(self, query: str) -> list[tuple[int, ...]]:
        try:
            return self._engine.relation(query).fetchall()
        except duckdb.Error as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: duckdb.Error) -> QueryFailed:
        """A data file is lost or damaged, which shows only when it is read."""
        return QueryFailed(f"table {self.table} cannot be read", cause=message(error))
