"""The cut: which version of each table to read, so that the tables of one source agree.

The tables of a source commit at the same marks, so that they share position vectors (topic partition -> next position). The cut of a
source is the greatest vector that all of its live tables have committed and still hold. The algorithm is a pure function over what
each table holds; ``sinks.history`` reads it from the Delta logs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Vector = Mapping[tuple[str, int], int]
_Frozen = frozenset[tuple[tuple[str, int], int]]


@dataclass(frozen=True, slots=True)
class Held:
    """What one table holds: ``versions``, ascending, each with the positions it had reached, and why the table failed, if it has.

    ``complete``: False when older versions exist that were not read; ``apart``: it is no function of a log (materialized), and is read at
    its newest version.
    """

    table: str
    versions: Sequence[tuple[int, Vector]]
    failed: str | None = None
    complete: bool = True
    apart: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A table that is read at its own last version, because it does not share the cut, and why. ``empty``: it has no rows to share."""

    table: str
    version: int
    cause: str
    empty: bool = False

    def __str__(self) -> str:
        return f"{self.table} is not at the cut of its source: {self.cause}; it is read at its own version {self.version}"


@dataclass(frozen=True, slots=True)
class Cut:
    """``versions``: table -> Delta version to read; ``vectors``: topic -> partition -> next position; ``left_out``: the exceptions."""

    versions: Mapping[str, int]
    vectors: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()


class Undecided(Exception):
    """The versions that were read hold no common vector, and older versions were not read: read more and try again."""


def compute_cut(tables: Sequence[Held]) -> Cut:
    """The cut over tables of any sources. Raises Undecided when an incomplete ``Held`` may still hide the answer."""
    versions = {held.table: held.versions[-1][0] for held in tables}
    vectors: dict[str, dict[int, int]] = {}
    left_out: list[LeftOut] = []
    sources: dict[frozenset[str], list[Held]] = {}
    for held in tables:
        newest = held.versions[-1][1]
        if held.failed is not None:
            left_out.append(LeftOut(held.table, versions[held.table], f"it has failed ({held.failed})"))
        elif held.apart:
            continue
        elif not newest:
            left_out.append(LeftOut(held.table, versions[held.table], "it has committed nothing yet", empty=True))
        else:
            sources.setdefault(frozenset(topic for topic, _ in newest), []).append(held)
    for group in sources.values():
        chosen, vector, behind = _cut_of_source(group)
        versions.update(chosen)
        left_out += behind
        for (topic, partition), position in vector:
            vectors.setdefault(topic, {})[partition] = position
    return Cut(versions, vectors, left_out)


def _cut_of_source(group: Sequence[Held]) -> tuple[dict[str, int], _Frozen, list[LeftOut]]:
    held = {table.table: {frozenset(vector.items()): version for version, vector in table.versions} for table in group}
    complete = all(table.complete for table in group)
    newest = {table.table: table.versions[-1] for table in group}
    left_out: list[LeftOut] = []
    while True:
        common = frozenset.intersection(*(frozenset(vectors) for vectors in held.values())) - {frozenset()}
        if common:
            vector = max(common, key=_progress)
            return {table: vectors[vector] for table, vectors in held.items()}, vector, left_out
        if not complete:
            raise Undecided
        last = min(held, key=lambda table: (_progress(frozenset(newest[table][1].items())), table))
        del held[last]
        left_out.append(LeftOut(last, newest[last][0], "it is behind every version that the other tables of its source still hold"))


def _progress(vector: _Frozen) -> int:
    """Orders the vectors of one table: positions only ever grow, so that their sum does."""
    return sum(position for _, position in vector)
