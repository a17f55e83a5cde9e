"""One table or view in full: columns, lineage, ledger, commits, definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from flows.fingerprint import definitions, type_name
from flows.materialized import Materialized
from flows.plan import Node, Plan, analyse
from flows.project import Project
from flows.summary import Summary
from infra.inventory import TableStatus, read_all
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState
from sinks.engine import TableUnknown
from sinks.history import Commit, commits
from sinks.table import open_table

LAST_COMMITS = 10
REJECTED = "__rejected"


@dataclass(slots=True)
class Description:
    """``columns``: name -> type; ``lineage``: column -> columns of staging tables; ``reads`` and ``read_by``: tables and views.

    ``status``: None for a view; ``warned``: rule -> rows, over the commits that the log holds; ``definition``: as the generation stored it.
    """

    name: str
    kind: str
    columns: dict[str, str]
    source: str | None = None
    reads: list[str] = field(default_factory=list)
    read_by: list[str] = field(default_factory=list)
    lineage: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sql: str | None = None
    status: TableStatus | None = None
    commits: list[Commit] = field(default_factory=list)
    warned: dict[str, int] = field(default_factory=dict)
    definition: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def describe(project: Project, name: str, config: Mapping[str, str] | None) -> Description:
    """A table or view of the catalogue; lineage comes from the folder. Raises TableUnknown."""
    catalog = Catalog(project.storage)
    state = catalog.read()
    plan = analyse(project)
    if name in state.tables:
        it = _table(project, catalog, state, name, config)
        _lineage(it, project, plan)
    elif name in state.views:
        it = Description(name, "view", {}, sql=state.views[name])
        if name in plan.views:
            it.columns = {column: kind.lower() for column, kind in plan.views[name].columns.items()}
            it.reads = list(plan.views[name].dependencies)
            if plan.views[name].sql != it.sql:
                it.notes.append("the view in the folder differs from the one in the catalogue; kappa run publishes it")
        else:
            it.notes.append("the folder has no such view, or an error in it: kappa check")
    else:
        raise TableUnknown(name, [*state.tables, *state.views])
    streaming: dict[str, Node | Summary] = {**plan.nodes, **plan.summaries}
    readers: dict[str, tuple[str, ...]] = {table.name: (table.upstream,) for table in streaming.values()}
    readers |= {table.name: table.reads for table in plan.materialized.values()}
    readers |= {view.name: view.dependencies for view in plan.views.values()}
    it.read_by = sorted(reader for reader, read in readers.items() if name in read)
    return it


def _table(project: Project, catalog: Catalog, state: CatalogState, name: str, config: Mapping[str, str] | None) -> Description:
    entry = state.tables[name]
    only = CatalogState(state.n, tables={name: entry})
    (status,), unknown = read_all(project.storage, only, config)
    if status.unreadable is not None:
        raise status.unreadable
    address = TableAddress(project.storage, name, entry.generation)
    schema = pa.schema(open_table(address, status.version).schema().to_arrow())
    it = Description(name, entry.kind, {column.name: type_name(column.type) for column in schema}, status=status)
    it.commits = list(islice(commits(address), LAST_COMMITS))
    for commit in commits(address):
        for rule, rows in (commit.record.warned if commit.record else {}).items():
            it.warned[rule] = it.warned.get(rule, 0) + rows
    try:
        it.definition = catalog.definition(name, entry.generation)
    except FileNotFoundError:
        it.notes.append("its definition is missing from the storage root")
    if unknown:
        it.notes.append(f"its lag is unknown: {unknown}")
    return it


def _lineage(it: Description, project: Project, plan: Plan) -> None:
    """From the folder, when its definition is still the one that built the table."""
    if plan.findings:
        it.notes.append("the folder has errors, so that lineage is not shown: kappa check")
        return
    definition = definitions(project, plan).get(it.name)
    if definition is None:
        it.notes.append("its definition is not in the folder any more")
        return
    assert it.status is not None
    if definition.materialized is not None:
        it.reads = list(definition.materialized.reads)
    else:
        it.source = definition.source
        it.reads = [definition.upstream or f"topic {project.sources[definition.source].topic}"]
    if it.status.generation.partition("-")[0] != definition.fingerprint:
        it.notes.append("its definition in the folder is another one: kappa plan")
    elif it.name in plan.tables:
        table = plan.tables[it.name]
        it.sql = table.sql
        it.lineage = {} if isinstance(table, Materialized) else table.lineage
