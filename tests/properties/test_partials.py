"""A summary over an append table, whose new rows are combined with what is stored, equals its SQL run as one query by DuckDB."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
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
from flows.plan import analyse
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.follow import Follower
from sinks.history import newest
from sinks.keys import Keys
from sinks.landing import land
from sinks.merge import Merge
from sinks.owner import Owner
from sinks.versions import Versions
from tests.folder import write
from tests.owned import LOG, TOPIC, run

SOURCE = """
topic = "flights"
format = "json"
[columns]
place = "varchar"
gate = "integer"
note = "varchar"
price = "decimal(10,2)"
delay = "double"
speed = "float"
seen = "timestamptz"
"""
SQL = """SELECT
    place, gate % 2 AS odd, {mixed}
    count(*) AS n, count(price) FILTER (WHERE gate > 1) AS priced, count_if(gate > 2) AS far, count_if(price > 2) AS dear,
    sum(price) AS total, sum(gate) AS gates, sum(gate) // 2 AS half, avg(price) AS price, avg(delay) FILTER (WHERE gate < 4) AS mean,
    sum(delay) AS delays, sum(speed) AS speeds, stddev_samp(if(isnan(delay), NULL, delay)) AS spread,
    var_pop(gate) AS gate_spread, variance(price) AS price_spread,
    min(note) AS least, max(seen) AS last, min(delay) AS quickest, max(delay) AS slowest, max(seen) - min(seen) > INTERVAL 2 second AS long,
    arg_max(note, price) AS dearest, arg_min(gate, delay) AS first_gate, arg_max(seen, note) FILTER (WHERE gate > 0) AS late,
    bool_and(gate > 1) AS every, bool_or(gate > 2) AS any
