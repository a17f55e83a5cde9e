"""How the tables of a source are made, position by position: by what is live, and below an earlier change by what was live before it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from flows.contract import Source
from flows.eras import Era
from flows.errors import KappaError
from flows.plan import Node
from flows.project import parse_project
from infra.run.live import Live, of_folder

State = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Makers:
    """What makes the tables of a source: its contract, and its streaming tables, each after what it reads."""

    source: Source
    nodes: tuple[Node, ...]


class EraLost(KappaError):
    """Rows of earlier positions cannot be made again."""

    def __init__(self, table: str, era: Era, found: str) -> None:
        until = ", ".join(f"{partition}/{offset}" for partition, offset in sorted(era.until.items()))
        super().__init__(
            f"the rows of {table} below the positions {until} cannot be made again",
            cause=f"they are of generation {era.generation}, and from its files this kappa makes the definition {found}",
            next_step="install the kappa and the DuckDB that it was built with",
        )


class Eras:
    """Of one source of ``live``, over the topic with an id. ``schemas``: what its tables store, at all positions."""

    def __init__(self, live: Live, source: str, topic_id: str | None) -> None:
        self._live = live
        mine = {name: each for name, each in live.definitions.items() if each.source == source}
        self.now = Makers(live.project.sources[source], tuple(node for node in live.plan.nodes.values() if node.source == source))
        self.schemas: Mapping[str, pa.Schema] = {name: each.schema for name, each in mine.items()}
        self._before: dict[str, tuple[Era, ...]] = {}
        for name in (f"staging.{source}", *(node.name for node in self.now.nodes)):
            if name in mine and (eras := tuple(era for era in mine[name].before if era.topic_id == topic_id)):
                self._before[name] = eras
        self._made: dict[State, Makers] = {}

    def edges(self, partition: int) -> list[int]:
        """The offsets of a partition from which one of the tables is made otherwise, ascending."""
        return sorted({era.until.get(partition, 0) for eras in self._before.values() for era in eras} - {0})

    def at(self, partition: int, offset: int) -> Makers:
        """What makes the rows of a position. Raises EraLost."""
        return self._makers(self._state(partition, offset))

    def stretches(self, starts: Mapping[int, int], until: Mapping[int, int] | None) -> tuple[Makers, dict[int, int]] | None:
        """From ``starts``: what makes the next rows that are made otherwise than now, and up to where; None when no such are left.

        ``until``: where to end at the latest. A partition whose next rows are made otherwise waits at its start. Raises EraLost.
        """
        now = tuple(len(eras) for eras in self._before.values())
        states = {p: self._state(p, at) for p, at in starts.items() if until is None or at < until.get(p, at)}
        state = min((each for each in states.values() if each != now), default=None)
        if state is None:
            return None
        ends = dict(starts)
        for p in (p for p, each in states.items() if each == state):
            edge = min(edge for edge in self.edges(p) if edge > starts[p])
            ends[p] = edge if until is None else min(edge, until[p])
        return self._makers(state), ends

    def _state(self, partition: int, offset: int) -> State:
        """Of each table that has eras the number of the one that a position lies in; behind all of them, their count."""
        return tuple(
            next((number for number, era in enumerate(eras) if offset < era.until.get(partition, 0)), len(eras))
            for eras in self._before.values()
        )

    def _makers(self, state: State) -> Makers:
        if state not in self._made:
            chosen = {name: eras[n] for (name, eras), n in zip(self._before.items(), state, strict=True) if n < len(eras)}
            source, nodes = self.now.source, []
            if (era := chosen.get(f"staging.{source.name}")) is not None:
                source = self._read(f"staging.{source.name}", era).project.sources[source.name]
            for node in self.now.nodes:
                era = chosen.get(node.name)
                nodes.append(node if era is None else self._read(node.name, era).plan.nodes[node.name])
            self._made[state] = Makers(source, tuple(nodes))
        return self._made[state]

    def _read(self, table: str, era: Era) -> Live:
        project = self._live.project
        found = of_folder(parse_project(project.folder, project.settings, era.files))
        if found.definitions[table].fingerprint != era.fingerprint:
            raise EraLost(table, era, found.definitions[table].fingerprint)
        return found
