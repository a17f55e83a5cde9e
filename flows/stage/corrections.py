"""Corrections: records that stand for a rejected record of their partition, named in the header ``kappa-corrects``.

What counts is decided by the log alone, in offset order. A rejected record is open. A correction that names an open record and keeps the
contract counts, and closes it. One that names an open record and breaks the contract is a reject that may be corrected itself: it stands
for the same first record, of which one correction in all counts. Whatever else it names, it is a reject ``superseded``, which
nothing can correct.

So the state is: which offsets were rejected, what each rejected correction stands for, and what has been closed. Of the offsets that this
process has judged it is in memory; of those before, in the tables of the generation, which are asked only when a correction names one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from flows.batch import Batch
from flows.errors import KappaError
from flows.stage.codes import Code
from flows.stage.refusal import Refused, shown

HEADER = "kappa-corrects"
REMEMBERED = 100_000  # rejects of all partitions of a worker; beyond, those that the tables hold are forgotten

Headers = list[dict[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class Rejected:
    """What a table of rejects says of a position: its code, and the record's headers."""

    code: str
    headers: Headers | None


class Stored(Protocol):
    """What staging.<source> and its table of rejects hold of one generation. Raises KappaError when they cannot be read."""

    def reach(self, partition: int) -> int:
        """The offset up to which both tables hold the partition."""

    def rejected(self, partition: int, offsets: Collection[int]) -> Mapping[int, Rejected]:
        """Those of ``offsets`` that were rejected."""

    def corrected(self, partition: int, offsets: Collection[int], before: int) -> Mapping[int, int]:
        """Those of ``offsets`` for which a row stands that lies before ``before``, each with that row's offset."""


class RejectsUnknown(KappaError):
    """A correction names a position of which nobody knows any more whether it was rejected."""

    def __init__(self, source: str, where: str, reach: int) -> None:
        super().__init__(
            f"the correction of {where} cannot be judged",
            cause=f"staging.{source} and its table of rejects stand at offset {reach}, before what was read without them",
            next_step=f"kappa run {source} feeds all tables of the source",
        )


@dataclass(slots=True)
class _Memory:
    """One partition from ``start`` to ``end``: rejected offsets, rejected correction -> what it stands for, closed -> what closed it."""

    start: int
    end: int
    open: set[int] = field(default_factory=set)
    stands_for: dict[int, int] = field(default_factory=dict)
    closed: dict[int, int] = field(default_factory=dict)
    limit: int = 0  # more than this is tried to be forgotten again

    def forget(self, before: int) -> None:
        self.start = max(self.start, min(before, self.end))
        self.open = {offset for offset in self.open if offset >= self.start}
        self.stands_for = {offset: first for offset, first in self.stands_for.items() if offset >= self.start}
        self.closed = {first: by for first, by in self.closed.items() if by >= self.start}
        self.limit = 2 * (len(self.open) + len(self.stands_for))


