"""The shell's commands are on the page, and the page's in the shell."""

from __future__ import annotations

import re
from pathlib import Path

from infra.shell.commands import COMMANDS

PAGE = Path(__file__).parents[2] / "docs/querying.md"


def test_the_page_has_every_command() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The shell")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `.")]
    assert set(re.findall(r"\.[a-z]+", " ".join(rows))) == set(COMMANDS) - {".exit"}
