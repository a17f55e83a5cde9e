"""The mirror against a real PostgreSQL."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from infra.metadata import Added, MetadataUnreachable, Mirror, SchemaNewer, rebuild, upgrade
from infra.metadata.schema import HEAD, LOCK, MIGRATIONS
from tests.integration.metadata_history import (
    GENERATION,
    RUN,
    TABLE,
    MemoryHistory,
    content,
    make_commit,
    make_info,
    make_load,
    make_state,
)

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs" / "metadata.md"


@pytest.fixture(scope="module")
def dsn(postgres):
    """A database of this module's own."""
    name = f"metadata_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return psycopg.conninfo.make_conninfo(postgres, dbname=name)


@pytest.fixture
def empty(dsn):
    """The DSN, with no schema in it."""
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP SCHEMA IF EXISTS kappa CASCADE")
    return dsn


def report(mirror, version):
    mirror.commit(TABLE, GENERATION, make_info(version))


def test_everything_reported_is_there_when_the_mirror_is_closed(empty):
    said = []
    with Mirror(SecretStr(empty), warehouse="shop", say=said.append) as mirror:
        mirror.run_started(RUN)
        for version in range(900):
            report(mirror, version)
        mirror.catalogue(make_state(1))
        mirror.load(*make_load(1, 50, done=True))
        mirror.load(*make_load(1, 20, done=False))
        mirror.run_ended(RUN, "failed", "PositionGap: core.flight")
    assert said == []
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT commit_id), sum(rows) FROM kappa.commits").fetchone() == (900, 900, 8100)
        assert connection.execute("SELECT table_name, kind, generation, n FROM kappa.live_tables").fetchall() == [
            ("core.flight", "append", "3f9a0c12b7de-1", 1)
        ]
        assert connection.execute("SELECT rows, bytes, done FROM kappa.loads").fetchall() == [(50, 1000, True)]
        assert connection.execute("SELECT pid, status, error, ended_at IS NOT NULL FROM kappa.runs").fetchall() == [
            (4711, "failed", "PositionGap: core.flight", True)
        ]
        assert connection.execute("SELECT topic, partition, to_offset, written FROM kappa.totals").fetchall() == [
            ("flights", 0, 9000, 8100)
        ]
        assert connection.execute(
            "SELECT sum(read), sum(written) + sum(filtered) + sum(rejected), count(*) FROM kappa.commit_ranges"
        ).fetchone() == (9000, 9000, 900)


def test_without_a_dsn_the_mirror_does_nothing():
    with Mirror(None, warehouse="shop") as mirror:
        mirror.run_started(RUN)
        report(mirror, 1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), commits=st.integers(0, 12), queue=st.integers(1, 5))
def test_whatever_is_reported_or_dropped_the_mirror_ends_equal_to_the_history(empty, data, commits, queue):
    """Any subset, in any order, doubled, by two mirrors at once, with a queue that overflows."""
    history = MemoryHistory.of(commits)
    warehouse = uuid.uuid4().hex
    reported = [data.draw(st.lists(st.sampled_from(range(commits)))) if commits else [] for _ in range(2)]
    mirrors = [Mirror(SecretStr(empty), warehouse=warehouse, history=history, queue_records=queue) for _ in range(2)]
    with mirrors[0], mirrors[1]:
        for mirror, part in zip(mirrors, reported, strict=True):
            for version in part:
                report(mirror, version)
    rebuild(SecretStr(empty), warehouse, history)
    with psycopg.connect(empty) as connection:
        rows = connection.execute(
            "SELECT version, commit_id, rows, committed_at, metadata FROM kappa.commits WHERE warehouse = %s ORDER BY 1", [warehouse]
        ).fetchall()
        numbers = connection.execute("SELECT n, content FROM kappa.catalogues WHERE warehouse = %s ORDER BY 1", [warehouse]).fetchall()
    assert rows == [(c.version, c.metadata["id"], c.rows, c.at, c.metadata) for c in history.tables[0].kept.values()]
    assert numbers == [(c.n, c.content) for c in history.files.values()]


