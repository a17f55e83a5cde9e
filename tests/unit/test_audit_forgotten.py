"""What `kappa audit --full` expects of a table that does not keep its tombstones for ever."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pytest

from flows.batch import SYSTEM
from flows.upsert import Upsert
from infra.audit.forgotten import BACK, MISSING, YOUNG, Forgotten
from infra.audit.rows import Rows

SCHEMA = pa.schema([pa.field("id", pa.int32()), pa.field("_sequence", pa.int64()), pa.field("_deleted", pa.bool_()), *SYSTEM])
START = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[int, int, bool, int]  # id, sequence, deleted, offset; a second between two offsets


def table(rows: list[Row]) -> pa.Table:
    values = [
        {
            "id": number,
            "_sequence": sequence,
            "_deleted": deleted,
            "_partition": 0,
            "_offset": offset,
            "_timestamp": START + timedelta(0, offset),
        }
        for number, sequence, deleted, offset in rows
    ]
    return pa.Table.from_pylist(values, schema=SCHEMA)


class Stored:
    """A table in place of the engine."""

    def __init__(self, rows: pa.Table) -> None:
        self._connection = duckdb.connect()
        self._connection.register("rows", rows)
        self._connection.execute("CREATE SCHEMA core; CREATE TABLE core.t AS FROM rows")

    def relation(self, query: str, given: pa.Table | None = None) -> duckdb.DuckDBPyRelation:
        if given is not None:
            self._connection.register("given", given)
        return self._connection.sql(query)


LIVE, GONE, OTHER, LAST = (1, 1, False, 0), (1, 2, True, 1), (2, 1, False, 2), (3, 1, False, 100)


@pytest.mark.parametrize(
    ("log", "stored", "found"),
    [
        ([LIVE, GONE, OTHER, LAST], [OTHER, LAST], {}),
        ([LIVE, GONE, OTHER, LAST], [GONE, OTHER, LAST], {}),
        ([LIVE, GONE, OTHER, LAST], [LIVE, OTHER, LAST], {BACK: [(0, 1)]}),
        ([LIVE, GONE, OTHER, LAST], [LAST], {MISSING: [(0, 2)]}),
        ([LIVE, GONE, OTHER], [OTHER], {YOUNG: [(0, 1)]}),
        ([LIVE, GONE, (1, 1, False, 60), LAST], [(1, 1, False, 60), LAST], {}),  # late, and the tombstone was forgotten
        ([LIVE, GONE, (1, 3, False, 60), LAST], [LAST], {MISSING: [(0, 60)]}),
    ],
)
def test_what_may_be_missing(log: list[Row], stored: list[Row], found: dict[str, list[tuple[int, int]]]) -> None:
    rows = Rows(Stored(table(stored)), "core.t", ("id",))  # type: ignore[arg-type]
    forgotten = Forgotten(rows, Upsert(("id",), "_sequence", 30.0), SCHEMA)
    gone = table([row for row in log if row not in stored])
    forgotten.see(table(log))
    forgotten.add(gone, "false")
    assert forgotten.settle() == found