class Corrections:
    """Judges the corrections of a source. ``stored``: None when nothing was judged before the first batch."""

    def __init__(self, source: str, stored: Stored | None) -> None:
        self._source = source
        self._stored = stored
        self._memory: dict[int, _Memory] = {}

    def settle(self, batch: Batch, found: Mapping[int, list[bytes | None]], refused: Mapping[int, Refused]) -> Settled:
        """Judge a batch; batches of a partition come in the log's order. ``found``: index of each correction -> its headers' values;
        ``refused``: index -> why the contract refuses the record. Raises RejectsUnknown.
        """
        memory = self._memory.get(batch.partition)
        if memory is None or memory.end != batch.start:
            memory = self._memory[batch.partition] = _Memory(batch.start, batch.start)
        memory.end = batch.end
        offsets = batch.records.column(0)
        if refused:
            memory.open.update(offsets[index].as_py() for index in refused if index not in found)
        settled = _Judge(self, memory, batch, found).judge(refused) if found else Settled()
        if len(memory.open) + len(memory.stands_for) > max(REMEMBERED // len(self._memory), memory.limit):
            memory.forget(self._stored.reach(batch.partition) if self._stored else memory.start)
        return settled

    def before(self, memory: _Memory, batch: Batch, offsets: Collection[int]) -> dict[int, int]:
        """Those of ``offsets``, all before the memory's start, that were rejected, each with what it stands for."""
        first: dict[int, int] = {}
        chains = {offset: [offset] for offset in offsets}  # the offset that was reached -> those that lead to it
        while chains and self._stored is not None:
            if (reach := self._stored.reach(batch.partition)) < memory.start:
                raise RejectsUnknown(self._source, f"{batch.topic}/{batch.partition}/{min(offsets)}", reach)
            longer: dict[int, list[int]] = {}
            for offset, reject in self._stored.rejected(batch.partition, list(chains)).items():
                named = values(reject.headers)
                if reject.code == Code.SUPERSEDED:
                    continue
                if named:
                    target = parse(named, batch, offset)
                    assert isinstance(target, int), "a correction that was not superseded names a record"
                    longer.setdefault(target, []).extend(chains[offset])
                else:
                    first |= dict.fromkeys(chains[offset], offset)
            chains = longer
        return first

    def closed_before(self, memory: _Memory, batch: Batch, offsets: Collection[int]) -> Mapping[int, int]:
        """Those of ``offsets`` that were closed before the memory's start, each with what closed it."""
        return self._stored.corrected(batch.partition, offsets, memory.start) if self._stored is not None and offsets else {}


@dataclass(slots=True)
class Settled:
    """``superseded``: index -> refusal, in place of any other; ``corrects``: index of each correction that counts -> what it stands for."""

    superseded: dict[int, Refused] = field(default_factory=dict)
    corrects: dict[int, int] = field(default_factory=dict)


class _Judge:
    """The corrections of one batch."""

    def __init__(self, of: Corrections, memory: _Memory, batch: Batch, found: Mapping[int, list[bytes | None]]) -> None:
        self._memory = memory
        self._batch = batch
        self._offsets = {index: batch.records.column(0)[index].as_py() for index in sorted(found)}
        self._targets = {index: parse(found[index], batch, offset) for index, offset in self._offsets.items()}
        named = {target for target in self._targets.values() if isinstance(target, int)}
        self._first = of.before(memory, batch, {offset for offset in named if offset < memory.start})
        older = {*self._first.values(), *(memory.stands_for[offset] for offset in named if offset in memory.stands_for)}
        self._closed = of.closed_before(memory, batch, {offset for offset in older if offset < memory.start})

    def judge(self, refused: Mapping[int, Refused]) -> Settled:
        settled, memory = Settled(), self._memory
        for index, target in self._targets.items():
            first = target if isinstance(target, str) else self._stands_for(target)
            if isinstance(first, str):
                settled.superseded[index] = Refused(Code.SUPERSEDED, first)
            elif index in refused:
                memory.stands_for[self._offsets[index]] = first
            else:
                memory.closed[first] = self._offsets[index]
                settled.corrects[index] = first
        return settled

    def _stands_for(self, target: int) -> int | str:
        """The first record that a correction of ``target`` stands for, when that is open; otherwise why it is not."""
        memory = self._memory
        first = target if target in memory.open else memory.stands_for.get(target, self._first.get(target))
        where = f"{self._batch.topic}/{self._batch.partition}"
        if first is None:
            return f"{where}/{target} is not rejected"
        by = memory.closed.get(first, self._closed.get(first))
        return first if by is None else f"{where}/{target} is corrected already, by {where}/{by}"


def values(headers: Headers | None) -> list[bytes | None]:
    """The values of a record's headers ``kappa-corrects``."""
    found = [header["value"] for header in headers or () if header["name"] == HEADER]
    return [value.encode() if isinstance(value, str) else value for value in found]


def parse(named: list[bytes | None], batch: Batch, offset: int) -> int | str:
    """The offset that a correction at ``offset`` names (``topic/partition/offset``, earlier in its partition), or what is wrong with it."""
    if len(named) > 1:
        return f"the header {HEADER} is there {len(named)} times"
    text = (named[0] or b"").decode("utf-8", "replace")
    place, _, number = text.rpartition("/")
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        return f"the header {HEADER} is no topic/partition/offset: {shown(text)}"
    if place != f"{batch.topic}/{batch.partition}":
        return f"it names {shown(text)}, and a correction stands in the partition of what it corrects: {batch.topic}/{batch.partition}"
    if int(number) >= offset:
        return f"it names {shown(text)}, which does not lie before it"
    return int(number)
