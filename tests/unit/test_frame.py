"""What a bare machine meets first: the locks, and the script that makes .venv."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture
def clone(tmp_path):
    """The files that .ci/install reads."""
    (tmp_path / ".ci").mkdir()
    for name in (".ci/install", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def install(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1", **environment}
    return subprocess.run(
        ["bash", clone / ".ci/install", "runtime"], env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


def test_a_wrong_python_is_a_clear_sentence(clone):
    result = install(clone, PYTHON="false")
    assert result.returncode == 1
    assert "kappa needs Python 3.11 or 3.12" in result.stderr
    assert not (clone / ".venv").exists()


@pytest.mark.slow
def test_a_registry_out_of_reach_is_a_clear_sentence(clone):
    result = install(clone, PYTHON=sys.executable, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="")
    assert result.returncode == 1
    assert "no Python package registry is in reach" in result.stderr
    assert not list((clone / ".venv").glob("installed-*"))


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_everything_with_hashes_and_names_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    requirements = re.split(r"\n(?=\S)", text.strip())
    assert len(requirements) > 40
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+(\[[a-z,-]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_what_runs_is_the_same_in_both_locks():
    runtime, dev = (set(re.findall(r"^\S+==\S+", (ROOT / lock).read_text(), re.MULTILINE)) for lock in LOCKS)
    assert runtime < dev
