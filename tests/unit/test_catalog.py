"""The catalogue: one truth, whoever publishes at the same time."""

from __future__ import annotations

import json
import multiprocessing
import re
from pathlib import Path

import pytest

from flows.objects.errors import UrlInvalid
from sinks.address import StorageUnsupported
from sinks.catalog import Catalog, CatalogState, FormatTooNew, OtherWarehouse, TableEntry


def with_table(name: str) -> object:
    entry = TableEntry("append", "3f9a0c12b7de-1", f"{name.replace('.', '/')}/3f9a0c12b7de-1")

    def change(state: CatalogState) -> CatalogState:
        return state.replace(tables={**state.tables, name: entry})

    return change


def publish_many(root: str, worker: int, count: int) -> None:
    for number in range(count):
        Catalog(root).publish(with_table(f"core.t{worker}_{number}"), by=f"worker {worker}")


def test_nothing_published_reads_as_empty(tmp_path: Path) -> None:
    assert Catalog(str(tmp_path)).read() == CatalogState()
    assert not list(tmp_path.iterdir())


def test_each_catalogue_is_whole_and_the_greatest_is_read(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.create("flights")
    first = catalog.publish(with_table("core.flight"), by="apply 1")
    second = catalog.publish(lambda state: state.replace(views={"analytics.v": "SELECT 1"}), by="apply 2")
    assert (first.n, second.n) == (1, 2)
    assert catalog.read() == second
    assert set(second.tables) == {"core.flight"}
    assert catalog.read(1) == first
    assert catalog.numbers() == [1, 2]


def test_a_change_that_alters_nothing_writes_nothing(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.publish(with_table("core.flight"), by="a")
    assert catalog.publish(with_table("core.flight"), by="b").n == 1
    assert catalog.numbers() == [1]


def test_a_lost_race_is_asked_again(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    asked = []

    def change(state: CatalogState) -> CatalogState:
        asked.append(state.n)
        if len(asked) == 1:
            catalog.publish(with_table("core.other"), by="the other")
        return with_table("core.mine")(state)

    state = catalog.publish(change, by="me")
    assert asked == [0, 1]
    assert set(state.tables) == {"core.other", "core.mine"}


@pytest.mark.slow
def test_processes_that_publish_at_once_lose_nothing(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=publish_many, args=(str(tmp_path), worker, 15)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    state = Catalog(str(tmp_path)).read()
    assert state.n == 45
    assert len(state.tables) == 45
    assert not list((tmp_path / "_kappa" / "catalog").glob(".*"))


def test_the_format_is_checked(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    catalog.create("flights")
    catalog.create("flights")
    with pytest.raises(OtherWarehouse, match="flights"):
        catalog.create("other")
    path = tmp_path / "_kappa" / "format.json"
    path.write_text(json.dumps({"format": 2, "warehouse": "flights", "created_at": "x"}))
    with pytest.raises(FormatTooNew, match="format 2"):
        catalog.read()
    with pytest.raises(FormatTooNew):
        catalog.publish(with_table("core.flight"), by="x")


def test_generations_are_numbered_and_keep_their_definitions(tmp_path: Path) -> None:
    catalog = Catalog(str(tmp_path))
    assert catalog.generations("core.flight") == []
    assert catalog.new_generation("core.flight", "3f9a0c12b7de", {"format": 1, "sql": "SELECT 1"}) == "3f9a0c12b7de-1"
    for ordinal in range(2, 12):
        assert catalog.new_generation("core.flight", "aaaaaaaaaaaa", {"format": 1, "sql": str(ordinal)}) == f"aaaaaaaaaaaa-{ordinal}"
    assert catalog.generations("core.flight")[-2:] == ["aaaaaaaaaaaa-10", "aaaaaaaaaaaa-11"]
    assert catalog.definition("core.flight", "aaaaaaaaaaaa-10") == {"format": 1, "sql": "10"}


@pytest.mark.parametrize("root", ["gs://bucket/a", "s3://bucket/50%", "s3://bucket/a#b", "s3://bucket/a//b", "s3://bucket/../a"])
def test_another_root_is_refused_with_a_sentence(root: str) -> None:
    with pytest.raises(StorageUnsupported, match=re.escape(root)):
        Catalog(root).read()


@pytest.mark.parametrize("root", ["s3://", "s3:///a", "s3://Bucket/a", "s3://a"])
def test_a_root_without_a_bucket_is_refused(root: str) -> None:
    with pytest.raises(UrlInvalid, match="it names no bucket"):
        Catalog(root).read()
