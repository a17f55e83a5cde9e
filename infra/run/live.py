"""What a run feeds: the live generations by the definitions that they were built from, and what is new in the folder.

A table whose definition in the folder is another one is fed by the one that it was built from, until ``kappa apply`` swaps it; so a change
in the folder changes no number before it was seen and applied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.eras import eras_of
from flows.fingerprint import Definition, definitions, file_of
from flows.plan import Plan, analyse, require
from flows.project import Project, parse_project, table_file
from flows.summary import Summary
from sinks.catalog import Catalog, CatalogState

ANALYSED = 2  # the folder, and what is live


@dataclass(frozen=True, slots=True)
class Live:
    """The project that a run feeds. ``differs``: sentences for people about what the folder says and the run does not do."""

    project: Project
    plan: Plan
    definitions: dict[str, Definition]
    differs: tuple[str, ...] = ()


_analysed: deque[Live] = deque(maxlen=ANALYSED)


def of_folder(project: Project) -> Live:
    """What the folder defines. Raises ProjectInvalid."""
    for known in _analysed:  # one command asks several times, and binding all of the SQL takes a third of a second
        if known.project == project:
            return known
    plan = analyse(project)
    require(plan)
    made = Live(project, plan, definitions(project, plan))
    _analysed.append(made)
    return made


def of_catalogue(folder: Live, state: CatalogState, catalog: Catalog) -> Live:
    """The folder's project with the files of live tables that it defines otherwise, or no more, as these were when the tables were built.

    New tables of the folder stay, unless they derive from a table that it defines otherwise. A table that was built before files were
    stored keeps the folder's definition, and ``selection.live_targets`` refuses it. Raises ProjectInvalid.
    """
    built = _built_otherwise(folder.definitions, state, catalog)
    held = {name for name in built if name in folder.definitions}
    new = []
    for name, definition in folder.definitions.items():  # topological
        if name not in state.tables and not held.isdisjoint(definition.reads):
            held.add(name)
            new.append(name)
    if not built and not new:
        return with_eras(folder, state, catalog)
    files = {file: text for file, text in folder.project.files.items() if file not in {folder.definitions[name].file for name in new}}
    views = folder.plan.views.keys() - state.views.keys()
    for name in folder.plan.views:
        del files[table_file(name)]
    files |= {table_file(name): f'/* kind = "view" */\n{sql}\n' for name, sql in state.views.items() if table_file(name) not in files}
    files |= {file: text for stored in built.values() for file, text in [_own_file(stored)]}
    live = with_eras(of_folder(parse_project(folder.project.folder, folder.project.settings, files)), state, catalog)
    return replace(live, differs=(*_differences(folder, built), *_left_out([*new, *sorted(views)])))


def with_eras(live: Live, state: CatalogState, catalog: Catalog) -> Live:
    """The same; tables whose live generations were built from the same definitions keep the earlier ones of these."""
    eras = {}
    for name, entry in state.tables.items():
        definition = live.definitions.get(name)
        if entry.forward and definition is not None and entry.generation.partition("-")[0] == definition.fingerprint:
            eras[name] = replace(definition, before=eras_of(catalog.definition(name, entry.generation)))
    return replace(live, definitions={name: eras.get(name, definition) for name, definition in live.definitions.items()}) if eras else live


def summary_of(folder: Live, table: str, catalog: Catalog, generations: Iterable[str]) -> Summary | None:
    """What a summary computes, by the folder's definition or the live one, when that has built one of ``generations``."""
    for live in (folder, of_catalogue(folder, catalog.read(), catalog)):
        definition = live.definitions.get(table)
        if definition is not None and any(each.partition("-")[0] == definition.fingerprint for each in generations):
            return definition.summary
    return None


def _built_otherwise(made: Mapping[str, Definition], state: CatalogState, catalog: Catalog) -> dict[str, Mapping[str, Any]]:
    """Table -> the stored definition of its live generation, where the folder has another one, or none, and the files are stored."""
    found: dict[str, Mapping[str, Any]] = {}
    for name, entry in state.tables.items():
        here = made.get(name)
        if here is not None and here.fingerprint == entry.generation.partition("-")[0]:
            continue
        if here is None and name.startswith("raw."):
            continue  # raw tables are switched on and off in the source, whose other tables stay as they are
        stored = catalog.definition(name, entry.generation)
        if "files" in stored:
            found[name] = stored
    return found


def _own_file(stored: Mapping[str, Any]) -> tuple[str, str]:
    """The path and text of the file that defined a table: the last of its chain."""
    files: Mapping[str, str] = stored["files"]
    file = file_of(stored["table"], next(iter(files)).removeprefix("sources/").removesuffix(".toml"))
    return file, files[file]


def _differences(folder: Live, built: Mapping[str, Mapping[str, Any]]) -> list[str]:
    changed = [name for name, definition in folder.definitions.items() if name in built and definition.role != "rejected"]
    gone = [name for name in built if name not in folder.definitions and not name.endswith("__rejected")]
    said = []
    if changed:
        said.append(f"the folder defines {', '.join(changed)} otherwise: fed as built until kappa apply (what would change: kappa plan)")
    if gone:
        said.append(f"no file defines {', '.join(gone)} any more: fed as built until kappa apply removes what no file defines")
    return said


def _left_out(names: list[str]) -> list[str]:
    shown = [name for name in names if not name.endswith("__rejected")]
    return [f"{', '.join(shown)}: new over what the folder defines otherwise; kappa apply makes it"] if shown else []
