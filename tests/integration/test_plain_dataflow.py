"""The flow of a source under Bytewax's own command, as docs/running.md shows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.inprocess import committed, wait_until
from tests.warehouse import Warehouse, at_work

pytestmark = pytest.mark.slow


def test_bytewax_runs_the_flow_of_a_source(kafka, topic_name: str, tmp_path: Path) -> None:
    warehouse = Warehouse.make(tmp_path, kafka.bootstrap, topic_name)
    warehouse.produce(0, 500)
    command = [sys.executable, "-m", "bytewax.run", f"infra.flow:flow('events', {str(tmp_path)!r})", "-s", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=warehouse.environment())
    with at_work(process):
        wait_until(lambda: committed(tmp_path) == 500 or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
    warehouse.kappa("run", "--until-caught-up")
    warehouse.check_independently()
    warehouse.kappa("audit", "--full")