FROM staging.flights AS f WHERE gate IS NULL OR gate <> 5 GROUP BY place, odd"""
MIXED = "concat(place, '-', gate % 2, count(*)) AS mixed,"
# what kappa says of ties, written out
ORDERED = ("arg_max(note, price)", "arg_min(gate, delay)", "arg_max(seen, note)")
TIES = {call: f"{call[:-1]} ORDER BY _partition, _offset)" for call in ORDERED}
DOUBLES = {"mean", "delays", "speeds", "price", "spread", "gate_spread", "price_spread"}
Row = tuple[Any, ...]
rows = st.tuples(
    st.none() | st.sampled_from(["", "x", "y"]),
    st.none() | st.integers(0, 5),
    st.none() | st.text("ab", max_size=2),
    st.none() | st.decimals(-9, 9, places=2),
    st.none() | st.sampled_from([0.1, -2.5, 1e6, math.nan, 3.3]),
    st.none() | st.sampled_from([0.5, -2.25, math.nan]),
    st.none() | st.integers(0, 4_000_000),
)
after = st.sampled_from(["follow", "follow", "wait", "restart", "compact upstream", "compact", "both"])
events = st.tuples(st.integers(0, 2), st.lists(rows, max_size=8), after)


class Process:
    """The owners of a staging table and of its summary, as a run has them."""

    def __init__(self, folder: Path, partition_by: str, pool: ThreadPoolExecutor, versions: Versions) -> None:
        self.sql = SQL.replace("{mixed}", "" if partition_by else MIXED)
        head = f'/*\nkind = "summary"\n{partition_by}\n*/\n'
        project = write(folder / "definitions", {"sources/flights.toml": SOURCE, "analytics/s.sql": head + self.sql})
        found = analyse(project)
        assert not found.findings, found.findings
        summary = found.summaries["analytics.s"]
        assert summary.partials is not None
        self.schema = project.sources["flights"].staging_schema
        self.address = TableAddress(str(folder), "staging.flights", "0123456789ab-1")
        own = TableAddress(str(folder), "analytics.s", "0123456789ab-1")
        self.owner = Owner.claim(self.address, self.schema, [], run(1), LOG)
        self.writer = FileWriter(self.address, self.schema)
        owner = Owner.claim(own, summary.schema, summary.partition_by, run(1), LOG)
        groups = Keys.of_groups(summary.group, summary.schema, summary.partition_by)
        writer = FileWriter(own, summary.schema, summary.partition_by)
        merge = Merge(writer, groups, lambda: owner.version, pool, leaf_rows=3, combine_sql=summary.partials.combine_sql)
        self.follower = Follower(summary, owner, self.address, None, merge.pending, versions)

    def commit(self, partition: int, given: list[Row]) -> None:
        start, count = self.owner.positions.get((TOPIC, partition), 0), len(given)
        draft = self.writer.draft()
        draft.write(table(self.schema, partition, start, given))
        land(draft, self.owner, {(TOPIC, partition): Span(start, start + count, count, count, 0, 0)})

    def follow(self) -> None:
        self.follower.follow(self.owner.version, self.owner.record)


def table(schema: pa.Schema, partition: int, start: int, given: list[Row]) -> pa.Table:
    count = len(given)
    columns = [list(values) for values in zip(*given, strict=True)] if given else [[]] * 7
    system = [[None] * count, [partition] * count, list(range(start, start + count)), [None] * count]
    return pa.table([pa.array(values, field.type) for values, field in zip([*columns, *system], schema, strict=True)], schema=schema)


@pytest.mark.parametrize("partition_by", ["", 'partition_by = ["odd"]'])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(events, min_size=1, max_size=8))
def test_a_summary_is_what_duckdb_finds(
    tmp_path_factory: pytest.TempPathFactory, partition_by: str, work: list[tuple[int, list[Row], str]]
) -> None:
    folder = tmp_path_factory.mktemp("partials")
    with ThreadPoolExecutor(2) as pool, closing(Versions(512 * 1024 * 1024)) as versions:
        process = Process(folder, partition_by, pool, versions)
        for partition, given, then in work:
            process.commit(partition, given)
            if then in ("compact", "both"):
                DeltaTable(process.follower.owner.address.uri).optimize.compact()
            if then in ("compact upstream", "both"):
                DeltaTable(process.address.uri).optimize.compact()
            if then == "restart":
                process = Process(folder, partition_by, pool, versions)
            if then != "wait":
                process.follow()
        process.follow()
        check(process)
    shutil.rmtree(folder)


def check(process: Process) -> None:
    upstream = DeltaTable(process.address.uri).to_pyarrow_table()
    oracle = process.sql
    for call, ordered in TIES.items():
        oracle = oracle.replace(call, ordered)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE SCHEMA staging")
        connection.register("stored", upstream)
        connection.execute("CREATE TABLE staging.flights AS FROM stored")
        expected = connection.execute(oracle).to_arrow_table().to_pylist()
    found = DeltaTable(process.follower.owner.address.uri).to_pyarrow_table().to_pylist()
    by_group = {(row["place"], row["odd"]): row for row in expected}
    assert len(found) == len(by_group)
    for row in found:
        group = (row["place"], row["odd"])
        size = magnitude(upstream.to_pylist(), row)
        for name, value in row.items():
            if not name.startswith("_"):
                assert same(value, by_group[group][name], size if name in DOUBLES else None), (group, name, value, by_group[group][name])
    ledger, above = newest(process.follower.owner.address), newest(process.address)
    assert ledger is not None
    assert above is not None
    assert ledger.record is not None
    assert above.record is not None
    assert ledger.record.totals == above.record.totals


def magnitude(stored: list[dict[str, Any]], group: dict[str, Any]) -> float:
    """1 + the sums of |x| and of x * x: what the tolerance of doubles is a share of."""
    numbers = (row[name] or 0 for row in stored if row["place"] == group["place"] for name in ("delay", "speed", "price", "gate"))
    return 1 + sum(abs(float(number)) + float(number) ** 2 for number in numbers if number == number)


def same(value: Any, other: Any, scale: float | None) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return (math.isnan(value) and math.isnan(other)) or abs(value - other) <= 1e-9 * (scale or 0)
    return bool(value == (Decimal(other) if isinstance(value, Decimal) and isinstance(other, int) else other))
