"""Any rows, in any commits, give the table that DuckDB finds by sorting them all; every file holds a range of keys of its own, sorted."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import hypothesis.strategies as st
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings

from flows.batch import SYSTEM
from flows.ledger import Span
from flows.upsert import Upsert
from sinks.errors import RewriteStale
from sinks.files import FileWriter
from sinks.history import newest
from sinks.keys import Keys
from sinks.merge import Merge
from sinks.owner import Owner
from tests.owned import LOG, TOPIC, address, run

SCHEMA = pa.schema(
    [
        pa.field("a", pa.int32()),
        pa.field("b", pa.string()),
        pa.field("half", pa.int32()),
        pa.field("note", pa.string()),
        pa.field("_sequence", pa.int64()),
        pa.field("_deleted", pa.bool_()),
        *SYSTEM,
    ]
)
KEY = ("a", "b")
ORACLE = """
    SELECT * FROM given
    QUALIFY row_number() OVER (PARTITION BY a, b ORDER BY _sequence DESC NULLS LAST, _partition DESC, _offset DESC) = 1
    ORDER BY a, b
"""
Row = tuple[int, str, int | None, bool]
rows = st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "ab", "é", "z"]), st.none() | st.integers(0, 3), st.booleans())
commits = st.lists(st.tuples(st.integers(0, 1), st.lists(rows, max_size=12), st.sampled_from(["", "", "restart", "compact"])), max_size=8)


class Process:
    """An owner with its merge, as a run has them."""

    def __init__(self, folder: Path, partition_by: list[str], pool: ThreadPoolExecutor) -> None:
        self.address = address(folder)
        self.owner = Owner.claim(self.address, SCHEMA, partition_by, run(1), LOG)
        writer = FileWriter(self.address, SCHEMA, partition_by)
        keys = Keys.of_upsert(Upsert(KEY, "_sequence"), SCHEMA, partition_by)
        self.merge = Merge(writer, keys, lambda: self.owner.version, pool, leaf_rows=4)

    def commit(self, partition: int, given: pa.Table) -> None:
        start = self.owner.positions.get((TOPIC, partition), 0)
        pending = self.merge.pending()
        pending.write(given.slice(0, given.num_rows // 2))
        pending.write(given.slice(given.num_rows // 2))
        count = given.num_rows
        span = {(TOPIC, partition): Span(start, start + count, count, count, 0, 0)}
        change = pending.change()
        try:
            info = self.owner.commit(change.files, span, {}, change.replaced, change.basis, change.tombstones)
        except RewriteStale:
            change = pending.change()
            info = self.owner.commit(change.files, span, {}, change.replaced, change.basis, change.tombstones)
        pending.landed(info.version)


def table(partition: int, start: int, given: list[Row]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        "a": [a for a, *_ in given],
        "b": [b for _, b, *_ in given],
        "half": [a // 2 for a, *_ in given],
        "note": [f"{partition}/{start + number}" for number in range(len(given))],
        "_sequence": [sequence for *_, sequence, _ in given],
        "_deleted": [deleted for *_, deleted in given],
        "_partition": [partition] * len(given),
        "_offset": list(range(start, start + len(given))),
        "_timestamp": [None] * len(given),
    }
    return pa.table(columns, schema=SCHEMA)


@pytest.mark.parametrize("partition_by", [[], ["half"], ["a"]])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commits)
def test_the_table_is_what_duckdb_finds(
    tmp_path_factory: pytest.TempPathFactory, partition_by: list[str], work: list[tuple[int, list[Row], str]]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    everything = [SCHEMA.empty_table()]
    with ThreadPoolExecutor(2) as pool:
        process = Process(folder, partition_by, pool)
        for partition, given, then in work:
            new = table(partition, process.owner.positions.get((TOPIC, partition), 0), given)
            everything.append(new)
            process.commit(partition, new)
            if then == "restart":
                process = Process(folder, partition_by, pool)
            if then == "compact":
                DeltaTable(process.address.uri).optimize.compact()
        process.commit(0, table(0, process.owner.positions.get((TOPIC, 0), 0), []))
    found = DeltaTable(process.address.uri).to_pyarrow_table().select(SCHEMA.names)
    with duckdb.connect() as connection:
        connection.register("given", pa.concat_tables(everything))
        expected = connection.execute(ORACLE).to_arrow_table().cast(SCHEMA)
    ledger = newest(process.address)
    assert ledger is not None
    assert ledger.record is not None
    assert (ledger.record.tombstones or 0) == sum(expected.column("_deleted").to_pylist())
    assert found.sort_by([("a", "ascending"), ("b", "ascending")]).to_pylist() == expected.to_pylist()
