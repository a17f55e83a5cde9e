"""``kappa run`` killed with SIGKILL at named points and at random: nothing lost, nothing doubled (DESIGN invariant I1)."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time

import pytest
from deltalake import DeltaTable

from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow

ROUND = 1000
SETTINGS = """
[run]
commit_rows = 250
batch_rows = 125
commit_interval_s = 0.2
[maintenance]
compact_files = 4
target_file_bytes = "1MB"
"""
PLACES = ("files-written", "before-commit", "after-commit", "between-tables", "before-summary")
POINTS = [f"{point}:{nth}" for point in PLACES for nth in (2, 5, 9)]
COMPACTION = [f"during-compaction:{nth}" for nth in (1, 2, 4)]
RANDOM_KILLS = 15


def committed(warehouse: Warehouse) -> int:
    """The records that raw.events has committed, by its newest position."""
    try:
        path = warehouse.folder / "data" / warehouse.catalogue()["tables"]["raw.events"]["path"]
        log = sorted((path / "_delta_log").glob("*.json"))[-1]
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        info = next(line["commitInfo"] for line in lines if "commitInfo" in line)
    except (ValueError, OSError, StopIteration, IndexError, KeyError):
        return -1
    kappa = info["kappa"]
    kappa = json.loads(kappa) if isinstance(kappa, str) else kappa
    return sum(total["to"] for total in kappa["totals"].values())


def had_work_left(warehouse: Warehouse, produced: int) -> bool:
    """Whether some table had not yet committed everything when it was killed."""
    for entry in warehouse.catalogue()["tables"].values():
        table = DeltaTable(str(warehouse.folder / "data" / entry["path"]))
        positions = [table.transaction_version(app) for app in _apps(table, warehouse, entry)]
        if sum(position or 0 for position in positions) < produced:
            return True
    return False


def positions(warehouse: Warehouse) -> set[tuple[int | None, ...]]:
    """The positions of all tables, by partition."""
    tables = [(DeltaTable(str(warehouse.folder / "data" / e["path"])), e) for e in warehouse.catalogue()["tables"].values()]
    return {tuple(table.transaction_version(app) for app in _apps(table, warehouse, entry)) for table, entry in tables}


def _apps(table: DeltaTable, warehouse: Warehouse, entry: dict[str, str]) -> list[str]:
    layer, name, generation = entry["path"].split("/")
    return [f"kappa/{layer}.{name}/{generation}/{warehouse.topic}/{p}" for p in range(warehouse.partitions)]


@pytest.fixture
def warehouse(kafka, topic_name, tmp_path) -> Warehouse:
    return Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=SETTINGS)


def finish(warehouse: Warehouse) -> None:
    warehouse.kappa("run", "--until-caught-up")
    warehouse.check_independently()
    warehouse.kappa("audit", "--full")


def test_killed_at_named_points(warehouse):
    produced = 0
    for point in POINTS:
        warehouse.produce(produced, ROUND)
        produced += ROUND
        done = warehouse.kappa("run", "--until-caught-up", status=None, KAPPA_FAULT=point)
        assert done.returncode == -signal.SIGKILL, (point, done.returncode, done.stdout, done.stderr)
        assert had_work_left(warehouse, produced), point
    finish(warehouse)


def test_killed_during_compaction(warehouse):
    produced = 0
    for point in COMPACTION:
        warehouse.produce(produced, 3 * ROUND)
        produced += 3 * ROUND
        done = warehouse.kappa("run", "--until-caught-up", status=None, KAPPA_FAULT=point)
        assert done.returncode == -signal.SIGKILL, (point, done.returncode, done.stdout, done.stderr)
    finish(warehouse)


def test_killed_at_random(warehouse):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    produced = 0
    for _ in range(RANDOM_KILLS):
        warehouse.produce(produced, ROUND)
        before, produced = committed(warehouse), produced + ROUND
        process = warehouse.start("run")
        wait_for(lambda: committed(warehouse) > before, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.communicate()
        assert had_work_left(warehouse, produced)
    finish(warehouse)


def test_two_runs_at_once(warehouse):
    """The newer run takes over; the older one stops, exit 1, and names it, also when nothing arrives any more."""
    warehouse.produce(0, ROUND)
    first = warehouse.start("run")
    wait_for(lambda: committed(warehouse) == ROUND, first)
    second = warehouse.start("run")
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1, output
    assert f"process {second.pid}" in output
    warehouse.produce(ROUND, ROUND)
    wait_for(lambda: committed(warehouse) == 2 * ROUND, second)
    second.send_signal(signal.SIGTERM)
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert "s ago; if it still runs, it stops now" in output
    finish(warehouse)


def test_stopped_and_woken_after_another_took_over(warehouse):
    """SIGSTOP one run, let another take over, wake the first: it commits nothing more."""
    warehouse.produce(0, ROUND)
    first = warehouse.start("run")
    wait_for(lambda: committed(warehouse) > 0, first)
    first.send_signal(signal.SIGSTOP)
    warehouse.produce(ROUND, ROUND)
    warehouse.kappa("run", "--until-caught-up")
    warehouse.produce(2 * ROUND, ROUND)
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 1, output
    finish(warehouse)


def test_ctrl_c_commits_what_is_whole(warehouse):
    warehouse.produce(0, ROUND)
    process = warehouse.start("run")
    wait_for(lambda: committed(warehouse) == ROUND, process)
    warehouse.produce(ROUND, 10)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    finish(warehouse)


@pytest.mark.parametrize("partitions", [1, 3])
def test_sigterm_with_two_workers_commits_what_is_whole(kafka, topic_name, tmp_path, partitions):
    """While records flow, to lanes in both workers or in one; every table has committed as far as every other."""
    settings = SETTINGS.replace("[run]", "[run]\nworkers = 2")
    warehouse = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, partitions, settings)
    warehouse.produce(0, 6 * ROUND)
    process = warehouse.start("run")
    wait_for(lambda: committed(warehouse) > 0, process)
    assert had_work_left(warehouse, 6 * ROUND)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert len(positions(warehouse)) == 1, positions(warehouse)
    warehouse.kappa("audit", "--full")
    finish(warehouse)


def wait_for(reached, process: subprocess.Popen[str], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not reached():
        if process.poll() is not None:
            pytest.fail(f"the run ended with {process.returncode}:\n{process.communicate()[0]}")
        assert time.monotonic() < give_up, "the run did not get there"
        time.sleep(0.01)
