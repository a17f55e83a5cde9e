"""A summary equals its SQL run as one query by DuckDB over its upstream, whatever came when: late, corrected, deleted and moved rows."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import hypothesis.strategies as st
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings

from flows.ledger import Span
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.follow import Follower
from sinks.history import newest
from sinks.keys import Keys
from sinks.landing import land
from sinks.log import DeltaLog
from sinks.merge import Merge
from sinks.owner import Owner
from sinks.versions import Versions
from tests.folder import plan
from tests.owned import LOG, TOPIC, run

SOURCE = """
topic = "flights"
format = "json"
key = ["id"]
event_time = "seen"
[columns]
id = "integer not null"
place = "varchar"
gate = "integer"
note = "varchar"
price = "decimal(10,2)"
delay = "double"
seen = "timestamptz"
gone = "boolean"
"""
UPSERT = """/*
kind = "upsert"
delete_when = "gone"
*/
SELECT id, place, gate, note, price, delay, seen FROM staging.flights
"""
SQL = """SELECT
    place, gate % 2 AS odd, count(*) AS n, count(price) FILTER (WHERE gate > 1) AS priced, count(DISTINCT note) AS notes,
    sum(price) AS total, sum(gate) AS gates, avg(delay) AS mean, sum(delay) AS delays,
    stddev_samp(if(isnan(delay), NULL, delay)) AS spread, min(note) AS least, max(seen) AS last,
    arg_max(note, price) AS dearest, string_agg(note, ',') AS every, bool_or(gate > 2) AS far
