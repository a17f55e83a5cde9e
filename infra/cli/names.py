"""The stored tables that a command's arguments name."""

from __future__ import annotations

from flows.errors import UsageError
from flows.plan import Node, analyse
from flows.project import Project
from flows.summary import Summary
from sinks.catalog import CatalogState
from sinks.engine import near_names
from sinks.warehouse import REJECTED


def stored_tables(wanted: tuple[str, ...], state: CatalogState, project: Project, doing: str) -> list[str]:
    """Tables, each with its rejects; a source stands for all of its tables; nothing: all. ``doing``: what for. Raises UsageError."""
    if not state.tables:
        raise UsageError("there are no tables yet", next_step="kappa run --until-caught-up")
    chosen: set[str] = set()
    for name in wanted:
        bases = [name]
        if name in project.sources:
            plan = analyse(project)
            tables: dict[str, Node | Summary] = {**plan.nodes, **plan.summaries}
            derived = [table.name for table in tables.values() if table.source == name]
            bases = [f"raw.{name}", f"staging.{name}", *derived]
        found = {table for base in bases for table in (base, f"{base}{REJECTED}") if table in state.tables}
        if not found:
            near = near_names(name, state.tables)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(sorted(state.tables))}"
            what = f"is a view: nothing is stored, so there is nothing to {doing}" if name in state.views else "does not exist"
            raise UsageError(f"{name} {what}", cause=hint, next_step="kappa tables")
        chosen |= found
    return sorted(chosen or state.tables)