def test_what_was_dropped_is_read_from_the_history_without_a_reconnect(empty):
    caught_up = threading.Event()

    class Watched(MemoryHistory):
        def loads(self):
            caught_up.set()
            return []

    history = Watched.of(0)
    with Mirror(SecretStr(empty), warehouse="shop", history=history, queue_records=1) as mirror:
        assert caught_up.wait(60)
        for version in range(300):
            history.tables[0].kept[version] = make_commit(version)
            report(mirror, version)
        deadline = time.monotonic() + 60
        while len(commit_ids(empty, "shop")) < 300:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_nobody_reports_is_read_when_the_mirror_is_closed(empty):
    history = MemoryHistory.of(3)
    with Mirror(SecretStr(empty), warehouse="shop", history=history) as mirror:
        history.tables[0].kept[3] = make_commit(3)
        report(mirror, 3)
        history.tables[0].kept[4] = replace(make_commit(4), metadata=None)
    assert commit_ids(empty, "shop") == ["a-0", "a-1", "a-2", "a-3", None]


def test_rebuild_gives_what_the_live_mirror_wrote(empty):
    history = MemoryHistory.of(40)
    with Mirror(SecretStr(empty), warehouse="shop") as mirror:
        for version in range(40):
            report(mirror, version)
        for n in (1, 2):
            mirror.catalogue(make_state(n))
        mirror.load(*make_load(1, 20, done=False))
        mirror.load(*make_load(1, 50, done=True))
    live = content(empty)
    with psycopg.connect(empty) as connection:
        connection.execute("DROP SCHEMA kappa CASCADE")
    assert rebuild(SecretStr(empty), "shop", history) == Added(catalogues=2, commits=40, loads=1)
    assert content(empty) == live
    assert rebuild(SecretStr(empty), "shop", history).commits == 40
    assert content(empty) == live


def test_rebuild_keeps_commits_that_the_delta_log_no_longer_has(empty):
    history = MemoryHistory.of(10)
    rebuild(SecretStr(empty), "shop", history)
    before = content(empty)
    history.tables[0].kept = {v: c for v, c in history.tables[0].kept.items() if v > 7}
    rebuild(SecretStr(empty), "shop", history)
    assert content(empty) == before


@pytest.mark.parametrize("versions", [3, 12])
def test_a_storage_root_made_anew_replaces_what_is_mirrored_of_the_former(empty, versions):
    rebuild(SecretStr(empty), "shop", MemoryHistory.of(10, life="a"))
    rebuild(SecretStr(empty), "other", MemoryHistory.of(10, life="a"))
    with Mirror(SecretStr(empty), warehouse="shop", history=MemoryHistory.of(versions, life="b")):
        pass
    assert commit_ids(empty, "shop") == [f"b-{version}" for version in range(versions)]
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT DISTINCT created_by FROM kappa.catalogues WHERE warehouse = 'shop'").fetchall() == [("run b",)]
        assert connection.execute("SELECT count(*) FROM kappa.commits WHERE warehouse = 'other'").fetchone() == (10,)


def commit_ids(dsn, warehouse):
    with psycopg.connect(dsn) as connection:
        query = "SELECT commit_id FROM kappa.commits WHERE warehouse = %s ORDER BY version"
        return [row[0] for row in connection.execute(query, [warehouse])]


def test_a_record_that_postgresql_cannot_store_is_left_out_alone(empty, caplog):
    with Mirror(SecretStr(empty), warehouse="shop") as mirror:
        for version in range(10):
            report(mirror, version)
        mirror._put(replace(make_commit(30), rows=2**80))
        mirror._put(replace(make_commit(31), metadata={"id": "x", "run": {"started_at": "yesterday, or so"}}))
        mirror._put(replace(make_commit(32), metadata={"id": "y", "run": {}, "x": object()}))
        for version in range(10, 20):
            report(mirror, version)
    assert commit_ids(empty, "shop") == [f"a-{version}" for version in range(20)]
    assert sorted(re.findall(r"flight', '3f9a0c12b7de-1', (\d+)", caplog.text)) == ["30", "31", "32"]


