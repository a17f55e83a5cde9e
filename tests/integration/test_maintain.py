"""``kappa maintain`` beside real runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from tests.inprocess import audit, committed, wait_until
from tests.warehouse import Warehouse, at_work

pytestmark = pytest.mark.slow
MANY_FILES = "[run]\ncommit_interval_s = 0.05\n[maintenance]\ncompact_files = 1000\nretention_s = 600\n"
FED = {"raw.events", "staging.events", "staging.events__rejected", "core.event", "core.tag"}  # and the upsert table, not to be merged


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    return Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=MANY_FILES)


def feed(warehouse: Warehouse, first: int) -> int:
    """Six commits of 100 events, beside a run; returns what the next ones begin with."""
    for begin in range(first, first + 600, 100):
        warehouse.produce(begin, 100)
        wait_until(lambda end=begin + 99: committed(warehouse.folder, "core.tag") == end and committed(warehouse.folder) == end)
    return first + 600


def report(warehouse: Warehouse, *arguments: str) -> dict[str, Any]:
    tables = json.loads(warehouse.kappa("maintain", "--json", *arguments).stdout)["tables"]
    return {table["table"]: table for table in tables}


def merged(tables: dict[str, Any]) -> set[str]:
    return {name for name, table in tables.items() if table["compaction"]["replaced"]["files"]}


def ended(process: subprocess.Popen[str], status: int) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == status, out
    return out


def test_a_run_at_work_keeps_its_tables_unless_they_are_taken_over(warehouse: Warehouse) -> None:
    with at_work(warehouse.start("run")) as run:
        after = feed(warehouse, 1)
        tables = report(warehouse)
        assert merged(tables) == set()
        assert {name for name, table in tables.items() if table["compaction"]["left"]} == FED
        assert f"process {run.pid} on" in tables["core.event"]["compaction"]["left"]
        written = warehouse.folder / "data" / warehouse.catalogue()["tables"]["core.event"]["path"] / "_delta_log/_last_checkpoint"
        assert written.exists()  # by the run itself, or now
        after = feed(warehouse, after)  # it goes on
        assert run.poll() is None
        taken = warehouse.kappa("maintain", "--take-over", "events")
        assert "core.event" in taken.stdout
        out = ended(run, 1)
        assert "has a new owner: process" in out
    warehouse.kappa("run", "--until-caught-up")
    assert audit(warehouse.folder, "--full") == {}
    warehouse.check_independently()


def test_after_a_run_that_was_killed_it_compacts_and_the_next_one_goes_on(warehouse: Warehouse) -> None:
    with at_work(warehouse.start("run")) as run:
        after = feed(warehouse, 1)
        run.kill()
        run.communicate()
    old = versions(warehouse)
    said, done = report(warehouse, "--dry-run"), report(warehouse)
    assert merged(said) == merged(done) == FED
    assert {name: table["compaction"]["by"]["files"] for name, table in done.items() if name in FED} == {
        name: 2 if name == "raw.events" else 1
        for name in FED  # a file for each _partition
    }
    assert merged(report(warehouse)) == set()
    assert audit(warehouse.folder, "--full") == {}
    assert {place: _rows(*place) for place in old} == old  # a reader that began before stays with its version
    with at_work(warehouse.start("run")) as run:
        feed(warehouse, after)
        run.terminate()
        ended(run, 0)
    assert audit(warehouse.folder, "--full") == {}
    warehouse.check_independently()


def versions(warehouse: Warehouse) -> dict[tuple[str, int], int]:
    """(folder, version) of each table as it is now -> its rows."""
    places = [str(warehouse.folder / "data" / entry["path"]) for entry in warehouse.catalogue()["tables"].values()]
    return {(place, version): _rows(place, version) for place in places for version in [DeltaTable(place).version()]}


def _rows(folder: str, version: int) -> int:
    return DeltaTable(folder, version=version).to_pyarrow_table().num_rows
