"""A storage root on S3: the owner's protocol, maintenance and readers, on moto's server and on a real one where it is installed."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

import flows.objects.path
from flows.batch import SYSTEM
from flows.objects import S3Path, parse_url
from flows.settings import MaintenanceSettings
from sinks import Warehouse
from sinks.catalog import Catalog, StorageOverwrites
from sinks.cleanup import Vacuum, clean_log
from sinks.compaction import live_files
from sinks.errors import Fenced, TableLost
from sinks.history import commits
from sinks.log import DeltaLog
from sinks.maintenance import Maintenance
from sinks.storage import put_if_absent
from sinks.table import open_table
from tests.owned import TOPIC, address, claim, commit, opened, stored, txns
from tests.s3 import S3Server
from tests.s3_proxy import Proxy, proxied
from tests.stored import Root
from tests.unit.test_maintenance import Inline

pytestmark = pytest.mark.slow


@pytest.fixture
def proxy(s3: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """Everything goes through it."""
    with proxied(s3_server, tmp_path) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


def test_of_many_puts_one_is_taken(s3: str) -> None:
    path, barrier, taken = parse_url(s3) / "a/one.json", threading.Barrier(8), []

    def contend(number: int) -> None:
        barrier.wait()
        if put_if_absent(path, b"%d" % number, durable=True):
            taken.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert path.read_bytes() == b"%d" % taken[0]


def test_a_listing_says_what_there_is(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one page of it, in the order of the keys."""
    monkeypatch.setattr(flows.objects.path, "PAGE_KEYS", 10)
    root, client = parse_url(s3) / "pre", s3_server.client()
    names = [f"n{number:04}.json" for number in range(31)]
    for name in names:
        client.put_object(Bucket=root.bucket, Key=f"pre/{name}", Body=b"x" * (int(name[1:5]) % 7))
    client.put_object(Bucket=root.bucket, Key="pre/below/deep.parquet", Body=b"")
    client.put_object(Bucket=root.bucket, Key="prefix-of-another", Body=b"")
    listed = list(root.iterdir())
    assert [path.name for path in listed] == [*names, "below"]
    assert [path.stat().st_size for path in listed[:-1]] == [int(name[1:5]) % 7 for name in names]
    assert abs((root / names[3]).stat().st_mtime - listed[3].stat().st_mtime) < 1
    assert [str(path) for path in root.rglob("*.parquet")] == [f"{root}/below/deep.parquet"]
    assert (root / "n0001.json").exists()
    assert not (root / "n").exists()
    assert (root / "below").is_dir()
    assert not (root / "belo").is_dir()


def test_a_new_owner_goes_on_and_the_old_one_is_fenced(s3: str) -> None:
    old = claim(address(s3), 1)
    commit(old, range(5))
    new = claim(address(s3), 2)
    assert (new.epoch, new.positions) == (2, {(TOPIC, 0): 5})
    with pytest.raises(Fenced, match="process 2 on host"):
        commit(old, range(5, 7))
    commit(new, range(5, 9))
    assert stored(new.address) == Counter({(0, offset): 1 for offset in range(9)})
    assert txns(new.address) == {0: 9}


@pytest.mark.parametrize(("fault", "puts"), [("lost", 1), ("failed", 2), ("torn", 2)])
def test_a_commit_without_an_answer_is_looked_for_before_it_is_made_again(s3: str, proxy: Proxy, fault: str, puts: int) -> None:
    owner = claim(address(s3))
    commit(owner, range(3))
    proxy.next_put(fault)
    assert commit(owner, range(3, 5)).version == 3
    assert len(proxy.puts()) == puts, "no client repeats a conditional put by itself"
    assert len(set(proxy.puts())) == 1
    commit(owner, range(5, 6))
    assert stored(owner.address) == Counter({(0, offset): 1 for offset in range(6)})
    assert [commit.version for commit in commits(owner.address)] == [4, 3, 2, 1, 0]


