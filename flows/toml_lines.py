"""Where a key stands in a TOML file, so that a finding can name its line."""

from __future__ import annotations

import re


def line_of(text: str, *path: str) -> int:
    """The 1-based line of the deepest part of ``path`` that can be found: ``line_of(text, "rules", "positive", "check")``; 1 when none."""
    header: tuple[str, ...] = ()
    best, depth = 1, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[+([^\]]+)\]", line):
            header = _parts(table[1])
            here = header
        elif entry := re.match(r"\s*((?:[\w-]+|\"[^\"]*\"|'[^']*')(?:\s*\.\s*(?:[\w-]+|\"[^\"]*\"|'[^']*'))*)\s*=", line):
            here = (*header, *_parts(entry[1]))
        else:
            continue
        if len(here) > depth and here == path[: len(here)]:
            best, depth = number, len(here)
    return best


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in re.findall(r"\"[^\"]*\"|'[^']*'|[^.]+", dotted))
