"""What the folder defines against what is live: the status of every table and view, without asking Kafka."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.fingerprint import difference, file_of
from infra.run.live import Live
from sinks.catalog import Catalog, CatalogState

REJECTED = "__rejected"
Status = Literal["unchanged", "metadata", "new", "changed", "removed"]
CONTEXT_LINES = 1


@dataclass(frozen=True, slots=True)
class Change:
    """One table or view. ``kind``: the folder's, or the live one's when it is removed; ``generation``: the live one (None for views);
    ``fingerprint``: of the folder's definition (None for views); ``differences``: sentences; ``follows``: its upstream, when nothing but
    that has changed; ``diff``: of the file's text, or of a view's SQL, as ``diff -u`` shows it.

    ``metadata``: the file's text has changed, and nothing that decides rows: comments, descriptions, rules that warn.
    """

    name: str
    kind: str
    status: Status
    generation: str | None = None
    fingerprint: str | None = None
    differences: tuple[str, ...] = ()
    follows: str | None = None
    diff: tuple[str, ...] = ()

    @property
    def builds(self) -> bool:
        """Whether a new generation has to be made."""
        return self.status in ("new", "changed") and self.kind != "view"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "status": self.status,
            "generation": self.generation,
            "fingerprint": self.fingerprint,
            "differences": list(self.differences),
            "follows": self.follows,
            "diff": list(self.diff),
        }


def compare(folder: Live, state: CatalogState, catalog: Catalog) -> list[Change]:
    """Every table of the folder, upstream first; then its views; then what only the catalogue has."""
    found = [_table(folder, name, state, catalog) for name in folder.definitions]
    found += [_view(name, view.sql, state) for name, view in folder.plan.views.items()]
    for name, entry in state.tables.items():
        if name not in folder.definitions:
            found.append(Change(name, entry.kind, "removed", entry.generation))
    found += [Change(name, "view", "removed") for name in state.views if name not in folder.plan.views]
    return found


def _table(folder: Live, name: str, state: CatalogState, catalog: Catalog) -> Change:
    definition, entry = folder.definitions[name], state.tables.get(name)
    if entry is None:
        return Change(name, definition.kind, "new", None, definition.fingerprint)
    stored = catalog.definition(name, entry.generation)
    file = file_of(name, definition.source)
    diff = _diff(stored.get("files", {}).get(file), folder.project.files[file], file)
    differences = tuple(difference(stored, definition.json))
    status: Status = "changed" if differences else "metadata" if diff and _decides(name, folder) else "unchanged"
    if status == "unchanged":
        diff = ()
    upstream = _only_upstream(stored, definition.json) if len(differences) == 1 else None
    return Change(name, definition.kind, status, entry.generation, definition.fingerprint, differences, upstream, diff)


def _decides(name: str, folder: Live) -> bool:
    """Whether a table is the one to show its file's change by: a source's file is shown with its staging table."""
    return not name.endswith(REJECTED) and not name.startswith("raw.")


def _only_upstream(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """The upstream table that has changed, when nothing else has."""
    before, after = old.get("upstream"), new.get("upstream")
    if before and after and before["table"] == after["table"] and before["fingerprint"] != after["fingerprint"]:
        table: str = after["table"]
        return table
    was, now = old.get("upstreams", {}), new.get("upstreams", {})
    return next((name for name in now if was.get(name) not in (None, now[name])), None) if was.keys() == now.keys() else None


def _view(name: str, sql: str, state: CatalogState) -> Change:
    was = state.views.get(name)
    if was is None:
        return Change(name, "view", "new")
    diff = _diff(was, sql, name)
    return Change(name, "view", "changed" if diff else "unchanged", diff=diff, differences=("SQL changed",) if diff else ())


def _diff(old: str | None, new: str, file: str) -> tuple[str, ...]:
    if old is None or old == new:
        return ()
    return tuple(difflib.unified_diff(old.splitlines(), new.splitlines(), f"live {file}", f"folder {file}", n=CONTEXT_LINES, lineterm=""))
