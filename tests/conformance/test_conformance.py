"""Every row of the conformance table, on both paths of the decoder, in child processes: a crash is a failed case, not a dead session."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conformance_cases import CASES, Case

from flows.stage import Code

RUNNER = Path(__file__).with_name("conformance_runner.py")


def run(path: str) -> dict[str, dict[str, Any]]:
    """Case id -> what became of it. After a crash the rest goes to a new process."""
    results: dict[str, dict[str, Any]] = {}
    left = list(CASES)
    while left:
        child = subprocess.run(
            [sys.executable, RUNNER, path], input="\n".join(left), capture_output=True, text=True, timeout=120, check=False
        )
        steps = [json.loads(line) for line in child.stdout.splitlines()]
        results |= {step["id"]: step for step in steps if "id" in step}
        started = [step["start"] for step in steps if "start" in step]
        assert started, child.stderr
        if started[-1] not in results:
            results[started[-1]] = {"result": f"died with status {child.returncode}", "harmed": 0}
        left = left[len(started) :]
    return results


@pytest.fixture(scope="session")
def fast() -> dict[str, dict[str, Any]]:
    return run("fast")


@pytest.fixture(scope="session")
def tolerant() -> dict[str, dict[str, Any]]:
    return run("tolerant")


def expected(case: Case) -> str:
    return str(case.result) if isinstance(case.result, (Code, str)) else repr(case.result)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fast_path(case: Case, fast: dict[str, dict[str, Any]]) -> None:
    assert fast[case.id]["result"] == expected(case)
    assert fast[case.id]["harmed"] == 0, "a neighbour was lost"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_tolerant_path(case: Case, tolerant: dict[str, dict[str, Any]]) -> None:
    assert tolerant[case.id]["result"] == expected(case)
