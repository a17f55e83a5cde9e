"""What is found of a row: the records that made it, each with what became of it; and why a row cannot be explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.batch import Position
from flows.errors import UsageError
from infra.trace.events import Found

Part = Literal["row", "group", "outranked", "delete", "corrected", "correction"]


class NotTraceable(UsageError):
    """A table whose rows are of no records of their own."""


class RowMissing(UsageError):
    """No row has the key."""


class RowAmbiguous(UsageError):
    """Several rows have what was given, where one is explained."""


@dataclass(frozen=True, slots=True)
class Traced:
    """One record. ``part``: it gave the ``row``; it counts in the ``group``; a newer one of its key has ``outranked`` it; it is a
    ``delete`` of its key; it is the rejected record in whose place the one before stands (``corrected``); or it stands in the place of
    the rejected one before (``correction``). ``row``: what it gave, None for a rejected record. ``found``: the event and where it was
    read, or why it is nowhere.
    """

    position: Position
    part: Part
    row: Mapping[str, Any] | None = None
    found: Found = "not asked"


@dataclass(frozen=True, slots=True)
class Trace:
    """``chain``: the table and what it derives from, down to the topic; ``row``: the table's own (None: the key was deleted); ``total``:
    how many records are behind it, of which ``records`` are the first. ``warnings``: tables that are not at the cut of the others.
    """

    table: str
    kind: str
    chain: tuple[str, ...]
    row: Mapping[str, Any] | None
    total: int
    records: tuple[Traced, ...] = ()
    warnings: tuple[str, ...] = ()
