"""The audit of what a real run made of a real topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow


@pytest.fixture
def warehouse(kafka, tmp_path: Path, topic_name: str) -> Warehouse:
    made = Warehouse.make(tmp_path, kafka.bootstrap, topic_name)
    made.produce(1, 3000)
    made.kappa("run", "--until-caught-up")
    return made


def test_what_a_run_made_is_proved(warehouse: Warehouse) -> None:
    done = warehouse.kappa("audit", "--full")
    print(done.stdout)
    assert "no findings" in done.stdout
