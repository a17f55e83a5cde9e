"""``kappa load`` killed with SIGKILL at named points and at random: the committed records are exactly the file's rows."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.loading import Loading

pytestmark = pytest.mark.slow
ROWS = 15_000


@pytest.fixture
def loading(tmp_path, kafka, topic_name) -> Loading:
    return Loading.make(tmp_path / "w", kafka.bootstrap, topic_name, ROWS)


@pytest.mark.parametrize(
    "point",
    [
        "load.fenced:1",
        "load.sent:1",
        "load.sent:20",
        "load.before-progress:4",
        "load.before-commit:1",
        "load.before-commit:5",
        "load.after-commit:1",
        "load.after-commit:30",
    ],
)
def test_killed_at_a_named_point(loading, point):
    before = killed(loading, KAPPA_FAULT=point)
    assert before < ROWS  # work was left
    loading.load()
    loading.check()
    assert "already loaded on" in loading.load()
    loading.check()


def test_killed_again_and_again(loading):
    reached = [killed(loading, KAPPA_FAULT=point) for point in ("load.after-commit:3", "load.before-commit:3", "load.after-commit:2")]
    assert 0 < reached[0] <= reached[1] < reached[2] < ROWS
    assert "goes on at row" in loading.load()
    loading.check()


@pytest.mark.parametrize("number", range(4))
def test_killed_at_a_random_time(loading, number):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    wait_s = chance.uniform(0.0, 0.3)
    process = loading.start()
    loading.wait_until_begun(process)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output  # it was running
    assert 0 < len(loading.committed()) < ROWS, wait_s  # and work was left
    loading.load()
    loading.check()


def killed(loading: Loading, **environment: str) -> int:
    """Run a load that kills itself. Returns how many rows are committed then."""
    process = loading.start(**environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    return len(loading.committed())


def test_two_loads_at_once_send_each_row_once(loading):
    loads = [loading.start() for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in loads]
    for process, output in zip(loads, outputs, strict=True):
        assert process.returncode in {0, 1}, output
        assert process.returncode == 0 or "next:" in output, output
    loading.load()  # says that it is loaded already, or goes on after the last row, when each load had fenced the other
    loading.check()


def test_a_load_that_stood_still_while_another_took_over_sends_nothing_more(loading):
    first = loading.start()
    loading.wait_until_begun(first)
    first.send_signal(signal.SIGSTOP)
    assert first.poll() is None
    assert len(loading.committed()) < ROWS
    loading.load()
    first.send_signal(signal.SIGCONT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 1, output
    assert "another load of the file took over" in output
    loading.check()
