"""Deletes without a sequence: what a record without a value deletes.

Such a record says only which key it deletes. It deletes what came before it in its partition of the log, and keeps out what comes later but
is older: so its sequence is the greatest of the key's rows before it. That is the same whatever the batches, as long as all records of a
key are in one partition, which is where Kafka's producers send them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.database import Cursor
from flows.sql.tree import quoted
from flows.upsert import DELETED
from sinks.errors import KeyMoved
from sinks.keys import Keys


def without_sequence(rows: pa.Table, sequence: str) -> pa.ChunkedArray:
    """Which rows are deletes without a sequence."""
    return pc.and_(rows.column(DELETED), pc.is_null(rows.column(sequence)))


def with_sequence(rows: pa.Table, stored: pa.Table, keys: Keys, sequence: str, cursor: Cursor) -> pa.Table:
    """``rows`` of one partition of the table, of which each delete without a sequence has the greatest of its key's rows before it: of
    ``stored``, the table's rows of these keys at least, and of ``rows`` at lower offsets. Null, when there is none.
    """
    bare = without_sequence(rows, sequence)
    columns = [*keys.columns, sequence]
    given = keys.narrow(rows).append_column("_bare", bare)
    same = ", ".join(map(quoted, keys.columns)) or "true"
    sql = f"""
        SELECT _i, max({quoted(sequence)}) OVER (PARTITION BY {same} ORDER BY _offset ROWS UNBOUNDED PRECEDING) AS greatest
        FROM (FROM given UNION ALL BY NAME FROM stored) QUALIFY _bare ORDER BY _i
    """
    found = cursor.query(sql, given=given, stored=stored.select(list(dict.fromkeys([*columns, "_offset"]))))
    assert np.array_equal(found.column("_i").to_numpy(), np.flatnonzero(bare.to_numpy())), "a delete was lost"
    place = rows.schema.get_field_index(sequence)
    kind = rows.schema.field(place).type
    greatest = found.column("greatest").cast(kind).combine_chunks()
    filled = pc.replace_with_mask(rows.column(sequence).combine_chunks(), bare.combine_chunks(), greatest)
    return rows.set_column(place, rows.schema.field(place), filled)


def refuse_moved(rows: pa.Table, keys: Keys, table: str, cursor: Cursor) -> None:
    """Raises KeyMoved when two of ``rows`` have one key and come from two partitions of the log."""
    if pc.count_distinct(rows.column("_partition")).as_py() < 2:
        return
    same = ", ".join(map(quoted, keys.columns)) or "true"
    sql = f"SELECT any_value(_i) AS _i, min(_partition) AS a, max(_partition) AS b FROM given GROUP BY {same} HAVING a <> b LIMIT 1"
    for found in cursor.query(sql, given=keys.narrow(rows)).to_pylist():
        raise KeyMoved(table, rows.select(keys.columns).slice(found["_i"], 1).to_pylist()[0], (found["a"], found["b"]))
