"""The README's tour, as a reader types it: every command, on servers of its own, and what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What differs from run to run. Numbers of rows, offsets and all answers are none of it.
VOLATILE = [
    (r"\b01[0-9A-HJKMNP-TV-Z]{24}\b", "<id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<now>"),  # kappa's own times have six decimals, the data's none
    (r"127\.0\.0\.1:\d+", "<address>"),
    (r"pid \d+", "pid <pid>"),
    (r"\bin \d+\.\d s\b", "in <seconds>"),
    (r"\(\d+\.\d s\)", "(<seconds>)"),
    (r"(less than 1|[\d,]+) s at [\d,]+ records/s", "<seconds> at <rate>"),
    (r"\([\d,]+/s\)", "(<rate>)"),
    (r"\b\d+(\.\d+)? k?B\b", "<size>"),
    (r"\b\d+ (s|min) ago\b", "<age>"),
    (r"^orders: [\d,]+ records, [\d,]+/s.*\n", ""),  # a run of more than five seconds says so
    (r"^waiting for Kafka at .*\n", ""),  # said when the broker's first answer takes a second
    (r"^fetching .*\n", ""),  # only the first `kappa up` of a machine fetches jars
    (r" +", " "),  # columns are as wide as their volatile cells
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def tour() -> list[tuple[str, str]]:
    """(command, what the README shows) of all console blocks, in order."""
    steps = []
    for step in re.split(r"^\$ ", "".join(blocks("console")), flags=re.MULTILINE)[1:]:
        command, _, shown = step.partition("\n")
        steps.append((command, shown))
    return steps


def masked(text: str) -> str:
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.rstrip("\n")


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A shell in which ``kappa`` is on the PATH and no settings are given; the servers are stopped at the end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAPPA_") or name == "KAPPA_CACHE_DIR"}
    for name in ("COLUMNS", "LINES"):  # what is printed follows the width of the terminal, and there is none
        clean.pop(name, None)
    environment = {**clean, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    yield environment
    if (tmp_path / "shop").exists():
        subprocess.run(["kappa", "-C", str(tmp_path / "shop"), "down"], env=environment, check=True, capture_output=True)


@pytest.mark.slow
def test_the_tour_prints_what_the_readme_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    folder, steps = tmp_path, tour()
    assert sum(command.startswith("kappa ") for command, _ in steps) >= 10
    for command, shown in steps:
        if command.startswith("cd "):
            folder /= command.removeprefix("cd ")
            continue
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        expected = 3 if command.startswith(("kappa plan", "kappa diff")) else 0  # there are changes
        assert done.returncode == expected, f"{command}: {done.returncode}\n{done.stdout}"
        assert masked(done.stdout) == masked(shown), command


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^make (\w+)", "".join(blocks("sh")), re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("core.orders append 9 3.52 kB 1 0 3 s ago live", "core.orders append 8 3.52 kB 1 0 3 s ago live"),
        ("│ 2026-03-01 │      3 │        384.90 │", "│ 2026-03-01 │      3 │        384.91 │"),
        ("orders/0 [0, 11)  read 10 = written 9", "orders/0 [0, 12)  read 10 = written 9"),
        ("orders.csv: 10 rows sent in 1.2 s (8/s)", "orders.csv: 9 rows sent in 1.2 s (8/s)"),
        ("10 records in 0.9 s", "0 records in 0.9 s"),
        ('"ordered_at":"2026-03-02T11:20:00Z"', '"ordered_at":"2026-03-02T11:20:01Z"'),
    ],
)
def test_masks_keep_answers(line: str, other: str) -> None:
    assert masked(line) != masked(other)
