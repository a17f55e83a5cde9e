"""Tombstones of records without a value: their sequence is that of an earlier row of their key (sinks.deletes)."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from flows.database import Database
from flows.sql.tree import quoted
from infra.audit.rows import Rows
from sinks.deletes import without_sequence


class Tombstones:
    """Those that an upsert table holds of one partition of the log, and which of them an earlier row of the log accounts for.

    The log is shown batch after batch. What a row with a greater sequence would have changed shows in the rows themselves: it would
    have to be outranked.
    """

    def __init__(self, rows: Rows, key: Sequence[str], sequence: str, partition: int) -> None:
        self._stored = rows.tombstones_of(partition, [*key, sequence])
        self._sequence = sequence
        self._cursor = Database().cursor()
        same = " AND ".join(f"stored.{quoted(name)} = made.{quoted(name)}" for name in key)
        self._sql = (
            f"SELECT DISTINCT stored._offset FROM stored JOIN made ON {same} AND stored.{quoted(sequence)} = made.{quoted(sequence)} "
            "AND made._offset < stored._offset"
        )
        self._accounted: set[int] = set()

    def fill(self, made: pa.Table) -> tuple[pa.Table, list[int]]:
        """``made`` with the stored sequence of each stored delete that has none, and the offsets of those without an earlier row."""
        columns = [name for name in self._stored.column_names if name in made.column_names]
        if self._stored.num_rows:
            found = self._cursor.query(self._sql, stored=self._stored, made=made.select(columns))
            self._accounted.update(found.column("_offset").to_pylist())
        bare = without_sequence(made, self._sequence)
        if not pc.any(bare).as_py():
            return made, []
        offsets = made.column("_offset").combine_chunks()
        places = pc.index_in(offsets, self._stored.column("_offset").combine_chunks())
        stored = self._stored.column(self._sequence).combine_chunks().take(places)
        place = made.schema.get_field_index(self._sequence)
        filled = pc.if_else(bare, stored.cast(made.schema.types[place]), made.column(place))
        claims = pc.and_(bare, pc.is_valid(stored))
        alone = [offset for offset in offsets.filter(claims.combine_chunks()).to_pylist() if offset not in self._accounted]
        return made.set_column(place, made.schema.field(place), filled), alone