def test_maintenance_keeps_the_rows_and_a_short_log(s3: str) -> None:
    owner = claim(address(s3))
    maintenance = Maintenance(MaintenanceSettings(compact_files=4, retention_s=0), Inline())
    for offset in range(30):
        commit(owner, range(offset, offset + 1))
        maintenance._not_before = maintenance._next_cleanup = 0.0
        maintenance.after_commit(owner)
    maintenance.finish(owner)
    Vacuum(owner.address).run({file.path for file in live_files(opened(owner.address))}, owner.version, 0)
    log = DeltaLog(owner.address.folder)
    assert log.last_checkpoint() >= 20
    assert len(log.versions()) < 20
    assert log.versions() == list(range(log.versions()[0], owner.version + 1)), "without a gap"
    data = [path for path in owner.address.folder.rglob("*.parquet") if "_delta_log" not in path.key]
    assert len(data) <= len(opened(owner.address).file_uris()) + 4 <= 12
    assert stored(owner.address) == Counter({(0, offset): 1 for offset in range(30)})
    assert claim(owner.address, 2).totals == owner.totals


def test_an_owner_that_slept_through_the_log_cleanup_is_fenced(s3: str) -> None:
    old = claim(address(s3), 1)
    commit(old, range(1))
    new = claim(address(s3), 2)
    for offset in range(1, 9):
        commit(new, range(offset, offset + 1))
    opened(new.address).create_checkpoint()
    assert clean_log(DeltaLog(new.address.folder), 0, new.own_version) > 0
    with pytest.raises(Fenced) as fenced:  # the version that it wants is free again
        commit(old, range(1, 2))
    assert fenced.value.by is not None
    commit(new, range(9, 10))
    assert stored(new.address).total() == 10


@pytest.mark.parametrize("prefix", ["", "/a/b", "/a b,c;d'e&f=gé {h}"])
def test_readers_find_tables_and_views_under_any_prefix(s3: str, s3_server: S3Server, prefix: str) -> None:
    root = Root(f"{s3}{prefix}")
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("a text", pa.string()), *SYSTEM])
    table = root.table("core.event", schema, ["a text"])
    table.commit({0: (0, 3, range(3))})
    table.commit({0: (3, 6, range(3, 6))})
    root.view("analytics.total", "SELECT count(*) AS n FROM core.event")
    with Warehouse.open(f"{s3}{prefix}/") as warehouse:
        assert warehouse.tables() == ["analytics.total", "core.event"]
        assert sorted(row["n"] for row in warehouse.sql("FROM core.event").arrow().to_pylist()) == list(range(6))
        assert warehouse.sql("FROM core.event WHERE \"a text\" = 'a text 4'").arrow().num_rows == 1
        assert warehouse.sql("FROM analytics.total").arrow().to_pylist() == [{"n": 6}]
        secrets = str(warehouse.sql("FROM duckdb_secrets()").arrow().to_pylist())
    assert "redacted" in secrets
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in secrets
    assert s3_server.environment["AWS_SECRET_ACCESS_KEY"] not in repr(table.owner.address)
    live = next(path for path in table.owner.address.folder.rglob("*.parquet"))
    live.unlink()
    assert open_table(table.owner.address).version() == 3
    assert Catalog(root.path).defined() == ["core.event"]


def test_a_version_whose_files_are_gone_is_not_read(s3: str) -> None:
    """Two tables at one cut; the version that they share lost its files, so that the next one is chosen."""
    root = Root(s3)
    one, two = root.table("core.a"), root.table("core.b")
    for start in range(3):
        one.commit({0: (start, start + 1, [start])})
    two.commit({0: (0, 1, [0])})
    with Warehouse.open(s3) as warehouse:
        assert warehouse.snapshot.cut.versions == {"core.a": 2, "core.b": 2}
    for path in list(one.owner.address.folder.rglob("*.parquet")):
        if path.name in str(DeltaLog(one.owner.address.folder).read(2)):
            path.unlink()
    with Warehouse.open(s3) as warehouse:
        assert warehouse.snapshot.cut.versions["core.a"] == 4


def test_a_table_that_is_not_there(s3: str) -> None:
    with pytest.raises(TableLost):
        open_table(address(s3))
    assert DeltaLog(address(s3).folder).versions() == []
    assert Catalog(s3).read().n == 0


def test_a_server_that_overwrites_is_refused(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some older servers ignore If-None-Match."""

    def overwrite(path: S3Path, data: bytes) -> bool:
        path._account.client.put_object(Bucket=path.bucket, Key=path.key, Body=data)
        return True

    monkeypatch.setattr(S3Path, "put_if_absent", overwrite)
    with pytest.raises(StorageOverwrites):
        Catalog(s3).create("shop")
