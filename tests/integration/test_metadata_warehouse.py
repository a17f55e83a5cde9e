"""The mirror of a real storage root: the owner's commits, another program's, the catalogue; and the command line over it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import CommitProperties, write_deltalake
from pydantic import SecretStr

from flows.batch import Failure
from infra.cli import cli
from infra.metadata import MetadataUnreachable, Mirror, rebuild
from infra.metadata.history import WarehouseHistory
from tests.integration.metadata_history import content
from tests.stored import RUN, Root

pytestmark = pytest.mark.slow


@pytest.fixture
def dsn(postgres):
    """An empty database."""
    name = f"metadata_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return psycopg.conninfo.make_conninfo(postgres, dbname=name)


@pytest.fixture
def folder(tmp_path, dsn, monkeypatch) -> Path:
    """A warehouse folder whose storage root is ``root`` and whose PostgreSQL is ``dsn``; its Kafka does not answer."""
    (tmp_path / "warehouse.toml").write_text('name = "test"\nstorage = "root"\n', encoding="utf-8")
    monkeypatch.setenv("KAPPA_POSTGRES__DSN", dsn)
    return tmp_path


@pytest.fixture
def root(folder) -> Root:
    return Root(folder / "root")


class Tables(WarehouseHistory):
    """Without Kafka."""

    def loads(self):
        return iter(())


def history_of(root: Root) -> WarehouseHistory:
    return Tables(str(root.path), dict)


def kappa(folder, *words):
    return CliRunner().invoke(cli, ["-C", str(folder), *words], standalone_mode=False)


def test_live_mirror_and_rebuild_hold_the_same(root, dsn):
    with Mirror(SecretStr(dsn), warehouse="test", history=history_of(root)) as mirror:
        mirror.run_started(RUN)
        tables = [root.table(f"core.t{n}") for n in range(2)]
        mirror.catalogue(root.catalog.read())
        for n, table in enumerate(tables):
            for at in range(4):
                info = table.commit({0: (at * 10, at * 10 + 10, range(at * 10, at * 10 + 8))}, filtered=1, rejected=1, warned={"r": n})
                mirror.commit(table.owner.address.name, table.owner.address.generation, info)
        tables[1].owner.fail(Failure("core.t1", "an odd\0 cause", ("t/0/40",), "kappa run"))
        mirror.run_ended(RUN, "failed", "core.t1 failed")
    live = content(dsn)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT table_name, to_offset, read, written, filtered, rejected FROM kappa.totals").fetchall() == [
            (f"core.t{n}", 40, 40, 32, 4, 4) for n in range(2)
        ]
        assert connection.execute("SELECT table_name, n FROM kappa.live_tables ORDER BY 1").fetchall() == [("core.t0", 2), ("core.t1", 2)]
        versions = connection.execute(
            "SELECT table_name, max(version), count(*), sum(rows), sum(files) FROM kappa.commits GROUP BY 1 ORDER BY 1"
        )
        # made, claimed, four commits, and the failure
        assert versions.fetchall() == [("core.t0", 5, 6, 32, 4), ("core.t1", 6, 7, 32, 4)]
        connection.execute("DROP SCHEMA kappa CASCADE")
    rebuild(SecretStr(dsn), "test", history_of(root))
    assert content(dsn) == live


def test_another_programs_commit_is_mirrored_without_an_id(root, dsn):
    table = root.table("core.t")
    info = table.commit({0: (0, 2, [0, 1])})
    rows = table.rows(0, [7, 8, 9])
    write_deltalake(
        table.owner.address.uri, pa.table(rows), mode="append", commit_properties=CommitProperties(custom_metadata={"by": "hand"})
    )
    rebuild(SecretStr(dsn), "test", history_of(root))
    with psycopg.connect(dsn) as connection:
        newest = connection.execute("SELECT version, commit_id, rows, files, metadata FROM kappa.commits ORDER BY version DESC").fetchone()
    assert newest == (info.version + 1, None, 3, 1, None)


def test_the_commands(root, folder, dsn):
    table = root.table("core.t")
    table.commit({0: (0, 2, [0, 1])})
    before = kappa(folder, "metadata", "status", "--json")
    assert before.return_value == 1
    assert json.loads(before.output)["missing"] == {"catalogues": 1, "commits": 3}
    assert "password" not in before.output
    assert "is now up to date" in kappa(folder, "metadata", "upgrade").output
    assert "is up to date already" in kappa(folder, "metadata", "upgrade").output
    with Mirror(SecretStr(dsn), warehouse="test", history=history_of(root)):
        pass
    after = kappa(folder, "metadata", "status")
    assert after.return_value == 0
    assert "lacks" not in after.output
    table.commit({0: (2, 3, [2])})
    behind = kappa(folder, "metadata", "status")
    assert behind.return_value == 1
    assert "lacks 1" in behind.output


def test_the_commands_name_the_next_command_when_there_is_no_server(folder, monkeypatch):
    monkeypatch.setenv("KAPPA_POSTGRES__DSN", "postgresql://kappa:hunter2@127.0.0.1:1/kappa")
    for command in ("upgrade", "rebuild", "status"):
        error = kappa(folder, "metadata", command).exception
        assert isinstance(error, MetadataUnreachable)
        assert "kappa up" in str(error)
        assert "hunter2" not in str(error)
