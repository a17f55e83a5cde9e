"""Which tables a run feeds, and which generation of each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flows.eras import eras_of
from flows.errors import KappaError, UsageError
from flows.fingerprint import Definition, difference
from flows.plan import Plan
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry, ordinal
from sinks.owner import Owner

REJECTED = "__rejected"


class DefinitionChanged(KappaError):
    """The folder says something else than what the live generation was built from."""

    def __init__(self, table: str, generation: str, differences: list[str]) -> None:
        super().__init__(
            f"the definition of {table} differs from its live generation {generation}",
            cause="; ".join(differences),
            next_step="kappa plan shows what would change; kappa apply builds it anew beside the live one and swaps the two",
        )
        self.table = table


@dataclass(frozen=True, slots=True)
class Target:
    """A table generation that a run feeds. ``live``: readers see it already; otherwise it is new, or built beside the live one."""

    definition: Definition
    generation: str
    live: bool

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def entry(self) -> TableEntry:
        """What the catalogue says of it when it is live."""
        path = TableAddress("", self.name, self.generation).path
        return TableEntry(self.definition.kind, self.generation, path, forward=bool(self.definition.before))


@dataclass(frozen=True, slots=True)
class Fed:
    """A table generation with its owner."""

    target: Target
    owner: Owner


def select(names: Iterable[str], plan: Plan, definitions: Mapping[str, Definition]) -> list[str]:
    """The physical tables of ``names`` (tables, or sources for all of theirs; none: all), each with its rejects. Raises UsageError."""
    chosen: set[str] = set()
    for name in names:
        of_source = [table for table, definition in definitions.items() if name and definition.source == name]
        if of_source:
            chosen.update(of_source)
        elif name in definitions:
            chosen.add(name)
            if f"{name}{REJECTED}" in definitions:
                chosen.add(f"{name}{REJECTED}")
        elif name in plan.views:
            raise UsageError(f"{name} is a view: nothing is stored, so nothing is run", next_step=f'kappa query "FROM {name}"')
        else:
            near = difflib.get_close_matches(name, [*definitions, *{d.source for d in definitions.values() if d.source}], n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(definitions))}"
            raise UsageError(f"no table or source {name!r}", cause=hint, next_step="kappa tables")
    return [table for table in definitions if table in chosen] if chosen else list(definitions)


def with_upstreams(tables: Iterable[str], definitions: Mapping[str, Definition]) -> list[str]:
    """``tables``, and the upstream of each summary among them, without whose commits it has nothing to follow."""
    chosen = set(tables)
    chosen.update(definitions[name].summary.upstream for name in tables if definitions[name].summary is not None)  # type: ignore[union-attr]
    return [table for table in definitions if table in chosen]


def descendants(names: Iterable[str], definitions: Mapping[str, Definition]) -> list[str]:
    """The tables of ``names`` and every table that derives from them, in topological order."""
    chosen = set(names)
    for table, definition in definitions.items():  # topological: an upstream comes before what derives from it
        if not chosen.isdisjoint(definition.reads):
            chosen.add(table)
    return [table for table in definitions if table in chosen]


def live_targets(tables: Iterable[str], definitions: Mapping[str, Definition], catalog: Catalog, state: CatalogState) -> list[Target]:
    """The live generation of each table, or its first. Raises DefinitionChanged."""
    targets = []
    for table in tables:
        definition = definitions[table]
        entry = state.tables.get(table)
        if entry is None:
            targets.append(Target(definition, _first(table, definition, catalog), live=False))
            continue
        if entry.generation.partition("-")[0] != definition.fingerprint:
            was = catalog.definition(table, entry.generation)
            raise DefinitionChanged(table, entry.generation, difference(was, definition.json))
        targets.append(Target(definition, entry.generation, live=True))
    return targets


def beside_targets(tables: Iterable[str], definitions: Mapping[str, Definition], catalog: Catalog, state: CatalogState) -> list[Target]:
    """A generation of each table beside the live one: the unfinished one of the same definition, or a new one."""
    targets = []
    for table in tables:
        definition = definitions[table]
        entry = state.tables.get(table)
        live_ordinal = ordinal(entry.generation) if entry is not None else 0
        unfinished = [
            generation
            for generation in catalog.generations(table)
            if generation.partition("-")[0] == definition.fingerprint
            and ordinal(generation) > live_ordinal
            and eras_of(catalog.definition(table, generation)) == definition.before
        ]
        generation = unfinished[-1] if unfinished else catalog.new_generation(table, definition.fingerprint, definition.stored)
        targets.append(Target(definition, generation, live=False))
    return targets


def _first(table: str, definition: Definition, catalog: Catalog) -> str:
    """The generation of a table that is not in the catalogue: one that a killed run began, or a new one."""
    begun = [g for g in catalog.generations(table) if g.partition("-")[0] == definition.fingerprint]
    return begun[-1] if begun else catalog.new_generation(table, definition.fingerprint, definition.stored)
