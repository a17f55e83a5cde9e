"""Going back: which earlier catalogue a rollback takes up, and what follows so that the live tables still fit together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flows.errors import KappaError, UsageError
from flows.graph import tables_of
from infra.changes.generations import require_standing
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry, ordinal
from sinks.history import newest

REJECTED = "__rejected"


class NothingToGoBackTo(KappaError):
    """No earlier catalogue has an older generation."""


class RollbackBreaks(KappaError):
    """The older tables would not fit the ones that stay."""


class RollbackOvertaken(KappaError):
    """Another process wrote a catalogue at the same time."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """``base``: the catalogue now; ``to``: the number of the one that is taken up; ``back``: table -> its older generation, None when the
    table leaves the catalogue; ``views``: name -> SQL, all of them.
    """

    base: CatalogState
    to: int
    back: Mapping[str, TableEntry | None]
    views: Mapping[str, str]

    @property
    def state(self) -> CatalogState:
        """The catalogue that it makes."""
        kept = {name: entry for name, entry in self.base.tables.items() if name not in self.back}
        return self.base.replace(tables={**kept, **{n: e for n, e in self.back.items() if e is not None}}, views=self.views)

    def publish(self, catalog: Catalog, by: str) -> CatalogState:
        """Write the catalogue. Raises RollbackOvertaken when another one was written meanwhile."""

        def change(state: CatalogState) -> CatalogState:
            if state.n != self.base.n:
                raise RollbackOvertaken(
                    "nothing is rolled back", cause=f"catalogue {state.n} was written meanwhile", next_step="the same command again"
                )
            return self.state

        return catalog.publish(change, by)


def all_back(catalog: Catalog) -> Rollback:
    """Everything as it was before the last swap. Raises NothingToGoBackTo, RollbackBreaks."""
    now = catalog.read()
    for then in catalog.history():
        if then.n < now.n and _is_before(then, now):
            back: dict[str, TableEntry | None] = {name: entry for name, entry in then.tables.items() if entry != now.tables.get(name)}
            return _checked(catalog, _settled(catalog, now, then, back, dict(then.views)))
    raise NothingToGoBackTo(
        "there is nothing to go back to", cause="no generation was ever swapped for another", next_step="kappa generations"
    )


def some_back(catalog: Catalog, names: Iterable[str]) -> Rollback:
    """The named tables as they were before their last swap, and with them what would not fit otherwise: tables that derive from them, and
    those that they derive from. Raises UsageError, NothingToGoBackTo, RollbackBreaks.
    """
    now = catalog.read()
    wanted = [each for name in names for each in [name, *_with_rejects(name, now)[1:]]]
    for name in wanted:
        if name not in now.tables:
            known = ", ".join(sorted(now.tables))
            raise UsageError(f"no table {name}", cause=f"there are: {known}", next_step="kappa generations")
    for then in catalog.history():
        if then.n < now.n and all(_older(then, now, name) for name in wanted):
            back: dict[str, TableEntry | None] = {name: then.tables[name] for name in wanted}
            return _checked(catalog, _settled(catalog, now, then, back, None))
    raise NothingToGoBackTo(
        f"there is nothing to go back to for {', '.join(names)}",
        cause="no earlier catalogue has older generations of all of them",
        next_step="kappa generations",
    )


def _with_rejects(name: str, state: CatalogState) -> list[str]:
    """A table and the table of its rejects, which are of one definition."""
    base = name.removesuffix(REJECTED)
    return [name, *(each for each in (base, f"{base}{REJECTED}") if each != name and each in state.tables)]


def _older(then: CatalogState, now: CatalogState, name: str) -> bool:
    return name in then.tables and ordinal(then.tables[name].generation) < ordinal(now.tables[name].generation)


def _is_before(then: CatalogState, now: CatalogState) -> bool:
    """Whether ``then`` is what a swap has replaced: nothing in it is newer, and something is older, removed, or another view."""
    both = [name for name in then.tables if name in now.tables]
    if any(_older(now, then, name) for name in both):
        return False
    changed = any(_older(then, now, name) for name in both) or any(name not in now.tables for name in then.tables)
    return changed or any(now.views.get(name) != sql for name, sql in then.views.items())


def _settled(
    catalog: Catalog, now: CatalogState, then: CatalogState, back: dict[str, TableEntry | None], views: dict[str, str] | None
) -> Rollback:
    """Take along what does not fit until every table's upstream is the generation that it was defined over. ``views``: None: those that
    read a table which goes back are as they were ``then``.
    """
    while True:
        tables = {**now.tables, **back}
        odd = _misfits(catalog, {name: entry for name, entry in tables.items() if entry is not None})
        new = {each for pair in odd for name in pair for each in _with_rejects(name, now)} - back.keys()
        if not new:
            break
        for name in new:
            back[name] = then.tables.get(name)
    return Rollback(now, then.n, back, views if views is not None else _views(now, then, back))


def _misfits(catalog: Catalog, tables: Mapping[str, TableEntry]) -> list[tuple[str, str]]:
    """(table, upstream) where the upstream's fingerprint is another than the table was defined over, or a summary was computed from
    another generation of it.
    """
    found = []
    for name, entry in tables.items():
        for upstream, fingerprint in _defined_over(catalog.definition(name, entry.generation)).items():
            live = tables.get(upstream)
            if live is None:
                continue
            other = live.generation.partition("-")[0] != fingerprint
            if other or (entry.kind == "summary" and _computed_from(catalog, name, entry) not in (None, live.generation)):
                found.append((name, upstream))
    return found


def _defined_over(definition: Mapping[str, Any]) -> dict[str, str]:
    """Upstream table -> its fingerprint: the one of a stream or summary, all of a materialized table."""
    upstream = definition.get("upstream")
    return {upstream["table"]: upstream["fingerprint"]} if upstream else dict(definition.get("upstreams", {}))


def _computed_from(catalog: Catalog, name: str, entry: TableEntry) -> str | None:
    """The generation of its upstream that a summary follows; None when nothing says so."""
    last = newest(TableAddress(catalog.root, name, entry.generation))
    upstream = last.record.upstream if last is not None and last.record is not None else None
    return upstream.generation if upstream is not None else None


def _views(now: CatalogState, then: CatalogState, back: Mapping[str, object]) -> dict[str, str]:
    touched = set(back)
    grew = True
    while grew:  # views over views
        readers = {name for views in (now.views, then.views) for name, sql in views.items() if tables_of(sql) & touched}
        grew = not readers <= touched
        touched |= readers
    kept = {name: sql for name, sql in now.views.items() if name not in touched}
    return {**kept, **{name: sql for name, sql in then.views.items() if name in touched}}


def _checked(catalog: Catalog, rollback: Rollback) -> Rollback:
    tables = rollback.state.tables
    for name, entry in rollback.back.items():
        if entry is not None:
            require_standing(catalog.root, name, entry.generation)
    if odd := _misfits(catalog, tables):
        name, upstream = odd[0]
        raise RollbackBreaks(
            "the rollback would leave tables that do not fit together",
            cause=f"{name} was defined over another generation of {upstream}",
            next_step="kappa rollback --all",
        )
    return rollback
