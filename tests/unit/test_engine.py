"""The query engine over hand-made Delta tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from sinks.attachment import connect, extension
from sinks.engine import Engine, Pinned, QueryFailed, TableUnknown, ViewInvalid, near_names
from sinks.statement import SqlInvalid, StatementRefused, check_statement


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    def write(name: str, *versions: list[int]) -> str:
        path = str(tmp_path / name)
        for numbers in versions:
            table = pa.table(
                {
                    "n": pa.array(numbers, pa.int64()),
                    "_partition": pa.array([0] * len(numbers), pa.int32()),
                    "_offset": pa.array(numbers, pa.int64()),
                }
            )
            write_deltalake(path, table, mode="append", partition_by=["_partition"] if name == "raw" else None)
        return path

    flight = write("flight", [1, 2], [3])
    empty = write("empty", [])
    raw = write("raw", [1, 2], [3])
    engine = Engine(
        [
            Pinned("core.flight", flight, 0, hidden=True),
            Pinned("core.empty", empty, 0, hidden=True),
            Pinned("staging.flights", flight, 1, hidden=False),
            Pinned("staging.flights__rejected", empty, 0, hidden=False),
            Pinned("raw.flights", raw, 1, hidden=False),
        ],
        {
            "analytics.doubled": "SELECT n * 2 AS m FROM core.flight;",
            "analytics.flight": "SELECT m + 1 AS k FROM analytics.doubled -- over a view, and named as a table",
            "analytics.later": "SELECT * FROM core.not_yet",
            "analytics.after_later": "SELECT * FROM analytics.later",
        },
        memory_limit=500_000_000,
    )
    yield engine
    engine.close()


def test_tables_are_read_at_their_pinned_version(engine: Engine) -> None:
    assert engine.relation("SELECT sum(n) FROM core.flight").fetchall() == [(3,)]
    assert engine.relation("SELECT sum(n) FROM staging.flights").fetchall() == [(6,)]
    assert engine.relation("SELECT count(*) FROM core.empty").fetchall() == [(0,)]


def test_core_hides_system_columns_and_staging_shows_them(engine: Engine) -> None:
    assert engine.relation("FROM core.flight").columns == ["n"]
    assert engine.relation("FROM staging.flights").columns == ["n", "_partition", "_offset"]
    assert engine.relation('FROM "staging"."flights__rejected"').columns == ["n", "_partition", "_offset"]
    assert engine.relation("SELECT sum(_partition), count(*) FROM raw.flights").fetchall() == [(0, 3)]


def test_views_are_bound_when_they_are_used(engine: Engine) -> None:
    assert engine.relation("SELECT k FROM Analytics.Flight ORDER BY k").fetchall() == [(3,), (5,)]
    assert engine.relation("WITH x AS (FROM analytics.doubled) SELECT max(m) FROM x").fetchall() == [(4,)]


@pytest.mark.parametrize("view", ["later", "after_later"])
def test_a_view_whose_table_is_missing_fails_only_when_used(engine: Engine, view: str) -> None:
    assert engine.relation("SELECT count(*) FROM core.flight").fetchall() == [(2,)]
    with pytest.raises(ViewInvalid, match=f"view analytics.{view} cannot be used") as caught:
        engine.relation(f"FROM analytics.{view}")
    assert "it needs " in caught.value.cause


def test_an_unknown_table_lists_near_names(engine: Engine) -> None:
    with pytest.raises(TableUnknown) as caught:
        engine.relation("SELECT * FROM core.flihgt")
    assert caught.value.near[0] == "core.flight"
    with pytest.raises(TableUnknown, match="did you mean") as caught:
        engine.relation("FROM flights")
    assert "staging.flights" in caught.value.near
    with pytest.raises(TableUnknown, match="there are: ") as caught:
        engine.relation("FROM core.zzz")
    assert caught.value.name == "core.zzz"


def test_listing_shows_every_table_and_view_that_can_be_bound(engine: Engine) -> None:
    answer = engine.relation("SHOW ALL TABLES").fetchall()
    listed = [f"{schema}.{name}" for schema, name, *_ in answer]
    assert {"core.flight", "raw.flights", "staging.flights__rejected", "analytics.flight"} <= set(listed)
    assert "analytics.later" not in listed
    assert len(set(listed)) == len(listed)  # not the attached Delta tables too
    assert engine.relation(" show tables;").fetchall() == answer


def test_a_name_that_only_duckdb_sees_is_found(engine: Engine) -> None:
    assert engine.relation("SELECT count(*) FROM query('FROM co' || 're.flight')").fetchall() == [(2,)]


def test_errors_keep_duckdbs_words(engine: Engine) -> None:
    with pytest.raises(QueryFailed, match='"m" not found'):
        engine.relation("SELECT m FROM core.flight")


def test_attached_tables_cannot_be_written(engine: Engine) -> None:
    engine.relation("FROM core.flight")
    attached = engine.relation("SELECT readonly FROM duckdb_databases() WHERE database_name LIKE '%@%'").fetchall()
    assert attached
    assert all(readonly for (readonly,) in attached)


def test_times_are_utc(engine: Engine) -> None:
    assert engine.relation("SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'::varchar").fetchall() == [("2026-01-01 00:00:00+00",)]


def test_two_results_of_one_engine_do_not_disturb_each_other(engine: Engine) -> None:
    first = engine.relation("FROM range(100000)").to_arrow_reader(1000)
    second = engine.relation("FROM range(5)").to_arrow_reader(1000)
    assert sum(batch.num_rows for batch in second) == 5
    assert sum(batch.num_rows for batch in first) == 100_000


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "FROM core.flight;",
        "WITH x AS (SELECT 1) FROM x",
        "VALUES (1)",
        "DESCRIBE core.flight",
        "SHOW ALL TABLES",
        "SUMMARIZE core.flight",
        "PIVOT core.flight ON n USING count(*)",
        "UNPIVOT core.flight ON n",
        "EXPLAIN SELECT 1",
        "-- why\n/* and */ explain (format json) SELECT 1",
        "EXPLAIN ANALYZE FROM core.flight",
    ],
)
def test_reading_statements_are_accepted(engine: Engine, query: str) -> None:
    check_statement(query)
    assert engine.relation(query).fetchall()


@pytest.mark.parametrize(
    "query",
    [
        "",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "INSERT INTO core.flight VALUES (1)",
        "EXPLAIN ANALYZE INSERT INTO core.flight VALUES (1)",
        "EXPLAIN (ANALYZE) DELETE FROM core.flight",
        "DELETE FROM core.flight",
        "COPY core.flight TO 'x.csv'",
        "ATTACH 'x' AS y",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE v AS SELECT 1",
        "SET threads = 1",
        "CALL pragma_version()",
        "CHECKPOINT",
        "INSTALL delta",
        "EXPORT DATABASE 'x'",
        "CREATE VIEW v AS SELECT 1; SELECT 2",
    ],
)
def test_other_statements_are_refused(query: str) -> None:
    with pytest.raises(StatementRefused) as caught:
        check_statement(query)
    assert caught.value.exit_status == 2


def test_what_does_not_parse_keeps_duckdbs_message() -> None:
    with pytest.raises(SqlInvalid, match='syntax error at or near "selec"') as caught:
        check_statement("selec 1")
    assert caught.value.exit_status == 1


def test_near_names() -> None:
    assert near_names("flights", ["core.flight", "core.plane"]) == ["core.flight"]
    assert near_names("core.x", ["core.flight"]) == []


def test_a_query_loads_no_extension_without_a_signature(tmp_path: Path) -> None:
    """kappa's own two are loaded without a look at theirs; what comes later is looked at, and that cannot be undone."""
    unsigned = tmp_path / "other.duckdb_extension"
    unsigned.write_bytes(Path(extension("delta")).read_bytes()[:-256] + bytes(256))
    connection = connect({})
    with pytest.raises(duckdb.Error, match="signature"):
        connection.execute(f"LOAD '{unsigned}'")
    with pytest.raises(duckdb.Error, match="while database is running"):
        connection.execute("SET allow_unsigned_extensions = true")
