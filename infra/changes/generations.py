"""The generations of tables: which are live, were live, wait to be; dropping those that nobody needs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from flows.errors import KappaError, UsageError
from flows.objects import Place
from flows.settings import MaintenanceSettings
from infra.run.identity import has_ended
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, ordinal
from sinks.history import Commit, newest
from sinks.published import Cuts, PublishedCut
from sinks.storage import reaching

State = Literal["live", "built", "old", "dropped"]
YOUNG_S = 60.0


class GenerationKept(UsageError):
    """A generation that must not be dropped."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One build of a table. ``state``: ``live``; ``built``: newer than the live one; ``old``; ``dropped``: its data is gone.

    ``live_from``, ``live_until``: when it went live, and when another took its place or it left the catalogue (ISO 8601); None: never, or
    live still. ``last``: the newest commit with a ledger, None before the first.
    """

    table: str
    name: str
    state: State
    live_from: str | None
    live_until: str | None
    last: Commit | None


def generations(root: str, tables: Iterable[str] = ()) -> list[Generation]:
    """The generations of ``tables`` (none: of all), by table and ordinal. Raises what reading the storage root raises."""
    catalog = Catalog(root)
    spans = _live_spans(catalog)
    state = catalog.read()
    found = []
    for table in tables or catalog.defined():
        entry = state.tables.get(table)
        live = None if entry is None else entry.generation
        dropped = catalog.dropped(table)
        for name in sorted([*catalog.generations(table), *dropped], key=ordinal):
            since, until = spans.get((table, name), (None, None))
            last = None if name in dropped else newest(TableAddress(root, table, name))
            found.append(Generation(table, name, _state(name, live, dropped), since, until, last))
    return found


def _state(name: str, live: str | None, dropped: list[str]) -> State:
    if name in dropped:
        return "dropped"
    if name == live:
        return "live"
    return "built" if live is None or ordinal(name) > ordinal(live) else "old"


def _live_spans(catalog: Catalog) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    """(table, generation) -> when it last went live, and until when it was; None: still."""
    spans: dict[tuple[str, str], tuple[str | None, str | None]] = {}
    after: CatalogState | None = None
    for state in catalog.history():  # newest first
        for table, entry in state.tables.items():
            key = (table, entry.generation)
            newer = None if after is None else after.tables.get(table)
            if key not in spans:
                spans[key] = (state.created_at, None if after is None else after.created_at)
            elif newer is not None and newer.generation == entry.generation and spans[key][0] == (after.created_at if after else None):
                spans[key] = (state.created_at, spans[key][1])
        after = state
    return spans


def droppable(root: str, table: str, names: Iterable[str] = ()) -> list[Generation]:
    """The generations among ``names`` (none: all that may be dropped). Raises UsageError, and GenerationKept for what must stay."""
    known = {generation.name: generation for generation in generations(root, [table])}
    named = [cut for cut in Cuts(root).all() if cut.pin is not None]
    if not known:
        raise UsageError(
            f"no table {table}", cause=f"there are: {', '.join(Catalog(root).defined()) or 'none'}", next_step="kappa generations"
        )
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise UsageError(
                f"{table} has no generation {name}", cause=f"there are: {', '.join(known)}", next_step=f"kappa generations {table}"
            )
        if why := _kept(known[name], named):
            raise GenerationKept(f"generation {name} of {table} is not dropped", cause=why, next_step=f"kappa generations {table}")
    return [known[name] for name in wanted] or [each for each in known.values() if not _kept(each, named) and each.state != "dropped"]


def _kept(generation: Generation, cuts: Iterable[PublishedCut]) -> str:
    """Why a generation must stay; empty when it may go. ``cuts``: the published ones."""
    if generation.state == "live":
        return "it is live: kappa rollback goes back to another one first"
    for cut in cuts:
        at = cut.tables.get(generation.table)
        if at is not None and at.generation == generation.name:
            return f"cut {cut.n} names it" + (f": kappa cuts unpin {cut.pin}" if cut.pin else ", which expires (maintenance.keep_cuts_s)")
    last = generation.last
    if last is None or last.record is None or has_ended(last.record.run):
        return ""
    age_s = (datetime.now(UTC) - last.at).total_seconds()
    return f"{last.record.run} committed to it {age_s:.0f} s ago" if age_s < YOUNG_S and generation.state == "built" else ""


def expired(root: str, tables: Iterable[str], settings: MaintenanceSettings, now: datetime) -> list[Generation]:
    """What retention drops: generations before the ``keep_generations`` newest that have not been live for ``retention_s``."""
    found = []
    cuts = Cuts(root)
    cuts.expire(settings.cuts_kept_s)
    named = cuts.all()
    by_table: dict[str, list[Generation]] = {}
    for generation in generations(root, tables):
        by_table.setdefault(generation.table, []).append(generation)
    for each in by_table.values():
        standing = [generation for generation in each if generation.state != "dropped"]
        for generation in standing[: -settings.keep_generations]:
            until = generation.live_until
            rested = until is None or (now - datetime.fromisoformat(until)).total_seconds() > settings.retention_s
            if generation.state == "old" and rested and not _kept(generation, named):
                found.append(generation)
    return found


def drop(root: str, generation: Generation) -> None:
    """Delete the data of a generation, and the cuts that name it and are not pinned; its definition stays. Killed on the way, the next
    call deletes the rest. Raises StorageUnusable.

    The mark comes first, so that nothing half deleted is ever made live.
    """
    Cuts(root).forget(generation.table, generation.name)
    Catalog(root).mark_dropped(generation.table, generation.name)
    with reaching(root):
        delete(TableAddress(root, generation.table, generation.name).folder)


def delete(folder: Place) -> None:
    """Delete the data of a table. The log goes last: a folder without a log could be taken for a new one."""
    if isinstance(folder, Path):
        if folder.exists():
            shutil.rmtree(folder)
        return
    for path in folder.rglob("*"):
        path.unlink()


def require_standing(root: str, table: str, generation: str) -> None:
    """Raises KappaError when a generation's data was dropped or is gone."""
    if generation in Catalog(root).dropped(table):
        raise KappaError(
            f"generation {generation} of {table} was dropped", cause="its data is deleted", next_step=f"kappa generations {table}"
        )
    if newest(TableAddress(root, table, generation)) is None:
        raise KappaError(
            f"generation {generation} of {table} is gone", cause="its folder holds no table", next_step=f"kappa generations {table}"
        )
