"""What a table with ``tombstone_retention_s`` may lack: tombstones that are old enough, and the rows that these deleted.

It is settled once the log has been read: a delete may come long after its row, and in another partition.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from flows.sql.tree import SESSION, quoted
from flows.upsert import DELETED, Upsert
from infra.audit.rows import Rows
from sinks.keys import Keys

MISSING = "rows are missing that the log gives"
YOUNG = "tombstones are missing that are younger than tombstone_retention_s"
BACK = "keys have rows that the log has deleted after them"


@dataclass(slots=True)
class Forgotten:
    """Rows that the log gives of one table and that it does not hold, none of which a row of the table outranks.

    ``bare``: SQL over ``given``: deletes without a sequence, which outrank what has a lesser offset.
    """

    rows: Rows
    upsert: Upsert
    schema: pa.Schema
    newest: datetime | None = None
    _gone: list[pa.Table] = field(default_factory=list)

    def see(self, rows: pa.Table) -> None:
        """Rows of the table as the log gives them, whether it holds them or not."""
        latest = pc.max(rows.column("_timestamp")).as_py()
        if latest is not None:
            self.newest = latest if self.newest is None else max(self.newest, latest)

    def add(self, rows: pa.Table, bare: str) -> None:
        """Keep what decides about rows that are not there."""
        missing = self.rows.not_outranked(rows, self._keys.order_sql, bare) if rows.num_rows else []
        kept = rows.filter(pc.is_in(rows.column("_offset"), pa.array(missing, pa.int64())))
        names = dict.fromkeys([*self.upsert.key, *self._keys.order, "_partition", "_offset", "_timestamp", DELETED])
        if kept.num_rows:
            self._gone.append(kept.select(list(names)))

    def settle(self) -> dict[str, list[tuple[int, int]]]:
        """What is wrong -> (partition, offset) of each row that shows it."""
        if not self._gone:
            return {}
        gone = pa.concat_tables(self._gone)
        dead, alive = gone.filter(gone.column(DELETED)), gone.filter(pc.invert(gone.column(DELETED)))
        found = {YOUNG: self._young(dead), BACK: sorted(self.rows.earlier(dead)), MISSING: self._not_deleted(alive, dead)}
        return {problem: places for problem, places in found.items() if places}

    @property
    def _keys(self) -> Keys:
        return Keys.of_upsert(self.upsert, self.schema)

    def _young(self, dead: pa.Table) -> list[tuple[int, int]]:
        assert self.upsert.tombstone_retention_s is not None
        if self.newest is None:
            return []
        horizon = pa.scalar(self.newest - timedelta(seconds=self.upsert.tombstone_retention_s), dead.schema.field("_timestamp").type)
        old = pc.fill_null(pc.less(dead.column("_timestamp"), horizon), False)
        return _places(dead.filter(pc.invert(old)))

    def _not_deleted(self, alive: pa.Table, dead: pa.Table) -> list[tuple[int, int]]:
        """Rows that no forgotten delete of their key outranks."""
        same = " AND ".join(f"dead.{quoted(name)} = alive.{quoted(name)}" for name in self.upsert.key)
        sequence = self.upsert.open_sequence
        bare = f"dead.{quoted(sequence)} IS NULL" if sequence is not None else "false"
        order = self._keys.order_sql
        later = f"CASE WHEN {bare} THEN dead._offset > alive._offset ELSE {order('dead')} > {order('alive')} END"
        with duckdb.connect() as connection:
            connection.execute(SESSION)
            connection.register("dead", dead)
            connection.register("alive", alive)
            sql = f"SELECT _partition, _offset FROM alive WHERE NOT EXISTS (SELECT 1 FROM dead WHERE {same} AND {later}) ORDER BY ALL"
            return connection.execute(sql).fetchall()


def _places(rows: pa.Table) -> list[tuple[int, int]]:
    return sorted(zip(rows.column("_partition").to_pylist(), rows.column("_offset").to_pylist(), strict=True))
