"""The benchmarks run: all of them, with a handful of events. Their figures mean nothing at this size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_benchmark_runs(tmp_path: Path) -> None:
    found = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.bench", "--events", "2000", "--repeat", "1", "--json", str(found), "--folder", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, result.stderr[-4000:]
    document = json.loads(found.read_text())
    assert {ratio["name"] for ratio in document["ratios"]} == {
        "R1",
        "R1 raw",
        "R2",
        "R3",
        "R4",
        "R7",
        "R7 read",
        "summary",
        "replay",
        "workers",
        "diff",
        "fresh",
        "R8",
        "R11",
        "R12",
    }
    assert all(ratio["value"] > 0 for ratio in document["ratios"])
    assert all(run["cpu_s"] > 0 and run["peak_bytes"] > 0 for runs in document["runs"].values() for run in runs)
    assert list(tmp_path.iterdir()) == [found], "it leaves nothing behind"
