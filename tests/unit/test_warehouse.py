"""Reading a storage root at one cut."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from flows.batch import Failure
from flows.errors import UsageError
from sinks import Warehouse
from sinks.engine import QueryFailed, TableUnknown, ViewInvalid
from sinks.errors import TableLost, TableUnreadable
from sinks.snapshot import take_snapshot
from sinks.statement import StatementRefused
from tests.stored import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    root = Root(tmp_path / "data")
    staging, core = root.table("staging.s"), root.table("core.c")
    for start in (0, 10, 20):
        staging.commit({0: (start, start + 10, range(start, start + 10)), 1: (start, start + 10, [])})
        core.commit({0: (start, start + 10, range(start, start + 10, 2)), 1: (start, start + 10, [])}, filtered=5)
    root.view("analytics.v", "SELECT count(*) AS c, max(n) AS n FROM core.c")
    return root


def test_the_forms_of_an_answer(root: Root) -> None:
    with Warehouse.open(root.path) as warehouse:
        answer = warehouse.sql("SELECT n, n / 2 AS h FROM core.c ORDER BY n LIMIT 2")
        assert answer.columns == ["n", "h"]
        assert answer.schema == pa.schema([("n", pa.int64()), ("h", pa.float64())])
        rows = [{"n": 0, "h": 0.0}, {"n": 2, "h": 1.0}]
        assert answer.arrow().to_pylist() == rows
        assert answer.pandas().to_dict("records") == rows
        assert isinstance(answer.polars(), pl.DataFrame)
        assert answer.polars().to_dicts() == rows
        assert pa.Table.from_batches(answer).to_pylist() == rows
        assert answer.relation.aggregate("sum(n)").fetchall() == [(2,)]
        assert warehouse.sql("FROM analytics.v").arrow().to_pylist() == [{"c": 15, "n": 28}]
        assert warehouse.tables() == ["analytics.v", "core.c", "staging.s"]
        assert warehouse.warnings == []


def test_tables_of_a_source_are_read_where_they_agree(root: Root) -> None:
    root.tables["staging.s"].commit({0: (30, 40, range(30, 40))})
    both = "SELECT (SELECT max(_offset) FROM staging.s), (SELECT max(n) FROM core.c)"
    with Warehouse.open(root.path) as warehouse:
        assert warehouse.sql(both).relation.fetchall() == [(29, 28)]
        root.tables["core.c"].commit({0: (30, 40, [31])}, filtered=9)
        assert warehouse.sql(both).relation.fetchall() == [(29, 28)]  # still the same cut
        warehouse.refresh()
        assert warehouse.sql(both).relation.fetchall() == [(39, 31)]


def test_a_newer_cut_voids_the_answers_of_the_old_one_and_moves_the_views(root: Root) -> None:
    with Warehouse.open(root.path) as warehouse:
        old, fixed = warehouse.sql("FROM analytics.v"), warehouse.sql("SELECT 1")
        assert old.arrow().to_pylist() == [{"c": 15, "n": 28}]
        warehouse.refresh()
        assert old.arrow().to_pylist() == [{"c": 15, "n": 28}]  # nothing has moved
        root.view("analytics.w", "SELECT c + 100 AS more FROM analytics.v")
        for table in root.tables.values():
            table.commit({0: (30, 40, range(30, 40))})
        warehouse.refresh()
        for answer in (old, fixed):
            with pytest.raises(QueryFailed):
                answer.arrow()
        assert warehouse.sql("FROM analytics.w").arrow().to_pylist() == [{"more": 125}]
        root.tables["core.c"].owner.address.folder.rename(root.path / "away")
        warehouse.refresh()
        with pytest.raises(ViewInvalid, match=r"analytics\.v"):
            warehouse.sql("FROM analytics.v")
        assert warehouse.sql("SELECT count(*) AS n FROM staging.s").arrow().to_pylist() == [{"n": 40}]
        (root.path / "away").rename(root.tables["core.c"].owner.address.folder)
        warehouse.refresh()
        assert warehouse.sql("FROM analytics.w").arrow().to_pylist() == [{"more": 125}]


def test_a_failed_table_is_left_out_and_named(root: Root) -> None:
    core = root.tables["core.c"]
    core.owner.fail(Failure("core.c", "rule broken", ("t/0/30",), "kappa run"))
    for start in (30, 40):
        root.tables["staging.s"].commit({0: (start, start + 10, range(start, start + 10))})
    with Warehouse.open(root.path) as warehouse:
        assert warehouse.sql("SELECT max(_offset) FROM staging.s").relation.fetchall() == [(49,)]
        assert warehouse.sql("SELECT max(n) FROM core.c").relation.fetchall() == [(28,)]
        assert [w for w in warehouse.warnings if w.startswith("core.c ") and "rule broken" in w]


def test_a_table_without_a_commit_is_empty_and_named(root: Root) -> None:
    root.table("core.fresh")
    with Warehouse.open(root.path) as warehouse:
        assert warehouse.sql("SELECT count(*) FROM core.fresh").relation.fetchall() == [(0,)]
        assert warehouse.sql("SELECT count(*) FROM staging.s").relation.fetchall() == [(30,)]
        assert "committed nothing yet" in warehouse.warnings[0]


def test_a_table_whose_old_version_was_vacuumed_is_not_read_there(root: Root) -> None:
    staging = root.tables["staging.s"]
    for start in (30, 40):
        staging.commit({0: (start, start + 10, range(start, start + 10))})
    assert take_snapshot(str(root.path)).cut.left_out == []
    table = DeltaTable(staging.owner.address.uri)
    table.optimize.compact()
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    with Warehouse.open(root.path) as warehouse:
        assert warehouse.sql("SELECT max(_offset) FROM staging.s").relation.fetchall() == [(49,)]
        assert warehouse.warnings == []  # nobody has asked for core.c yet
        assert warehouse.sql("SELECT max(n) FROM core.c").relation.fetchall() == [(28,)]
        assert [warning.split()[0] for warning in warehouse.warnings] == ["core.c"]


def test_another_programs_commit_changes_no_position(root: Root) -> None:
    table = DeltaTable(root.tables["core.c"].owner.address.uri)
    before = take_snapshot(str(root.path)).cut
    table.optimize.compact()
    after = take_snapshot(str(root.path)).cut
    assert after.left_out == []
    assert after.vectors == before.vectors
    assert after.versions["core.c"] == before.versions["core.c"] + 1


def test_an_empty_root_answers_and_names_the_next_step(tmp_path: Path) -> None:
    Root(tmp_path / "data")
    with Warehouse.open(tmp_path / "data") as warehouse:
        assert warehouse.tables() == []
        assert warehouse.sql("SELECT 1 AS one").arrow().to_pylist() == [{"one": 1}]
        with pytest.raises(TableUnknown, match="kappa run"):
            warehouse.sql("FROM core.c")


def test_what_is_no_warehouse(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no warehouse in"):
        Warehouse.open(tmp_path)


def test_a_warehouse_is_read_only(root: Root) -> None:
    with Warehouse.open(root.path) as warehouse, pytest.raises(StatementRefused):
        warehouse.sql("DELETE FROM core.c")


def test_a_query_that_fails_on_the_way(root: Root) -> None:
    failing = "SELECT CASE WHEN i = 900000 THEN error('boom ' || i) ELSE i END FROM range(1000000) t(i)"
    with Warehouse.open(root.path) as warehouse:
        answer = warehouse.sql(failing)
        with pytest.raises(QueryFailed, match="boom 900000"):
            for _ in answer:
                pass
        with pytest.raises(QueryFailed, match="boom 900000"):
            answer.arrow()


def test_pandas_keeps_all_digits_as_documented(root: Root) -> None:
    with Warehouse.open(root.path) as warehouse:
        answer = warehouse.sql("SELECT 9007199254740993::HUGEINT AS huge, 0.1234567890123456789::DECIMAL(38,19) AS exact")
        assert answer.pandas().dtypes.astype(str).to_list() == ["float64", "float64"]
        (row,) = answer.arrow().to_pandas(types_mapper=pd.ArrowDtype).to_dict("records")
        assert (str(row["huge"]), str(row["exact"])) == ("9007199254740993", "0.1234567890123456789")


def test_memory_is_limited_and_spills(root: Root) -> None:
    with Warehouse.open(root.path, memory_limit=200_000_000) as warehouse:
        distinct = warehouse.sql("SELECT count(*) FROM (SELECT DISTINCT i::varchar || 'xxxxxxxxxxxxxxxx' AS s FROM range(3000000) t(i))")
        assert distinct.relation.fetchall() == [(3_000_000,)]


@pytest.mark.parametrize(
    ("harm", "error", "cause"),
    [
        (lambda log: shutil.rmtree(log.parent), TableLost, "holds no Delta log"),
        (lambda log: [path.unlink() for path in log.iterdir()], TableLost, "holds no Delta log"),
        (lambda log: max(log.glob("*.json")).write_bytes(b'{"commitInfo'), TableUnreadable, "its Delta log cannot be used"),
        (lambda log: max(log.glob("*.json")).write_bytes(b'{"commitInfo":{"kappa":{}}}'), TableUnreadable, "its Delta log cannot be used"),
    ],
    ids=["folder", "log", "half", "foreign"],
)
def test_a_lost_or_damaged_table_fails_only_the_queries_that_name_it(root: Root, harm, error, cause) -> None:
    harm(root.tables["core.c"].owner.address.folder / "_delta_log")
    root.view("analytics.w", "SELECT * FROM analytics.v")
    with Warehouse.open(root.path) as warehouse:
        assert warehouse.sql("SELECT count(*) FROM staging.s").relation.fetchall() == [(30,)]
        with pytest.raises(error, match=r"core\.c cannot be read") as caught:
            warehouse.sql("FROM core.c")
        assert cause in caught.value.cause
        assert "kappa replay core.c" in caught.value.next_step
        for view in ("analytics.v", "analytics.w"):
            with pytest.raises(ViewInvalid, match=f"view {view}") as caught:
                warehouse.sql(f"FROM {view}")
            assert "core.c cannot be read" in caught.value.cause
        assert ("staging", "s") in [row[:2] for row in warehouse.sql("SHOW TABLES").relation.fetchall()]
