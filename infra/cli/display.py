"""Numbers, times and grids for people."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime

import click

_UNITS = ("B", "kB", "MB", "GB", "TB")


def count(number: int) -> str:
    """``1,234,567``."""
    return f"{number:,}"


def size(nbytes: int) -> str:
    """``12.3 MB``: decimal units, three figures."""
    value = float(nbytes)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{nbytes} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    raise AssertionError(nbytes)


def age(seconds: float | None) -> str:
    """``3 s ago``; ``never`` for None."""
    if seconds is None:
        return "never"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit} ago"
    return f"{seconds / 86_400:.0f} days ago"


def timestamp(at: datetime) -> str:
    """ISO 8601 in UTC with microseconds: ``2026-11-22T18:00:00.000000Z``."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, the last an ellipsis when something was cut."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def grid(header: Sequence[str], rows: Sequence[Sequence[str]], right: AbstractSet[int] = frozenset()) -> None:
    """Print columns under their names; ``right``: columns of numbers. The last column is cut at the terminal's edge."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    edge = shutil.get_terminal_size((200, 24)).columns
    for number, row in enumerate([header, *rows]):
        cells = [cell.rjust(width) if n in right else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]
        line = shorten("  ".join(cells).rstrip(), edge)
        click.echo(click.style(line, bold=True) if number == 0 else line)
