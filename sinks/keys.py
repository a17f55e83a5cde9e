"""Keys of an upsert table as bytes whose order is that of the key, and rows sorted by them.

DuckDB's ``create_sort_key`` makes of any columns one BLOB that compares as they do; so key order is the order of bytes, whatever the types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.database import Cursor
from flows.sql.tree import quoted
from flows.upsert import Upsert

SAMPLE_ROWS = 101


@dataclass(frozen=True, slots=True)
class Latest:
    """The latest row of each key, in key order. ``keys``: sort keys of the rows; ``orders``: what decides between two rows of a key."""

    rows: pa.Table
    keys: pa.BinaryArray
    orders: pa.BinaryArray

    def slice(self, start: int, end: int) -> Latest:
        return Latest(self.rows.slice(start, end - start), self.keys.slice(start, end - start), self.orders.slice(start, end - start))


class Keys:
    """The SQL of a table's keys. ``columns``: of the key, in the order that cuts files; ``order``: what decides between two rows of a key,
    none when a row given later always wins. Partition columns are left out: within a partition they do not differ.
    """

    def __init__(self, columns: Sequence[str], order: Sequence[str], partition_by: Sequence[str] = ()) -> None:
        self.columns = tuple(name for name in columns if name not in partition_by)
        self.order = tuple(name for name in order if name not in partition_by)
        self._used = list(dict.fromkeys((*self.columns, *self.order)))

    @classmethod
    def of_upsert(cls, upsert: Upsert, schema: pa.Schema, partition_by: Sequence[str] = ()) -> Keys:
        """Those of an upsert table."""
        return cls(upsert.cluster, upsert.order(row="_row" in schema.names), partition_by)

    @classmethod
    def of_groups(cls, group: Sequence[str], schema: pa.Schema, partition_by: Sequence[str] = ()) -> Keys:
        """Those of a summary, times first: the groups that change are mostly recent ones."""
        return cls(sorted(group, key=lambda name: not pa.types.is_temporal(schema.field(name).type)), (), partition_by)

    def key_sql(self, table: str) -> str:
        """The sort key of a row of ``table``: one for all rows when the partition is the key."""
        return _sort_key(table, self.columns, "ASC NULLS LAST") if self.columns else "''::BLOB"

    def order_sql(self, table: str) -> str:
        """What is greater for the later of two rows of a key."""
        return _sort_key(table, self.order, "ASC NULLS FIRST") if self.order else "''::BLOB"

    def newer_sql(self, given: str, stored: str) -> str:
        """Whether a given row, which has its order as ``_o``, replaces a stored one."""
        return f"{given}._o > {self.order_sql(stored)}" if self.order else "true"

    @property
    def _sorted_sql(self) -> str:
        """By key, then by what decides: the order of the sort keys, which takes DuckDB a third of the time by the columns (measured)."""
        return (
            ", ".join([*(f"{quoted(name)} NULLS LAST" for name in self.columns), *(f"{quoted(name)} NULLS FIRST" for name in self.order)])
            or "_i"
        )

    def same_sql(self, left: str, right: str) -> str:
        """Whether two rows have the same key, of which null may be a part."""
        same = (f"{left}.{quoted(name)} IS NOT DISTINCT FROM {right}.{quoted(name)}" for name in self.columns)
        return " AND ".join(same) or "true"

    def narrow(self, rows: pa.Table) -> pa.Table:
        """The columns that decide, and ``_i``, the row's number."""
        return rows.select(self._used).append_column("_i", pa.array(np.arange(rows.num_rows)))

    def latest(self, rows: pa.Table, cursor: Cursor, where: str = "true") -> Latest:
        """Of all ``rows`` of one partition the latest of each key, in key order. ``where``: which keys, as SQL over ``k``, the sort key."""
        columns = f"SELECT *, {self.key_sql('given')} AS k, {self.order_sql('given')} AS o FROM given"
        sql = f"SELECT _i, k, o FROM ({columns}) WHERE {where} ORDER BY {self._sorted_sql}"
        found = cursor.query(sql, given=self.narrow(rows)).combine_chunks()
        number, keys, orders = (found.column(name).combine_chunks() for name in ("_i", "k", "o"))
        last = np.ones(len(keys), bool)
        if len(keys) > 1:
            last[:-1] = pc.not_equal(keys.slice(0, len(keys) - 1), keys.slice(1)).to_numpy(zero_copy_only=False)
        chosen = pa.array(last)
        return Latest(rows.combine_chunks().take(number.filter(chosen)), keys.filter(chosen), orders.filter(chosen))

    def middle(self, rows: pa.Table, cursor: Cursor) -> bytes:
        """About the median of the rows' sort keys."""
        some = np.linspace(0, rows.num_rows - 1, SAMPLE_ROWS).astype(np.int64)
        return sorted(self.of(rows.take(pa.array(some)), cursor))[SAMPLE_ROWS // 2]

    def of(self, rows: pa.Table, cursor: Cursor) -> list[bytes]:
        """The sort keys of rows, one by one: for the few that bound a file."""
        found = cursor.query(f"SELECT _i, {self.key_sql('given')} AS k FROM given ORDER BY _i", given=self.narrow(rows))
        keys: list[bytes] = found.column("k").to_pylist()
        return keys


def _sort_key(table: str, columns: Sequence[str], how: str) -> str:
    return f"create_sort_key({', '.join(f'{table}.{quoted(name)}, {how!r}' for name in columns)})"
