"""SIGKILL at every place that matters in the owner's work; then another process goes on, and every row is there once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sinks.owner import Owner
from tests.faults.owner_worker import ROWS
from tests.owned import TOPIC, address, claim, stored, txns

COMMITS = 40
ENDLESS = 100_000
REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def start(root: Path | str, fault: str | None = None, *, commits: int) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name != "KAPPA_FAULT"}
    environment |= {"KAPPA_FAULT": fault} if fault else {}
    command = [sys.executable, "-m", "tests.faults.owner_worker", str(root), str(commits)]
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment)


def done_in(root: Path) -> int:
    """How many batches the table holds, as another process sees it."""
    return sum(span.read for span in Owner.read_totals(address(root)).values()) // ROWS


def check(root: Path | str, commits: int) -> None:
    table = address(root)
    assert stored(table) == {(0, offset): 1 for offset in range(commits * ROWS)}
    assert txns(table) == {0: commits * ROWS}
    totals = claim(table).totals[TOPIC, 0]
    assert (totals.start, totals.end, totals.read, totals.written) == (0, commits * ROWS, commits * ROWS, commits * ROWS)


@pytest.mark.parametrize("fault", ["files-written:3", "before-commit:1", "before-commit:3", "after-commit:2", "during-compaction:1"])
def test_a_kill_at_a_named_point_loses_and_doubles_nothing(tmp_path: Path, fault: str) -> None:
    assert start(tmp_path, fault, commits=ENDLESS).wait() == -signal.SIGKILL
    done = claim(address(tmp_path)).positions.get((TOPIC, 0), 0) // ROWS
    assert done < ENDLESS, "there must be work left"
    assert start(tmp_path, commits=done + COMMITS).wait() == 0
    check(tmp_path, done + COMMITS)


def test_kills_at_random_lose_and_double_nothing(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    killed = 0
    while killed < 3:
        before = done_in(tmp_path)
        worker = start(tmp_path, commits=ENDLESS)
        while done_in(tmp_path) == before:
            assert worker.poll() is None, "the kill must hit a running process"
            time.sleep(0.01)
        time.sleep(source.uniform(0, 1))
        assert worker.poll() is None, "the kill must hit a running process"
        worker.kill()
        worker.wait()
        killed += 1
    done = claim(address(tmp_path)).positions.get((TOPIC, 0), 0) // ROWS
    assert 0 < done < ENDLESS
    check(tmp_path, done)


def test_a_stopped_owner_that_wakes_after_another_took_over_commits_nothing(tmp_path: Path) -> None:
    first = start(tmp_path, commits=ENDLESS)
    while not (address(tmp_path).folder / "_delta_log" / f"{12:020}.json").exists():
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    done = claim(address(tmp_path)).positions[TOPIC, 0] // ROWS
    assert start(tmp_path, commits=done + COMMITS).wait() == 0
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 1
    check(tmp_path, done + COMMITS)
