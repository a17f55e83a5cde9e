"""The plan of a warehouse: its tables in order, each with bound columns, the SQL that makes it, and where its columns come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from flows.batch import RAW, REJECTED, SYSTEM
from flows.checks import reserved_name, source_findings
from flows.graph import Query, order, read, summary_problem, upstream_problem, view_problem
from flows.materialized import Materialized
from flows.materialized import problems as materialized_problems
from flows.project import Finding, Project, ProjectInvalid, TableFile
from flows.sql.bind import Binder, near
from flows.sql.chain import chain
from flows.sql.gates import expression_problems, plan_problems, star_problems, view_problems
from flows.sql.rewrite import ROW, Part, Program, rewrite
from flows.sql.storage import cast_sql, casts, probe_sql, stored_schema
from flows.sql.tree import Problem, SqlRefused, text
from flows.summary import Summary, analyse_summary, problems
from flows.toml_lines import line_of
from flows.upsert import Declared, Upsert, check_partitions, declare, take_null_values

ROW_FIELD = pa.field(ROW, pa.int32(), nullable=False)


@dataclass(frozen=True, slots=True)
class Probe:
    """``sql`` gives ``_offset`` and, for each of ``parts`` in order, whether that expression raises on the row."""

    sql: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A streaming table: append, or with ``upsert`` one row a key. ``name`` and ``upstream`` are ``layer.table``.

    ``sql`` is normalised by DuckDB, with what kappa adds to the SELECT of an upsert table. ``schema``: the SELECT's columns, ``_sequence``
    and ``_deleted`` of upsert tables, SYSTEM, and ``_row`` where an unnest (here or upstream) gives a record several rows.
    ``transform_sql`` reads the upstream's rows as ``_upstream`` and gives the columns as stored, the system columns and ``ordinals``,
    which order a record's rows; ``filter_sqls`` give, each for one SELECT, the offsets that its conditions leave out.
    ``picks`` is set when rows stay 1:1: column -> the upstream's column that it is; ``computed_sql`` (None when nothing is computed)
    gives the others and ``_offset``. ``probe`` finds the records on which the SQL raises, where its shape allows that.
    ``lineage``: column -> columns of staging tables. ``upstream_schema``: the upstream's columns, as the SQL was bound against them.
    """

    name: str
    source: str
    upstream: str
    upstream_schema: pa.Schema
    schema: pa.Schema
    sql: str
    transform_sql: str
    filter_sqls: tuple[str, ...]
    ordinals: tuple[str, ...]
    unnests: bool
    picks: Mapping[str, str] | None
    computed_sql: str | None
    probe: Probe | None
    partition_by: tuple[str, ...]
    lineage: Mapping[str, tuple[str, ...]]
    upsert: Upsert | None = None

    @property
    def kind(self) -> str:
        return "append" if self.upsert is None else "upsert"

    @property
    def has_row(self) -> bool:
        """Whether a record may have several rows, told apart by ``_row``."""
        return ROW in self.schema.names


