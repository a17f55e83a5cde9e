"""Summaries as they are declared: groups, what is refused and what is written instead, and the SQL that keeps them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from flows.fingerprint import definitions
from flows.plan import analyse
from flows.summary import Summary
from tests.folder import append, plan, view, write

UPSERT = '/* kind = "upsert" */ SELECT carrier, flight, seen, dep_delay, amount, code, tags FROM staging.flights'


def summary(sql: str, settings: str = "") -> str:
    """Its SQL begins on line 2."""
    return f'/* kind = "summary"{settings} */\n{sql}\n'


def of(tmp_path: Path, sql: str, settings: str = "") -> Summary:
    found = plan(tmp_path, {"core/t.sql": UPSERT, "analytics/s.sql": summary(sql, settings)})
    assert not found.findings, found.findings
    return found.summaries["analytics.s"]


@pytest.mark.parametrize(
    ("groups", "by"),
    [
        ("carrier, date_trunc('day', seen) AS day", "carrier, day"),
        ("carrier, date_trunc('day', seen) AS day", "1, 2"),
        ("carrier, date_trunc('day', seen) AS day", "f.carrier, date_trunc('day', core.t.seen)"),
        ("carrier, date_trunc('day', seen) AS day", "ALL"),
    ],
)
def test_groups_are_columns_of_the_select(tmp_path: Path, groups: str, by: str) -> None:
    table = "core.t" if "core.t" in by else "core.t AS f"
    it = of(tmp_path, f"SELECT {groups}, count(*) AS n FROM {table} GROUP BY {by.replace('f.carrier', 'carrier')}")
    assert it.group == ("carrier", "day")
    assert it.schema.names == ["carrier", "day", "n"]
    assert it.lineage["day"] == ("staging.flights.seen",)
    assert (it.kind, it.source, it.upstream) == ("summary", "flights", "core.t")


def test_types_are_those_that_delta_stores(tmp_path: Path) -> None:
    it = of(tmp_path, "SELECT carrier, sum(flight) AS whole, sum(amount) AS exact, avg(dep_delay) AS mean FROM core.t GROUP BY ALL")
    assert it.schema.types[1:] == [pa.decimal128(38, 0), pa.decimal128(38, 2), pa.float64()]
    assert 'CAST("whole" AS DECIMAL(38,0))' in it.rows_sql


def test_what_depends_on_the_order_of_rows_gets_the_logs(tmp_path: Path) -> None:
    sql = "SELECT carrier, arg_max(code, seen) AS last, string_agg(code, ',' ORDER BY seen) AS codes, list(DISTINCT code) AS each"
    it = of(tmp_path, sql + " FROM core.t GROUP BY carrier")
    assert "arg_max(t.code, t.seen ORDER BY _partition, _offset)" in it.rows_sql
    assert "string_agg(t.code, ',' ORDER BY t.seen, _partition, _offset)" in it.rows_sql
    assert "list(DISTINCT t.code ORDER BY t.code)" in it.rows_sql


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT count(*) AS n FROM core.t", "analytics/s.sql:2: it has no groups"),
        ("SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier HAVING n > 1", "HAVING would need the groups that it leaves out"),
        ("SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier ORDER BY n", "DISTINCT, ORDER BY and LIMIT are for the whole answer"),
        ("SELECT carrier, count(*) AS n FROM core.t GROUP BY ROLLUP(carrier)", "grouping sets are several summaries in one"),
        ("SELECT count(*) AS n FROM core.t GROUP BY upper(carrier)", "the group upper(carrier) is no column of the summary"),
        ("SELECT carrier, mode(code) AS m FROM core.t GROUP BY ALL", "mode "),
        ("SELECT carrier, now() AS at, count(*) AS n FROM core.t GROUP BY ALL", "now depends on the clock"),
        ("SELECT carrier, sum(count(*)) OVER () AS n FROM core.t GROUP BY carrier", "a window function compares rows"),
        ("SELECT carrier, count(*) AS n FROM (FROM core.t) GROUP BY carrier", "a summary is one SELECT over one table"),
        ("SELECT carrier, count(*) AS n FROM core.t JOIN core.t AS u USING (flight) GROUP BY carrier", "a join would depend on"),
        ("SELECT carrier, count(*) AS n FROM raw.flights GROUP BY carrier", "a summary cannot read raw.flights: it reads staging"),
        ("SELECT code, count(*) AS n FROM staging.flights__rejected GROUP BY code", "write: FROM staging.flights, or"),
        (
            "SELECT carrier, median(flight) AS m FROM staging.flights GROUP BY ALL",
            "median over an append table would have to keep",
        ),
        ("SELECT carrier, sum(DISTINCT flight) AS m FROM staging.flights GROUP BY ALL", "sum(DISTINCT ...) over an append table"),
        ("SELECT carrier, max(flight, 2) AS m FROM staging.flights GROUP BY ALL", "max over an append table has no order of its own"),
        ("SELECT carrier, arg_max(code, flight ORDER BY seen) AS m FROM staging.flights GROUP BY ALL", "ties go to the smallest position"),
        ("SELECT carrier, avg(seen) AS m FROM staging.flights GROUP BY ALL", "its aggregates cannot be kept for an append table"),
        ("SELECT carrier, count(*) AS n FROM core.v GROUP BY carrier", "core.v is a view: a summary reads one stored table"),
        ("SELECT carrier, count(*) AS n FROM analytics.other GROUP BY carrier", "analytics.other is a summary: a summary of summaries"),
        ("SELECT carrier, count(*) AS n FROM core.tt GROUP BY carrier", "there is no table core.tt\n    write: core.t"),
    ],
)
def test_what_is_refused(tmp_path: Path, sql: str, said: str) -> None:
    other = summary("SELECT carrier, max(flight) AS n FROM core.t GROUP BY carrier")
    files = {"core/t.sql": UPSERT, "core/v.sql": view("FROM core.t"), "analytics/other.sql": other, "analytics/s.sql": summary(sql)}
    found = [str(finding) for finding in plan(tmp_path, files).findings]
    assert len(found) == 1, found
    assert said in found[0]
    assert found[0].startswith("analytics/s.sql:2")


def test_partitions_are_groups(tmp_path: Path) -> None:
    sql = "SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier"
    assert of(tmp_path, sql, '\npartition_by = ["carrier"]\n').partition_by == ("carrier",)
    files = {"core/t.sql": UPSERT, "analytics/s.sql": summary(sql, '\npartition_by = ["n"]\n')}
    (finding,) = plan(tmp_path, files).findings
    assert "partition_by names n, which is no group" in str(finding)


def test_no_stream_reads_a_summary_and_a_view_does(tmp_path: Path) -> None:
    sql = summary("SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier")
    files = {"core/t.sql": UPSERT, "analytics/s.sql": sql, "analytics/v.sql": view("FROM analytics.s")}
    assert list(plan(tmp_path, files).views["analytics.v"].columns) == ["carrier", "n"]
    (finding,) = plan(tmp_path, {**files, "core/u.sql": append("SELECT carrier FROM analytics.s")}).findings
    assert "analytics.s is a summary: its rows change" in str(finding)


def test_a_summary_changes_with_its_upstream(tmp_path: Path) -> None:
    def fingerprint(upsert: str) -> str:
        sql = summary("SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier")
        project = write(tmp_path, {"core/t.sql": upsert, "analytics/s.sql": sql})
        return definitions(project, analyse(project))["analytics.s"].fingerprint

    assert fingerprint(UPSERT) == fingerprint(UPSERT.replace("SELECT", "SELECT  "))
    assert fingerprint(UPSERT) != fingerprint(f"{UPSERT} WHERE flight > 0")


def test_over_an_append_table_states_are_kept_once(tmp_path: Path) -> None:
    """Those that are columns already need none of their own; the others are hidden."""
    sql = (
        "SELECT carrier, count(*) AS n, sum(flight) AS whole, avg(flight) AS mean, count(flight) AS known, stddev(amount) AS spread,"
        " round(max(dep_delay) - min(dep_delay), 1) AS width, arg_max(code, seen) AS last FROM staging.flights GROUP BY carrier"
    )
    found = plan(tmp_path, {"analytics/s.sql": summary(sql), "analytics/v.sql": view("FROM analytics.s")})
    assert not found.findings, found.findings
    it = found.summaries["analytics.s"]
    assert it.partials is not None
    assert it.schema.names[:8] == ["carrier", "n", "whole", "mean", "known", "spread", "width", "last"]
    stored = {field.name: field.type for field in it.partials.states}
    assert it.schema.names[8:] == list(stored)
    place = [pa.field("_partition", pa.int32()), pa.field("_offset", pa.int64())]
    best = pa.struct([pa.field("rank", pa.timestamp("us", "UTC")), *place, pa.field("argument", pa.string())])
    assert list(stored.values()) == [pa.int64(), pa.float64(), pa.float64(), pa.float64(), pa.float64(), best]
    assert list(found.views["analytics.v"].columns) == it.schema.names[:8]
    assert (it.upstream, it.source, it.lineage["mean"]) == ("staging.flights", "flights", ("staging.flights.flight",))


def test_a_partition_column_is_not_computed_with(tmp_path: Path) -> None:
    sql = "SELECT carrier, concat(carrier, count(*)) AS n FROM staging.flights GROUP BY carrier"
    (finding,) = plan(tmp_path, {"analytics/s.sql": summary(sql, '\npartition_by = ["carrier"]\n')}).findings
    assert "partition_by names carrier, with which another column computes" in str(finding)