FROM core.t AS f WHERE gate IS NULL OR gate <> 4 GROUP BY ALL"""
# what kappa says of ties and order, written out
ORACLE = SQL.replace("arg_max(note, price)", "arg_max(note, price ORDER BY _partition, _offset)").replace(
    "string_agg(note, ',')", "string_agg(note, ',' ORDER BY _partition, _offset)"
)
DOUBLES = {"mean", "delays", "spread"}
Row = tuple[Any, ...]
rows = st.tuples(
    st.integers(0, 6),
    st.none() | st.sampled_from(["", "x", "y"]),
    st.none() | st.integers(0, 5),
    st.none() | st.text("ab", max_size=2),
    st.none() | st.decimals(-9, 9, places=2),
    st.none() | st.sampled_from([0.1, -2.5, 1e6, math.nan, 3.3]),
    st.none() | st.integers(0, 4),
    st.booleans(),
)
events = st.tuples(st.integers(0, 1), st.lists(rows, max_size=8), st.sampled_from(["follow", "follow", "wait", "restart", "lose"]))


class Process:
    """The owners of an upsert table and of its summary, as a run has them."""

    def __init__(self, folder: Path, partition_by: str, pool: ThreadPoolExecutor, versions: Versions) -> None:
        head = f'/*\nkind = "summary"\n{partition_by}\n*/\n'
        found = plan(folder / "definitions", {"sources/flights.toml": SOURCE, "core/t.sql": UPSERT, "analytics/s.sql": head + SQL})
        assert not found.findings, found.findings
        node, summary = found.nodes["core.t"], found.summaries["analytics.s"]
        assert node.upsert is not None
        self.schema = node.schema
        self.address = TableAddress(str(folder), "core.t", "0123456789ab-1")
        own = TableAddress(str(folder), "analytics.s", "0123456789ab-1")
        self.owner = Owner.claim(self.address, node.schema, [], run(1), LOG)
        self.merge = Merge(
            FileWriter(self.address, node.schema), Keys.of_upsert(node.upsert, node.schema), lambda: self.owner.version, pool, leaf_rows=3
        )
        owner = Owner.claim(own, summary.schema, summary.partition_by, run(1), LOG)
        groups = Keys.of_groups(summary.group, summary.schema, summary.partition_by)
        writer = FileWriter(own, summary.schema, summary.partition_by)
        merge = Merge(writer, groups, lambda: owner.version, pool, leaf_rows=3)
        self.follower = Follower(summary, owner, self.address, node.upsert, merge.pending, versions)

    def commit(self, partition: int, given: list[Row]) -> None:
        start, count = self.owner.positions.get((TOPIC, partition), 0), len(given)
        pending = self.merge.pending()
        pending.write(table(self.schema, partition, start, given))
        land(pending, self.owner, {(TOPIC, partition): Span(start, start + count, count, count, 0, 0)})

    def follow(self) -> None:
        self.follower.follow(self.owner.version, self.owner.record)

    def lose_the_checkpoint(self) -> None:
        """As vacuum and log cleanup do after the retention."""
        table = DeltaTable(self.address.uri)
        table.create_checkpoint()
        for version in DeltaLog(self.address.folder).versions()[:-1]:
            DeltaLog(self.address.folder).commit_path(version).unlink()
        live = {Path(uri).name for uri in table.file_uris()}
        for path in self.address.folder.glob("*.parquet"):
            if path.name not in live:
                path.unlink()


def table(schema: pa.Schema, partition: int, start: int, given: list[Row]) -> pa.Table:
    """As ``core.t`` holds it: a deleted row keeps its key and sequence."""
    ids, places, gates, notes, prices, delays, seen, gone = zip(*given, strict=True) if given else [()] * 8
    kept = [
        [None if dead else value for value, dead in zip(values, gone, strict=True)] for values in (places, gates, notes, prices, delays)
    ]
    count = len(given)
    system = [[partition] * count, list(range(start, start + count)), [None] * count]
    columns = [list(ids), *kept, list(seen), list(gone), *system]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)


@pytest.mark.parametrize("partition_by", ["", 'partition_by = ["odd"]'])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(events, min_size=1, max_size=7))
def test_a_summary_is_what_duckdb_finds(
    tmp_path_factory: pytest.TempPathFactory, partition_by: str, work: list[tuple[int, list[Row], str]]
) -> None:
    folder = tmp_path_factory.mktemp("summary")
    with ThreadPoolExecutor(2) as pool, closing(Versions(512 * 1024 * 1024)) as versions:
        process = Process(folder, partition_by, pool, versions)
        for partition, given, then in work:
            process.commit(partition, given)
            if then == "restart":
                process = Process(folder, partition_by, pool, versions)
            if then == "lose":
                process.lose_the_checkpoint()
            if then != "wait":
                process.follow()
        process.follow()
        check(process)
    shutil.rmtree(folder)


def check(process: Process) -> None:
    upstream = DeltaTable(process.address.uri).to_pyarrow_table()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE SCHEMA core")
        connection.register("stored", upstream)
        connection.execute("CREATE TABLE core.t AS SELECT * FROM stored WHERE NOT _deleted")
        expected = connection.execute(ORACLE).to_arrow_table().to_pylist()
    found = DeltaTable(process.follower.owner.address.uri).to_pyarrow_table().to_pylist()
    by_group = {(row["place"], row["odd"]): row for row in expected}
    assert len(found) == len(by_group)
    assert {(row["place"], row["odd"]) for row in found} == set(by_group)
    sums = {(row["place"], row["odd"]): magnitude(upstream.to_pylist(), row) for row in found}
    for row in found:
        group = (row["place"], row["odd"])
        for name, value in row.items():
            other = by_group[group][name]
            assert same(value, other, sums[group] if name in DOUBLES else None), (group, name, value, other)
    ledger, above = newest(process.follower.owner.address), newest(process.address)
    assert ledger is not None
    assert above is not None
    assert ledger.record is not None
    assert above.record is not None
    assert ledger.record.totals == above.record.totals


def magnitude(stored: list[dict[str, Any]], group: dict[str, Any]) -> float:
    """1 + the sum of |x|: what the tolerance of sums of doubles is a share of."""
    return 1 + sum(abs(row["delay"] or 0) for row in stored if row["place"] == group["place"])


def same(value: Any, other: Any, scale: float | None) -> bool:
    if isinstance(value, float) and isinstance(other, float) and scale is not None:
        return (math.isnan(value) and math.isnan(other)) or math.isnan(scale) or abs(value - other) <= 1e-9 * scale
    return bool(value == (Decimal(other) if isinstance(value, Decimal) and isinstance(other, int) else other))


def test_a_summary_follows_another_generation_of_its_upstream(tmp_path: Path) -> None:
    """A version number of one generation means other rows in the other."""

    def row(place: str, sequence: int) -> Row:
        return (1, place, 0, None, None, None, sequence, False)

    with ThreadPoolExecutor(2) as pool, closing(Versions(512 * 1024 * 1024)) as versions:
        process = Process(tmp_path, "", pool, versions)
        process.commit(0, [row("x", 1), row("y", 2)])
        upsert, live = process.follower.upsert, process.address
        assert upsert is not None
        beside = replace(live, generation="0123456789ab-2")
        owner = Owner.claim(beside, process.schema, [], run(1), LOG)
        merge = Merge(FileWriter(beside, process.schema), Keys.of_upsert(upsert, process.schema), lambda: owner.version, pool)
        pending = merge.pending()
        pending.write(table(process.schema, 0, 0, [row("x", 1)]))
        land(pending, owner, {(TOPIC, 0): Span(0, 1, 1, 1, 0, 0)})
        process.follower.address = beside
        process.follower.follow(owner.version, owner.record)
        process.follower.address = live
        process.follow()
        assert DeltaTable(process.follower.owner.address.uri).to_pyarrow_table().column("place").to_pylist() == ["y"]
