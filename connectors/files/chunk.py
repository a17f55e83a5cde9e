"""What every reader gives: consecutive rows of a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


class Broken(NamedTuple):
    """Why a row's value is not what it should be, and the 1-based physical line on which it begins, where there are lines."""

    cause: str
    line: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows as bytes, ready to be sent; ``broken``: index in the chunk -> why, for the rows whose value is their raw bytes."""

    keys: list[bytes | None]
    values: list[bytes]
    broken: dict[int, Broken] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    def skip(self, rows: int) -> Chunk:
        """Without its first ``rows``."""
        if rows == 0:
            return self
        broken = {index - rows: why for index, why in self.broken.items() if index >= rows}
        return Chunk(self.keys[rows:], self.values[rows:], broken)


@dataclass(frozen=True, slots=True)
class Rows:
    """A file opened for reading: ``notices`` for people, then the rows, once."""

    notices: list[str]
    chunks: Iterator[Chunk]


def too_long(max_bytes: int) -> str:
    """The cause of a row that is longer than its source allows."""
    return f"longer than max_record_bytes ({max_bytes} bytes)"


def cut(cause: str) -> str:
    """The cause of a row of which the event holds only the beginning."""
    return f"{cause}: only the beginning of its first line is kept"
