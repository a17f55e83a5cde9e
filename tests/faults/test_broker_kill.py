"""The broker killed with SIGKILL and started again while `kappa run` and `kappa load` are at work: they go on, or stop and say so."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.stack.local import LocalStack
from tests.inprocess import committed, wait_until
from tests.loading import Loading
from tests.warehouse import Warehouse, at_work

pytestmark = pytest.mark.slow
EVENTS = 12_000
SMALL_COMMITS = """
[run]
commit_rows = 500
batch_rows = 250
commit_interval_s = 0.2
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A broker that the other tests do not share."""
    stack = LocalStack(tmp_path_factory.mktemp("broker"), kafka_heap_mb=256)
    stack.up(postgres=False)
    yield stack
    stack.down()


def address(broker: LocalStack) -> str:
    assert broker.kafka.bootstrap_servers is not None
    return broker.kafka.bootstrap_servers


@contextmanager
def killed(broker: LocalStack) -> Iterator[None]:
    """SIGKILL; started again at the end."""
    process = broker.kafka.process()
    assert process is not None
    process.kill()
    process.wait(10)
    yield
    assert broker.up(postgres=False) == [broker.kafka]


def test_killed_under_a_run(broker: LocalStack, topic_name: str, tmp_path: Path) -> None:
    """Twice: in the middle of the work, and when the run waits for more."""
    warehouse = Warehouse.make(tmp_path / "warehouse", address(broker), topic_name, settings=SMALL_COMMITS)
    warehouse.produce(0, EVENTS)
    with at_work(warehouse.start("run")) as process:
        wait_until(lambda: committed(warehouse.folder) or process.poll() is not None)
        with killed(broker):
            time.sleep(1)
        assert committed(warehouse.folder) < EVENTS, "it was killed when no work was left"
        wait_until(lambda: committed(warehouse.folder) == EVENTS or process.poll() is not None, 120)
        with killed(broker):
            pass
        warehouse.produce(EVENTS, 1000)
        wait_until(lambda: committed(warehouse.folder) == EVENTS + 1000 or process.poll() is not None, 120)
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "waiting for Kafka" in said or "waiting before the commit" in said
    finish(warehouse)


def test_away_while_a_run_is_asked_to_stop(broker: LocalStack, topic_name: str, tmp_path: Path) -> None:
    """A run that cannot ask Kafka whether the log is still the same commits nothing, and stops in seconds all the same."""
    warehouse = Warehouse.make(tmp_path / "warehouse", address(broker), topic_name, settings=SMALL_COMMITS)
    warehouse.produce(0, EVENTS)
    with at_work(warehouse.start("run")) as process:
        wait_until(lambda: committed(warehouse.folder) or process.poll() is not None)
        with killed(broker):
            assert committed(warehouse.folder) < EVENTS
            process.terminate()
            said, _ = process.communicate(timeout=20)
    if process.returncode == 0:  # it had just committed all that it had read, and had nothing to ask
        assert re.search(rf"^{committed(warehouse.folder)} records? in ", said, re.MULTILINE), said
    else:
        assert process.returncode == 1, said
        assert "Kafka does not answer" in said
        assert "next:" in said
    finish(warehouse)


def finish(warehouse: Warehouse) -> None:
    warehouse.kappa("run", "--until-caught-up")
    warehouse.check_independently()
    warehouse.kappa("audit", "--full")


def test_killed_under_a_load(broker: LocalStack, topic_name: str, tmp_path: Path) -> None:
    loading = Loading.make(tmp_path / "warehouse", address(broker), topic_name, 20_000)
    with at_work(loading.start()) as process:
        loading.wait_until_begun(process)
        with killed(broker):
            assert process.poll() is None, "it was killed when no work was left"
            time.sleep(1)
        said, _ = process.communicate(timeout=120)
    assert process.returncode in {0, 1}, said
    assert process.returncode == 0 or "next:" in said, said
    loading.load()
    loading.check()
