"""Which table reads which: names resolved, cycles found, an order in which each follows what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.project import Project, TableFile
from flows.sql.bind import near
from flows.sql.chain import Chain, chain
from flows.sql.tree import Node, Problem, SqlRefused, line_at, parse, walk

STREAMING = ("append", "upsert")  # kinds that are computed from one stream of records


# what a summary has and a chain of row-local SELECTs has not; and what a summary's own check refuses in its own words
_WITHOUT_GROUPS: Node = {
    "group_expressions": [],
    "group_sets": [],
    "aggregate_handling": "STANDARD_HANDLING",
    "having": None,
    "qualify": None,
    "sample": None,
    "modifiers": [],
}


@dataclass(frozen=True, slots=True)
class Query:
    """A table's parsed SQL. ``reads``: ``layer.table`` -> line of its first mention; ``chain``: of a streaming table."""

    file: TableFile
    tree: Node
    reads: Mapping[str, int]
    chain: Chain | None


def read(table: TableFile) -> Query:
    """Parse a table's SQL and see what it reads. Raises SqlRefused."""
    tree = parse(table.sql)
    if table.kind in STREAMING:
        chained = chain(tree, table.sql)
        return Query(table, tree, {chained.upstream: chained.line}, chained)
    if table.kind == "summary":
        chained = chain({**tree, **_WITHOUT_GROUPS}, table.sql)
        if len(chained.levels) > 1:
            raise SqlRefused(Problem(chained.line, "a summary is one SELECT over one table", "the expressions in the SELECT itself"))
        return Query(table, tree, {chained.upstream: chained.line}, chained)
    return Query(table, tree, _tables(tree, table.sql), None)


def tables_of(sql: str) -> frozenset[str]:
    """The tables and views that a SELECT reads. Raises SqlRefused."""
    return frozenset(_tables(parse(sql), sql))


def _tables(tree: Node, sql: str) -> dict[str, int]:
    ctes = {entry["key"].lower() for node in walk(tree) for entry in node.get("cte_map", {}).get("map", [])}
    reads: dict[str, int] = {}
    for node in walk(tree):
        if node.get("type") != "BASE_TABLE":
            continue
        layer, name, catalogue = node["schema_name"], node["table_name"], node["catalog_name"]
        line = line_at(sql, node["query_location"])
        if not layer and name.lower() in ctes:
            continue
        if catalogue or not layer:
            written = ".".join(filter(None, (catalogue, layer, name)))
            raise SqlRefused(
                Problem(line, f"{written!r} is not the name of a table", f"layer.table, such as core.{name.lower() or 'flight'}")
            )
        reads.setdefault(f"{layer}.{name}".lower(), line)
    return reads


def physical_tables(project: Project) -> list[str]:
    """The names of all tables that are stored."""
    names = []
    for source in project.sources.values():
        names += [f"raw.{source.name}"] if source.raw else []
        names += [f"staging.{source.name}", f"staging.{source.name}__rejected"]
    for name, table in project.tables.items():
        if table.kind in STREAMING:
            names += [name, f"{name}__rejected"]
        elif table.kind in ("summary", "materialized"):
            names.append(name)
    return names


def summary_problem(project: Project, upstream: str, line: int) -> Problem | None:
    """Why a summary cannot read ``upstream``; None when it can."""
    table = project.tables.get(upstream)
    layer, _, name = upstream.partition(".")
    if (table is not None and table.kind in STREAMING) or (layer == "staging" and name in project.sources):
        return None
    if table is not None and table.kind == "summary":
        cause = f"{upstream} is a summary: a summary of summaries would have to follow changes of groups"
        return Problem(line, cause, f'FROM what {upstream} reads; or kind = "materialized" or "view" here')
    if table is not None and table.kind in ("view", "materialized"):
        what = "a view: a summary reads one stored table" if table.kind == "view" else "materialized: it is made anew as a whole"
        fix = f'FROM the table that {upstream} reads; or kind = "materialized" here'
        return Problem(line, f"{upstream} is {what}", fix)
    if upstream in physical_tables(project):
        cause = f"a summary cannot read {upstream}: it reads staging, an append table or an upsert table"
        return Problem(line, cause, f'FROM staging.{name.removesuffix("__rejected")}, or kind = "view" here')
    streams = [name for name, each in project.tables.items() if each.kind in STREAMING]
    tables = [*(f"staging.{name}" for name in project.sources), *streams]
    return Problem(line, f"there is no table {upstream}", near(upstream, tables, _choice(tables)))


def upstream_problem(project: Project, query: Query, upstream: str, line: int) -> Problem | None:
    """Why a streaming table cannot read ``upstream``; None when it can."""
    layer, _, name = upstream.partition(".")
    if (layer == "staging" and name in project.sources) or (upstream in project.tables and project.tables[upstream].kind == "append"):
        return None
    if upstream in project.tables and project.tables[upstream].kind in ("upsert", "summary"):
        kind = {"upsert": "an upsert table", "summary": "a summary"}[project.tables[upstream].kind]
        cause = f"{upstream} is {kind}: its rows change, and an {query.file.kind} table reads a stream of rows that stay"
        return Problem(line, cause, f'FROM what {upstream} reads, or kind = "view" here')
    if upstream in project.tables:
        what = "a view" if project.tables[upstream].kind == "view" else "materialized"
        fix = f'FROM the table that {upstream} reads, or kind = "materialized" or "view" here'
        return Problem(line, f"{upstream} is {what}: an {query.file.kind} table reads a stream", fix)
    if layer == "raw" or upstream.endswith("__rejected"):
        return Problem(
            line,
            f"an {query.file.kind} table cannot read {upstream}",
            f'FROM staging.{name.removesuffix("__rejected")}, or kind = "view" here',
        )
    others = (table for table in physical_tables(project) if table != query.file.name)
    streams = [table for table in others if not table.startswith("raw.") and not table.endswith("__rejected")]
    return Problem(line, f"there is no table {upstream}", near(upstream, streams, _choice(streams)))


def view_problem(project: Project, upstream: str, line: int) -> Problem | None:
    """Why a view, or a materialized table, cannot read ``upstream``; None when it can."""
    known = [*physical_tables(project), *(name for name, table in project.tables.items() if table.kind == "view")]
    if upstream in known:
        return None
    layer, _, name = upstream.partition(".")
    if layer == "raw" and name in project.sources:
        return Problem(line, f"{upstream} is switched off (raw = false)", f"raw = true in sources/{name}.toml, or staging.{name}")
    return Problem(line, f"there is no table {upstream}", near(upstream, known, _choice(known)))


def _choice(names: list[str]) -> str:
    return f"one of {', '.join(sorted(names))}" if names else "a source first: kappa source infer FILE > sources/NAME.toml"


def order(reads: Mapping[str, Mapping[str, int]]) -> tuple[list[str], list[list[str]]]:
    """(tables, each after what it reads; cycles, each as the path of names). Tables in or above a cycle are left out of the order."""
    done: list[str] = []
    state: dict[str, str] = {}
    cycles: list[list[str]] = []

    def visit(name: str, path: list[str]) -> bool:
        if state.get(name) == "done":
            return True
        if name in path:
            cycles.append(path[path.index(name) :])
            return False
        if state.get(name) == "bad":
            return False
        sound = True
        for upstream in reads[name]:
            sound = (upstream not in reads or visit(upstream, [*path, name])) and sound
        state[name] = "done" if sound else "bad"
        if sound:
            done.append(name)
        return sound

    for name in sorted(reads):
        visit(name, [])
    return done, cycles
