"""Materialized tables as they are declared: what they read through views, what is refused and what is written instead."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from flows.fingerprint import definitions, difference
from flows.plan import analyse
from tests.folder import plan, view, write

UPSERT = '/* kind = "upsert" */ SELECT carrier, flight, seen, dep_delay, amount, code, tags FROM staging.flights'
SUMMARY = '/* kind = "summary" */ SELECT carrier, count(*) AS n FROM core.t GROUP BY carrier'
VIEW = view("SELECT carrier, n FROM analytics.s")
FILES = {"core/t.sql": UPSERT, "analytics/s.sql": SUMMARY, "analytics/v.sql": VIEW}


def materialized(sql: str, settings: str = "") -> str:
    """Its SQL begins on line 2."""
    return f'/* kind = "materialized"{settings} */\n{sql}\n'


def test_it_stands_on_the_stored_tables_below_its_views(tmp_path: Path) -> None:
    files = {"analytics/w.sql": view("SELECT v.n, t.code FROM analytics.v AS v JOIN core.t AS t USING (carrier)")}
    sql = "SELECT code, count(DISTINCT n) AS ns, sum(n) AS total, quantile_cont(n, 0.5) AS middle FROM analytics.w GROUP BY ALL"
    found = plan(tmp_path, {**FILES, **files, "analytics/m.sql": materialized(sql, '\nkey = ["code"]\npartition_by = ["code"]\n')})
    assert not found.findings, found.findings
    table = found.materialized["analytics.m"]
    assert table.reads == ("analytics.w",)
    assert table.tables == ("analytics.s", "core.t")
    assert list(table.views) == ["analytics.v", "analytics.w"]
    assert (table.key, table.partition_by, table.refresh_interval_s) == (("code",), ("code",), 60.0)
    assert table.schema.field("total").type == pa.decimal128(38, 0)
    assert table.schema.field("middle").type == pa.float64()


def test_it_may_read_another_one_and_be_read_by_views(tmp_path: Path) -> None:
    files = {
        "analytics/a.sql": materialized("SELECT carrier, max(flight) AS flight FROM core.t GROUP BY ALL", "\nrefresh_interval_s = 5\n"),
        "analytics/b.sql": materialized("SELECT count(*) AS n FROM analytics.a"),
        "analytics/c.sql": view("SELECT b.n, a.carrier FROM analytics.b AS b, analytics.a AS a"),
    }
    found = plan(tmp_path, {**FILES, **files})
    assert not found.findings, found.findings
    assert list(found.materialized) == ["analytics.a", "analytics.b"]
    assert found.materialized["analytics.b"].tables == ("analytics.a",)


@pytest.mark.parametrize(
    ("sql", "line", "cause", "fix"),
    [
        ("SELECT carrier,\n  now() AS at FROM core.t", 3, "now() does not depend on rows alone", 'kind = "view"'),
        ("SELECT current_date AS at FROM core.t", 2, "current_date does not depend on rows alone", 'kind = "view"'),
        ("SELECT random() AS r FROM core.t", 2, "random() does not depend on rows alone", "column"),
        ("SELECT current_setting('TimeZone') AS r FROM core.t", 2, "current_setting() does not", "column"),
        ("SELECT carrier FROM core.t USING SAMPLE 10%", 2, "a sample depends on chance", "column"),
        ("SELECT carrier FROM core.t TABLESAMPLE 10%", 2, "a sample depends on chance", "column"),
        ("SELECT carrier FROM core.t JOIN (SELECT uuid() AS u) ON true", 2, "uuid() does not", "column"),
        ("SELECT * FROM read_csv('x.csv')", 2, "read_csv reads something that is not a table", "source"),
        ("SELECT * FROM 'x.csv'", 2, "'x.csv' is not the name of a table", "layer.table"),
        ("SELECT 1 AS one", 2, "it reads no table", "FROM a table"),
        ("SELECT carrier FROM core.tt", 2, "there is no table core.tt", "core.t"),
        (
            "SELECT carrier FROM analytics.clock",
            2,
            "analytics.clock, which it reads: now() does not",
            "the tables that analytics.clock reads",
        ),
        ("SELECT carrier, INTERVAL 1 DAY AS i FROM core.t", 2, "which Delta cannot hold", "CAST"),
        ("SELECT count(*) FROM core.t", 2, "count_star() has no name", "AS name"),
        ("SELECT nothing FROM core.t", 2, '"nothing" not found', ""),
    ],
)
def test_what_is_refused_and_what_is_written_instead(tmp_path: Path, sql: str, line: int, cause: str, fix: str) -> None:
    files = {**FILES, "analytics/clock.sql": view("SELECT now() AS at, carrier FROM core.t"), "analytics/m.sql": materialized(sql)}
    (found,) = plan(tmp_path, files).findings
    assert (found.file, found.line) == ("analytics/m.sql", line)
    assert cause in found.cause
    assert fix in found.fix


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ('\nkey = ["nothing"]\n', "key names nothing, which the SELECT does not give"),
        ('\npartition_by = ["nothing"]\n', "partition_by names nothing"),
        ('\nsequence = "carrier"\n', "sequence is a setting of upsert tables, and this one is materialized"),
        ("\nrefresh_interval_s = 0\n", "refresh_interval_s"),
    ],
)
def test_settings_that_mean_nothing(tmp_path: Path, settings: str, cause: str) -> None:
    (found,) = plan(tmp_path, {**FILES, "analytics/m.sql": materialized("SELECT carrier FROM core.t", settings)}).findings
    assert cause in found.cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ('/* kind = "summary" */ SELECT carrier, count(*) AS n FROM analytics.m GROUP BY ALL', "analytics.m is materialized"),
        ('/* kind = "append" */ SELECT carrier FROM analytics.m', "analytics.m is materialized: an append table reads a stream"),
        ('/* kind = "upsert" key = ["carrier"] */ SELECT carrier FROM analytics.m', "analytics.m is materialized"),
        ('/* kind = "view"\nrefresh_interval_s = 5 */ SELECT 1', "refresh_interval_s is a setting of materialized tables"),
    ],
)
def test_streams_do_not_read_it(tmp_path: Path, text: str, cause: str) -> None:
    text = text.replace(' key = ["carrier"]', '\nkey = ["carrier"]\n')
    found = plan(tmp_path, {**FILES, "analytics/m.sql": materialized("SELECT carrier FROM core.t"), "core/x.sql": text}).findings
    assert cause in found[0].cause, found


def test_a_cycle_is_found(tmp_path: Path) -> None:
    files = {"analytics/a.sql": materialized("SELECT * FROM analytics.b"), "analytics/b.sql": materialized("SELECT * FROM analytics.a")}
    assert any("a cycle" in finding.cause for finding in plan(tmp_path, files).findings)


def test_its_fingerprint_holds_what_decides_its_rows(tmp_path: Path) -> None:
    def json(name: str, **files: str) -> dict[str, object]:
        text = materialized("SELECT carrier, n FROM analytics.v", "\nrefresh_interval_s = 5\n")
        project = write(tmp_path / name, {**FILES, "analytics/m.sql": text, **files})
        return definitions(project, analyse(project))["analytics.m"].json

    first = json("a")
    assert json("b", **{"analytics/m.sql": materialized("select carrier, n -- all\nFROM analytics.v")}) == first
    changed = json("c", **{"analytics/v.sql": view("SELECT carrier, n + 1 AS n FROM analytics.s")})
    (said,) = difference(first, changed)
    assert said == "view analytics.v changed: SELECT carrier, n FROM analytics.s -> SELECT carrier, (n + 1) AS n FROM analytics.s"
    (said,) = difference(first, json("d", **{"analytics/s.sql": SUMMARY.replace("count(*)", "sum(1)::bigint")}))
    assert said.startswith("upstream analytics.s changed: ")