def test_text_that_postgresql_cannot_hold_is_mended(empty):
    odd = {"id": "a\0b", "note": "file \udc80 \U0001f600"}
    with Mirror(SecretStr(empty), warehouse="shop") as mirror:
        mirror._put(replace(make_commit(1), metadata=odd))
        mirror.run_ended(RUN, "failed", "bad \0 byte")
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT commit_id, metadata->>'note' FROM kappa.commits").fetchall() == [
            ("a\ufffdb", "file \ufffd \U0001f600")
        ]
        assert connection.execute("SELECT error FROM kappa.runs").fetchall() == [("bad \ufffd byte",)]


def test_upgrade_twice_does_it_once(empty):
    assert upgrade(SecretStr(empty)) is True
    before = columns(empty)
    assert upgrade(SecretStr(empty)) is False
    assert columns(empty) == before


def test_processes_that_upgrade_at_once_are_safe(empty):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        pool.map(upgrade, [SecretStr(empty)] * 6, chunksize=1)
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT version_num FROM kappa.alembic_version").fetchall() == [(HEAD,)]


def test_an_upgrade_waits_for_the_one_before(empty):
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with psycopg.connect(empty, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        upgrading = pool.submit(upgrade, SecretStr(empty))
        deadline = time.monotonic() + 60
        while connection.execute(waiting).fetchone() != (1,):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert connection.execute("SELECT to_regnamespace('kappa')").fetchone() == (None,)
        connection.execute("SELECT pg_advisory_unlock(%s)", [LOCK])
        assert upgrading.result(60)


def test_the_greatest_file_is_alembics_head():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_newer_schema_is_refused(empty):
    upgrade(SecretStr(empty))
    with psycopg.connect(empty) as connection:
        connection.execute("UPDATE kappa.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaNewer, match="9999"):
        upgrade(SecretStr(empty))
    said = []
    with Mirror(SecretStr(empty), warehouse="shop", say=said.append, retry_s=0.05) as mirror:
        report(mirror, 1)
        time.sleep(0.5)
    assert len(said) == 1
    assert "9999" in said[0]


def test_rebuild_says_when_there_is_no_server():
    with pytest.raises(MetadataUnreachable, match="kappa up"):
        rebuild(None, "shop", MemoryHistory.of(1))
    with pytest.raises(MetadataUnreachable) as caught:
        rebuild(SecretStr("postgresql://kappa:hunter2@127.0.0.1:1/kappa"), "shop", MemoryHistory.of(1))
    assert "127.0.0.1:1/kappa" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def columns(dsn: str) -> dict[str, list[tuple[str, str]]]:
    query = """
        SELECT table_name, column_name, CASE data_type WHEN 'timestamp with time zone' THEN 'timestamptz' ELSE data_type END
        FROM information_schema.columns WHERE table_schema = 'kappa' AND table_name <> 'alembic_version'
        ORDER BY table_name, ordinal_position"""
    found: dict[str, list[tuple[str, str]]] = {}
    with psycopg.connect(dsn) as connection:
        for table, column, kind in connection.execute(query):
            found.setdefault(table, []).append((column, kind))
    return found


def test_the_documented_columns_are_the_columns(empty):
    upgrade(SecretStr(empty))
    documented = {}
    for table, body in re.findall(r"^### `kappa\.(\w+)`\n(.*?)(?=^##|\Z)", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        documented[table] = re.findall(r"^\| `(\w+)` \| (\w+) \|", body, re.MULTILINE)
    assert documented == columns(empty)


def test_the_documented_queries_run(empty):
    upgrade(SecretStr(empty))
    queries = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(queries) >= 4
    with psycopg.connect(empty) as connection:
        for query in queries:
            connection.execute(query)