@dataclass(frozen=True, slots=True)
class View:
    """A view. ``sql``: normalised by DuckDB; ``dependencies``: tables and views that it reads; ``columns``: name -> DuckDB type."""

    name: str
    sql: str
    dependencies: tuple[str, ...]
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """``nodes``, ``summaries``, ``materialized`` and ``views``, each in an order in which each follows what it reads; ``findings``:
    everything that is wrong.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    summaries: dict[str, Summary] = field(default_factory=dict)
    materialized: dict[str, Materialized] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def tables(self) -> dict[str, Node | Summary | Materialized]:
        """The tables of SQL files that are stored, each after what it reads."""
        return {**self.nodes, **self.summaries, **self.materialized}


def analyse(project: Project) -> Plan:
    """Check and bind every definition of a loaded folder, offline. Never raises for what the user wrote: that becomes findings."""
    return _Analysis(project).plan


def require(plan: Plan) -> None:
    """Raises ProjectInvalid when the plan has findings."""
    if plan.findings:
        raise ProjectInvalid(plan.findings)


def visible(schema: pa.Schema) -> pa.Schema:
    """What views and queries see of a core or analytics table: the columns that do not begin with ``_``."""
    return pa.schema([column for column in schema if not column.name.startswith("_")])


class _Analysis:
    def __init__(self, project: Project) -> None:
        self.project = project
        self.plan = Plan(findings=list(project.findings))
        self.binder = Binder()  # append tables: with system columns
        self.view_binder = Binder()
        self.broken = {_table_of(finding.file) for finding in project.findings}
        for source in project.sources.values():
            self._source(source.name)
        queries = {name: query for name, table in project.tables.items() if (query := self._read(table))}
        names, cycles = order({name: query.reads for name, query in queries.items()})
        for cycle in cycles:
            self._cycle(cycle, queries)
        for name in names:
            self._table(queries[name])
        self.plan.findings.sort(key=lambda finding: (finding.file, finding.line))

    def _find(self, table: TableFile, problem: Problem) -> None:
        if table.kind == "upsert":
            problem = problem._replace(cause=problem.cause.replace("an append table", "an upsert table"))
        if table.kind == "summary":
            problem = problem._replace(cause=problem.cause.replace(": an append table sees one record at a time", ""))
        line = _line(table, self.project.files[table.file], problem)
        self.plan.findings.append(Finding(table.file, line, problem.cause, problem.fix))
        self.broken.add(table.name)

    def _source(self, name: str) -> None:
        source = self.project.sources[name]
        findings = source_findings(self.project, source, self.binder)
        self.plan.findings.extend(findings)
        if any(not finding.cause.startswith("rule ") for finding in findings):
            self.broken.add(f"staging.{name}")
            return
        self.binder.add_table(f"staging.{name}", source.staging_schema)
        self.view_binder.add_table(f"staging.{name}", source.staging_schema)
        self.view_binder.add_table(f"staging.{name}__rejected", REJECTED)
        self.view_binder.add_table(f"raw.{name}", RAW)

    def _read(self, table: TableFile) -> Query | None:
        if reserved := reserved_name(table.name.partition(".")[2]):
            self._find(table, Problem(1, *reserved))
            return None
        try:
            query = read(table)
        except SqlRefused as refused:
            self._find(table, refused.problem)
            return None
        problems = [self._name_problem(query, upstream, line) for upstream, line in query.reads.items() if upstream not in self.broken]
        for problem in filter(None, problems):
            self._find(table, problem)
        return query

    def _name_problem(self, query: Query, upstream: str, line: int) -> Problem | None:
        if query.file.kind == "summary":
            return summary_problem(self.project, upstream, line)
        if query.chain is not None:
            return upstream_problem(self.project, query, upstream, line)
        return view_problem(self.project, upstream, line)

    def _cycle(self, cycle: list[str], queries: Mapping[str, Query]) -> None:
        first = queries[cycle[0]]
        path = " reads ".join([*cycle, cycle[0]])
        line = first.reads[cycle[1 % len(cycle)]]
        self._find(first.file, Problem(line, f"a cycle: {path}", "FROM a table that does not depend on this one"))

    def _table(self, query: Query) -> None:
        table = query.file
        if table.name in self.broken or any(upstream in self.broken for upstream in query.reads):
            self.broken.add(table.name)  # what is wrong below has been said
            return
        try:
            if query.file.kind == "summary":
                self._summary(query)
            elif query.file.kind == "materialized":
                self._materialized(query)
            elif query.chain is None:
                self._view(query)
            else:
                self._streaming(query)
        except SqlRefused as refused:
            self._find(table, refused.problem)

    def _streaming(self, query: Query) -> None:
        table, chained = query.file, query.chain
        assert chained is not None
        levels = [level.node for level in chained.levels]
        problems = [*expression_problems(query.tree, table.sql, self.binder)]
        problems += [problem for level in levels for problem in star_problems(level, table.sql)]
        if problems:
            for problem in problems:
                self._find(table, problem)
            return
        columns = self.binder.columns(table.sql)
        upstream = self._upstream_schema(chained.upstream)
        declared: Declared | None = None
        if table.kind == "upsert":
            source = self.project.sources[self._source_of(chained.upstream)]
            declared = declare(table, source, query.tree, columns, self.binder)
            query = replace(query, tree=declared.tree, chain=(chained := chain(declared.tree, table.sql)))
        program = rewrite(chained, upstream, self.binder, table.sql, len(declared.added) if declared else 0)
        for problem in plan_problems(program.transform_sql, self.binder):
            raise SqlRefused(problem)
        node = self._node(query, program, declared)
        self.plan.nodes[table.name] = node
        self.binder.add_table(table.name, node.schema)
        self.view_binder.add_table(table.name, visible(node.schema))
        self.view_binder.add_table(f"{table.name}__rejected", REJECTED)

    def _upstream_schema(self, upstream: str) -> pa.Schema:
        layer, _, name = upstream.partition(".")
        return self.project.sources[name].staging_schema if layer == "staging" else self.plan.nodes[upstream].schema

    def _node(self, query: Query, program: Program, declared: Declared | None) -> Node:
        table, chained = query.file, query.chain
        assert chained is not None
        columns = stored_schema(program.columns, program.lines)
        rows = [ROW_FIELD] if program.ordinals else []
        partition_by = self._partition_by(table, columns)
        upsert: Upsert | None = None
        if declared is not None:
            check_partitions(partition_by, declared.upsert, program.lineage, program.bare)
            source = self.project.sources[self._source_of(chained.upstream)]
            upsert = take_null_values(declared.upsert, source, chained.upstream, program.bare, partition_by)
        targets = casts(program.columns, columns, self.binder)
        names = [*columns.names, *SYSTEM.names, *program.ordinals]
        computed = program.computed_sql
        if computed is not None and program.picks is not None:
            computed = cast_sql(computed, [*(name for name in columns.names if name not in program.picks), "_offset"], targets)
        return Node(
            name=table.name,
            source=self._source_of(chained.upstream),
            upstream=chained.upstream,
            upstream_schema=self._upstream_schema(chained.upstream),
            schema=pa.schema([*columns, *SYSTEM, *rows]),
            sql=text(query.tree),
            transform_sql=cast_sql(program.transform_sql, names, targets),
            filter_sqls=program.filter_sqls,
            ordinals=program.ordinals,
            unnests=program.unnests,
            picks=program.picks,
            computed_sql=computed,
            probe=_probe(program, targets),
            partition_by=partition_by,
            lineage={name: self._origins(chained.upstream, sources) for name, sources in program.lineage.items()},
            upsert=upsert,
        )

    def _summary(self, query: Query) -> None:
        table, chained = query.file, query.chain
        assert chained is not None
        found = list(problems(query, self.binder))
        for problem in found:
            self._find(table, problem)
        if found:
            return
        upstream = chained.upstream
        node = self.plan.nodes.get(upstream)
        self.binder.columns(table.sql)
        append = node is None or node.upsert is None
        grouped = analyse_summary(query, self._upstream_schema(upstream), chained.levels[0].alias, self.binder, append=append)
        partition_by = self._partition_by(table, grouped.schema)
        for name in partition_by:
            if name not in grouped.group:
                fix = f"one of {', '.join(grouped.group)}"
                raise SqlRefused(Problem(0, f"partition_by names {name}, which is no group: it changes", fix, "partition_by"))
            if grouped.partials is not None and name in grouped.partials.read:
                cause = f"partition_by names {name}, with which another column computes; files do not hold it, where rows are combined"
                raise SqlRefused(Problem(0, cause, f"no partition_by, or that column in a view over {table.name}", "partition_by"))
        self.plan.summaries[table.name] = Summary(
            name=table.name,
            source=self._source_of(upstream),
            upstream=upstream,
            schema=grouped.schema,
            sql=text(query.tree),
            group=grouped.group,
            touched_reads=grouped.touched_reads,
            touched_sql=grouped.touched_sql,
            rows_sql=grouped.rows_sql,
            all_sql=grouped.all_sql,
            scale_sql=grouped.scale_sql,
            partition_by=partition_by,
            lineage={name: self._origins(upstream, sources) for name, sources in grouped.reads.items()},
            partials=grouped.partials,
        )
        self.view_binder.add_table(table.name, visible(grouped.schema))

    def _materialized(self, query: Query) -> None:
        table = query.file
        views = self._views_below(query.reads)
        for problem in materialized_problems(query.tree, table.sql, views, self.binder.connection):
            self._find(table, problem)
        if table.name in self.broken:
            return
        below = {name for view in views for name in self.plan.views[view].dependencies} | query.reads.keys()
        tables = tuple(sorted(below - self.plan.views.keys()))
        if not tables:
            raise SqlRefused(Problem(1, "it reads no table", "FROM a table; or a file of these rows, loaded into a source"))
        columns = self.view_binder.columns(table.sql)
        schema = stored_schema(columns, {})
        for name in table.settings.key:
            if name not in schema.names:
                fix = near(name, schema.names, f"a column of the SELECT: {', '.join(schema.names)}")
                raise SqlRefused(Problem(0, f"key names {name}, which the SELECT does not give", fix, "key"))
        sql = text(query.tree)
        self.plan.materialized[table.name] = Materialized(
            name=table.name,
            schema=schema,
            sql=sql,
            rows_sql=cast_sql(sql, schema.names, casts(columns, schema, self.view_binder)),
            reads=tuple(sorted(query.reads)),
            tables=tables,
            views=views,
            key=table.settings.key,
            partition_by=self._partition_by(table, schema),
            refresh_interval_s=table.settings.refresh_interval_s,
        )
        self.view_binder.add_table(table.name, schema)

    def _views_below(self, reads: Iterable[str]) -> dict[str, str]:
        """The views among ``reads``, and those that these read: name -> SQL."""
        found: dict[str, str] = {}
        for name in reads:
            if name in self.plan.views:
                view = self.plan.views[name]
                found |= {**self._views_below(view.dependencies), name: view.sql}
        return found

    def _source_of(self, upstream: str) -> str:
        layer, _, name = upstream.partition(".")
        return name if layer == "staging" else self.plan.nodes[upstream].source

    def _origins(self, upstream: str, columns: frozenset[str]) -> tuple[str, ...]:
        if upstream.startswith("staging."):
            return tuple(f"{upstream}.{column}" for column in sorted(columns))
        below = self.plan.nodes[upstream]
        system = {name: (f"staging.{below.source}.{name}",) for name in SYSTEM.names}
        found = {origin for column in columns for origin in below.lineage.get(column, system.get(column, ()))}
        return tuple(sorted(found))

    def _partition_by(self, table: TableFile, columns: pa.Schema) -> tuple[str, ...]:
        for name in table.settings.partition_by:
            if name not in columns.names:
                fix = near(name, columns.names, f"a column of the SELECT: {', '.join(columns.names)}")
                raise SqlRefused(Problem(0, f"partition_by names {name}, which the SELECT does not give", fix))
            kind = columns.field(name).type
            if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_floating(kind):  # NaN equals nothing
                fix = "a column with few values, such as a date or a short text"
                raise SqlRefused(Problem(0, f"partition_by names {name}, whose type cannot be part of a path", fix))
        return table.settings.partition_by

    def _view(self, query: Query) -> None:
        table = query.file
        for problem in view_problems(query.tree, table.sql):
            self._find(table, problem)
        if table.name in self.broken:
            return
        if table.settings.partition_by:
            raise SqlRefused(Problem(0, "a view stores nothing: it has no partitions", "no partition_by"))
        sql = text(query.tree)
        columns = {bound.name: str(bound.type) for bound in self.view_binder.columns(table.sql)}
        self.view_binder.add_view(table.name, sql)
        self.plan.views[table.name] = View(table.name, sql, tuple(sorted(query.reads)), columns)


def _probe(program: Program, targets: Mapping[str, str]) -> Probe | None:
    if program.parts is None:
        return None
    parts = (*([program.parts.where] if program.parts.where else []), *program.parts.items)
    return Probe(probe_sql(program.parts, targets), parts) if parts else None


def _line(table: TableFile, written: str, problem: Problem) -> int:
    """The line in the file's text: never before its SQL begins, but for what is wrong with its settings."""
    if problem.line == 0:
        return line_of(written, problem.setting)
    blank = len(table.sql) - len(table.sql.lstrip()) if table.sql.strip() else 0
    return table.line + max(problem.line - 1, table.sql.count("\n", 0, blank))


def _table_of(file: str) -> str:
    """The table that a file defines: ``sources/a.toml`` -> ``staging.a``, ``core/b.sql`` -> ``core.b``."""
    folder, _, name = file.partition("/")
    stem = name.rpartition(".")[0]
    return f"{'staging' if folder == 'sources' else folder}.{stem}"
