"""Making generations live: one catalogue file with all of them, and who notices that a generation is live no more."""

from __future__ import annotations

from flows.errors import KappaError
from flows.ledger import RunIdentity
from infra.metadata import Mirror
from infra.run.live import Live
from infra.run.selection import Fed, Target
from sinks.catalog import Catalog, CatalogState, TableEntry, ordinal


class Overtaken(KappaError):
    """Another generation went live while new ones were built."""

    def __init__(self, table: str, live: str) -> None:
        super().__init__(
            "nothing is swapped in",
            cause=f"generation {live} of {table} went live while the new ones were built",
            next_step=f"kappa show {table}; kappa plan",
        )


class Publisher:
    """Writes the catalogue for one run."""

    def __init__(self, catalog: Catalog, mirror: Mirror, run: RunIdentity) -> None:
        self._catalog = catalog
        self._mirror = mirror
        self._run = run
        self._made_live: set[str] = set()

    def publish(
        self, targets: list[Target], live: Live, by: str, *, base: CatalogState | None = None, whole: bool = False
    ) -> dict[str, TableEntry]:
        """One catalogue file with all of ``targets`` and the project's views; none when nothing changes.

        ``base``: the catalogue whose generations the targets replace; without it they are new tables. ``whole``: the tables that the
        project does not define leave the catalogue, and are returned: their last versions would hold back the cut of their source.
        Raises Overtaken when other generations are live meanwhile.
        """
        gone: dict[str, TableEntry] = {}
        entries = {target.name: target.entry for target in targets}

        def change(state: CatalogState) -> CatalogState:
            nonlocal gone
            for name in {**state.tables, **entries} if base is not None and whole else entries:
                was = state.tables.get(name)
                if was is not None and was not in (entries.get(name), None if base is None else base.tables.get(name)):
                    raise Overtaken(name, was.generation)
            gone = {name: entry for name, entry in state.tables.items() if whole and name not in live.definitions}
            kept = {name: entry for name, entry in state.tables.items() if name not in gone}
            return state.replace(tables={**kept, **entries}, views={name: view.sql for name, view in live.plan.views.items()})

        state = self._catalog.publish(change, by=f"{by}, {self._run}")
        self._made_live.update(entries)
        self._mirror.catalogue(state)
        return gone

    def still_live(self, fed: Fed) -> str | None:
        """Why a table is to be fed no more; None when it is."""
        entry = self._catalog.read().tables.get(fed.target.name)
        if entry is None or entry.generation == fed.target.generation:
            return None
        beside = not fed.target.live and fed.target.name not in self._made_live
        if beside and ordinal(entry.generation) < ordinal(fed.target.generation):
            return None
        return f"generation {fed.target.generation} is live no more: {entry.generation} took its place; this branch ends"
