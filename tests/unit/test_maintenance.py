"""Maintenance: the same rows in the same order, and every version of the retention stays readable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from flows.settings import MaintenanceSettings
from sinks.cleanup import ORPHAN_AGE_S, Vacuum, clean_log
from sinks.compaction import LiveFile, choose, live_files
from sinks.history import commits
from sinks.log import DeltaLog
from sinks.maintenance import Maintenance
from sinks.owner import Owner
from tests.owned import SCHEMA, TOPIC, address, claim, commit, stored

FAN_IN = 4


class Inline(Executor):
    """Runs what is submitted at once, so that tests need no waiting."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def one_by_one(owner: Owner, stop: int, **settings: float) -> None:
    """Commit single rows, with all the maintenance that is due between them."""
    maintenance = Maintenance(MaintenanceSettings(compact_files=FAN_IN, **settings), Inline())
    for offset in range(owner.positions.get((TOPIC, 0), 0), stop):
        commit(owner, range(offset, offset + 1))
        maintenance._not_before = maintenance._next_cleanup = 0.0
        maintenance.after_commit(owner)
    maintenance.finish(owner)


def physical_order(owner: Owner) -> list[int]:
    """The offsets as a reader meets them, file after file in the order of the log."""
    offsets = []
    for file in live_files(DeltaTable(owner.address.uri)):
        offsets += pq.read_table(owner.address.folder / file.path).column("_offset").to_pylist()
    return offsets


def test_many_small_commits_end_in_few_files_in_the_order_of_the_log(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    one_by_one(owner, 150)
    files = live_files(DeltaTable(owner.address.uri))
    assert len(files) <= 4 * FAN_IN
    assert physical_order(owner) == list(range(150))
    assert stored(owner.address).total() == 150
    assert DeltaLog(owner.address.folder).last_checkpoint() > 130
    again = claim(owner.address, 2)
    assert again.positions == {(TOPIC, 0): 150}
    one_by_one(again, 170)
    assert physical_order(again) == list(range(170))


def test_without_retention_only_live_files_and_a_short_log_remain(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    one_by_one(owner, 80, retention_s=0)
    table = DeltaTable(owner.address.uri)
    assert len(list(owner.address.folder.glob("*.parquet"))) <= len(table.file_uris()) + 2 * FAN_IN  # those of the last rewrite
    log = DeltaLog(owner.address.folder)
    assert len(log.versions()) < 25
    assert len(log.checkpoints()) <= 2
    assert claim(owner.address, 2).totals == owner.totals
    assert stored(owner.address).total() == 80


def test_every_version_of_the_retention_stays_readable(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    one_by_one(owner, 60)
    log = DeltaLog(owner.address.folder)
    old = [version for version in log.versions() if version <= 40]
    for version in old:  # 40 versions are an hour and more old, and so is what they removed
        os.utime(log.commit_path(version), (time.time() - 4000, time.time() - 4000))
    vacuum = Vacuum(owner.address)
    vacuum._read(owner.version)
    for path, at in vacuum._removed_at.items():
        removed_by = next(v for v in log.versions() if any(a.get("remove", {}).get("path") == path for a in log.read(v) or []))
        vacuum._removed_at[path] = at - 4000 if removed_by <= 40 else at
    live = {file.path for file in live_files(DeltaTable(owner.address.uri))}
    assert vacuum.run(live, owner.version, 3600) > 0
    assert clean_log(log, 3600, owner.own_version) > 0
    assert log.versions()[0] > 20
    for version in range(40, owner.version + 1):
        table = DeltaTable(owner.address.uri, version=version)
        assert all(Path(path).exists() for path in table.file_uris()), version
    readable = [each.version for each in commits(owner.address) if each.readable]
    assert readable == list(range(owner.version, log.versions()[0] - 1, -1))


def test_the_log_is_not_cleaned_above_the_owners_last_commit(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    for offset in range(3):
        commit(owner, range(offset, offset + 1))
    for _ in range(4):
        DeltaTable(owner.address.uri).optimize.compact(target_size=1)
        DeltaTable(owner.address.uri).delete("_offset > 1000")
    DeltaTable(owner.address.uri).create_checkpoint()
    clean_log(DeltaLog(owner.address.folder), 0, owner.own_version)
    assert claim(owner.address, 2).totals == owner.totals


def test_vacuum_spares_files_that_are_being_written(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    commit(owner, range(3))
    young, old = owner.address.folder / "part-young.parquet", owner.address.folder / "part-old.parquet"
    for path, age in ((young, 60), (old, ORPHAN_AGE_S + 60)):
        path.write_bytes(b"PAR1")
        os.utime(path, (time.time() - age, time.time() - age))
    assert Vacuum(owner.address).run({f.path for f in live_files(DeltaTable(owner.address.uri))}, owner.version, 0) == 1
    assert young.exists()
    assert not old.exists()
    assert stored(owner.address).total() == 3


def test_a_failure_of_maintenance_does_not_reach_the_stream(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    with ThreadPoolExecutor(1) as pool:
        maintenance = Maintenance(MaintenanceSettings(compact_files=2), pool)
        commit(owner, range(1))
        commit(owner, range(1, 2))
        commit(owner, range(2, 3))
        next(owner.address.folder.glob("*.parquet")).unlink()  # compaction cannot read what is gone
        maintenance.after_commit(owner)
        maintenance.finish(owner)
    commit(owner, range(3, 4))
    assert owner.positions == {(TOPIC, 0): 4}


sizes = st.lists(st.tuples(st.integers(1, 5_000), st.integers(1, 400)), max_size=60)


@given(sizes, st.integers(2, 8), st.integers(64, 2_000))
def test_what_is_chosen_are_neighbours_and_worth_it(files: list[tuple[int, int]], fan_in: int, target: int) -> None:
    live = [LiveFile(f"part-{n}", (), rows, nbytes, n) for n, (rows, nbytes) in enumerate(files)]
    for run in choose(live, target, fan_in):
        places = [file.order_ms for file in run]
        assert places == list(range(places[0], places[0] + len(run)))
        assert len(run) >= 2
        assert len(run) >= fan_in or sum(file.nbytes for file in run) >= target
        assert all(file.nbytes * 2 < target for file in run)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), st.integers(2, 8))
def test_files_stay_few_and_rows_are_rewritten_seldom(batches: list[int], fan_in: int) -> None:
    """The whole life of a table, in numbers: a file a commit, compaction after each."""
    live: list[LiveFile] = []
    rewritten = 0
    for n, rows in enumerate(batches):
        live.append(LiveFile(f"part-{n}", (), rows, rows, n))
        while runs := choose(live, 1 << 40, fan_in):
            for run in runs:
                rewritten += sum(file.rows for file in run)
                at = live.index(run[0])
                live[at : at + len(run)] = [
                    LiveFile(run[0].path, (), sum(f.rows for f in run), sum(f.nbytes for f in run), run[-1].order_ms)
                ]
    tiers = 1
    while fan_in**tiers <= sum(batches):
        tiers += 1
    assert sum(file.rows for file in live) == sum(batches)
    assert len(live) <= 2 * fan_in * tiers
    assert rewritten <= 2 * tiers * sum(batches)


def test_compacted_files_keep_their_schema(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    one_by_one(owner, 20)
    for file in live_files(DeltaTable(owner.address.uri)):
        assert pq.read_schema(owner.address.folder / file.path).equals(SCHEMA)
