"""From a row, or the row of a summary, to the records that made it: position by position, with what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.batch import Position
from flows.fingerprint import Definition
from flows.project import Project
from flows.sql.tree import quoted
from flows.summary import Summary, members_sql
from flows.upsert import DELETED
from infra.run.eras import Eras
from infra.run.live import Live, of_catalogue, of_folder
from infra.trace.absence import absence
from infra.trace.events import at_places, events_at
from infra.trace.history import History
from infra.trace.keys import KeyWrong, condition, pairs, uncastable, written
from infra.trace.records import NotTraceable, Part, RowAmbiguous, RowMissing, Trace, Traced
from infra.trace.tables import Tables
from sinks.catalog import Catalog
from sinks.engine import TableUnknown

PLACE = ("_partition", "_offset", "_row")


def trace(project: Project, table: str, values: Sequence[str], limit: int, config: Mapping[str, str] | None) -> Trace:
    """``values``: as ``keys.pairs`` takes them; ``limit``: how many records to show; ``config``: librdkafka's, None without Kafka.

    Raises TableUnknown, NotTraceable, KeyWrong, RowMissing, RowAmbiguous, ProjectInvalid, QueryFailed.
    """
    catalog = Catalog(project.storage)
    state = catalog.read()
    if table not in state.tables and table not in state.views:
        raise TableUnknown(table, [*state.tables, *state.views])
    live = of_catalogue(of_folder(project), state, catalog)
    if table in state.views:
        view = live.plan.views.get(table)
        raise _made_by_query(table, "a view", "each row is of a query", view.dependencies if view is not None else ())
    definition = live.definitions.get(table)
    if definition is None or definition.fingerprint != state.tables[table].generation.partition("-")[0]:
        raise NotTraceable(f"{table} cannot be traced", cause="its definition is not at hand any more", next_step="kappa plan")
    if definition.materialized is not None:
        raise _made_by_query(table, "materialized", "each row is of a whole query", definition.materialized.tables)
    with Tables(project.storage) as tables:
        return _Tracer(live, definition, tables, config).trace(values, limit)


def _made_by_query(table: str, what: str, why: str, reads: Sequence[str]) -> NotTraceable:
    cause = f"{why}, which reads {', '.join(reads)}" if reads else why
    return NotTraceable(
        f"{table} is {what}", cause=cause, next_step=f"kappa explain-row {reads[0]} KEY" if reads else f"kappa show {table}"
    )


class _Tracer:
    def __init__(self, live: Live, definition: Definition, tables: Tables, config: Mapping[str, str] | None) -> None:
        self._live = live
        self._definition = definition
        self._name = definition.name
        self._tables = tables
        self._config = config
        self._types = tables.types(definition.name)
        self._source = live.project.sources[definition.source]
        self._topic = self._source.topic
        self._chain = self._upstreams()
        summary, upsert = definition.summary, definition.upsert
        own = summary.group if summary is not None else upsert.key if upsert is not None else None
        self._key = own or tuple(name for name in PLACE if name in self._types)

    def trace(self, values: Sequence[str], limit: int) -> Trace:
        named = pairs(self._name, values, self._key, list(self._types))
        self._check_types(named)
        where = condition(named, self._types)
        if self._definition.summary is not None:
            self._only_key(named, where)
            return self._of_group(self._definition.summary, where, limit)
        if self._definition.upsert is not None:
            return self._of_key(self._only_key(named, where), limit)
        order = ", ".join(map(quoted, self._key))
        rows = self._tables.ask(f"SELECT * FROM {self._name} WHERE {where} ORDER BY {order} LIMIT {limit}")
        if not rows:
            raise self._missing(named)
        total = self._tables.number(f"SELECT count(*) FROM {self._name} WHERE {where}")
        return self._trace(rows[0] if total == 1 else None, total, [self._record(row, "row") for row in rows])

    def _check_types(self, named: Sequence[tuple[str, str | None]]) -> None:
        for row in self._tables.ask(uncastable(named, self._types)):
            name, text = named[row["n"]]
            cause = f"column {name} of {self._name} is {self._types[name]}"
            next_step = f"kappa show {self._name} lists the columns and their types"
            raise KeyWrong(f"{text!r} is no value of {name}", cause=cause, next_step=next_step)

    def _only_key(self, named: Sequence[tuple[str, str | None]], where: str) -> dict[str, str | None]:
        """The key of the one row, as texts. Raises RowMissing, RowAmbiguous."""
        texts = ", ".join(f"CAST({quoted(name)} AS VARCHAR) AS {quoted(name)}" for name in self._key)
        rows = self._tables.ask(f"SELECT {texts} FROM {self._name} WHERE {where} ORDER BY ALL LIMIT 3")
        if len(rows) > 1:
            count = self._tables.number(f"SELECT count(*) FROM {self._name} WHERE {where}")
            raise RowAmbiguous(
                f"{count} rows of {self._name} have {_shown(named)}",
                cause=f"one is explained at a time, such as {'; '.join(_shown(list(row.items())) for row in rows)}",
                next_step=f"kappa explain-row {self._name} {' '.join(map(written, rows[0].values()))}",
            )
        if not rows and (self._definition.upsert is None or {name for name, _ in named} != set(self._key)):
            raise self._missing(named)
        return rows[0] if rows else dict(named)

    def _of_group(self, summary: Summary, where: str, limit: int) -> Trace:
        (group,) = self._tables.ask(f"SELECT * FROM {self._name} WHERE {where}")
        live = " WHERE NOT _deleted" if summary.partials is None else ""
        same = " AND ".join(f"m.g{n} IS NOT DISTINCT FROM s.{quoted(name)}" for n, name in enumerate(summary.group))
        members = (
            f"WITH _upstream AS (SELECT * FROM {summary.upstream}{live}), s AS (SELECT * FROM {summary.name} WHERE {where}) "
            f"SELECT m.* FROM ({members_sql(summary)}) AS m JOIN s ON {same}"
        )
        total = self._tables.number(f"SELECT count(*) FROM ({members})")
        groups = ", ".join(f"g{n}" for n in range(len(summary.group)))
        place = ", ".join(name for name in PLACE if name in self._tables.types(summary.upstream))
        rows = self._tables.ask(f"SELECT * EXCLUDE ({groups}) FROM ({members}) ORDER BY {place} LIMIT {limit}")
        return self._trace(group, total, [self._record(row, "group") for row in rows])

    def _of_key(self, key: dict[str, str | None], limit: int) -> Trace:
        """Every record of the key that can be found, the latest first; and the row's own, should that not be among them."""
        eras = Eras(self._live, self._source.name, self._tables.topic_id(self._name, self._topic))
        history = History(self._live.plan.nodes[self._name], self._source, eras, self._tables).of(key)
        stored = self._tables.ask(f"SELECT * FROM {self._name} WHERE {condition(list(key.items()), self._types)}")
        if not stored and not history.num_rows:
            raise self._missing(list(key.items()))
        winner = stored[0] if stored else None
        names = [name for name in PLACE if name in self._types]
        place = None if winner is None else tuple(winner[name] for name in names)
        places = list(zip(*(history.column(name).to_pylist() for name in names), strict=True))
        records, total = [], history.num_rows
        if winner is not None and place not in places:
            records, total = [self._record(winner, "delete" if winner[DELETED] else "row")], total + 1
        for version, at in zip(history.slice(0, limit).to_pylist(), places, strict=False):
            records.append(self._record(version, "delete" if version[DELETED] else "row" if at == place else "outranked"))
        return self._trace(winner if winner is not None and not winner[DELETED] else None, total, records[:limit])

    def _trace(self, row: Mapping[str, Any] | None, total: int, records: Sequence[Traced]) -> Trace:
        mates = self._mates([record.position for record in records])
        records = [each for record in records for each in (record, *mates.get(record.position, ()))]
        found = events_at({record.position for record in records}, self._name, self._source.name, self._tables, self._config)
        shown = tuple(replace(record, found=found[record.position]) for record in records)
        chain = (*self._chain, f"topic {self._topic}")
        return Trace(self._name, self._definition.kind, chain, row, total, shown, tuple(self._tables.warnings))

    def _mates(self, positions: Sequence[Position]) -> dict[Position, list[Traced]]:
        """To a correction the rejected record in whose place it stands, and to such a record its correction."""
        staging = f"staging.{self._source.name}"
        if not positions or not self._source.corrections or staging not in self._tables.names:
            return {}
        rejected = self._definition.role == "rejected"
        own, other = ("_corrects", "_offset") if rejected else ("_offset", "_corrects")
        part: Part = "correction" if rejected else "corrected"
        where = f"_corrects IS NOT NULL AND {at_places(positions, own)}"
        found: dict[Position, list[Traced]] = {}
        for row in self._tables.ask(f"SELECT _partition, _offset, _corrects FROM {staging} WHERE {where}"):
            mate = Traced(Position(self._topic, row["_partition"], row[other]), part)
            found.setdefault(Position(self._topic, row["_partition"], row[own]), []).append(mate)
        return found

    def _upstreams(self) -> tuple[str, ...]:
        chain, upstream = [self._name], self._definition.upstream
        while upstream is not None:
            chain.append(upstream)
            upstream = self._live.definitions[upstream].upstream
        return tuple(chain)

    def _record(self, row: Mapping[str, Any], part: Part) -> Traced:
        return Traced(Position(self._topic, row["_partition"], row["_offset"]), part, row)

    def _missing(self, named: Sequence[tuple[str, str | None]]) -> RowMissing:
        what = f"{self._name} has no row {_shown(named)}"
        place = dict(named)
        if place.keys() <= set(PLACE) and None not in (partition := place.get("_partition"), offset := place.get("_offset")):
            assert partition is not None
            assert offset is not None
            why = absence(self._chain, partition, offset, self._topic, self._tables)
            return RowMissing(what, cause=why.cause, next_step=why.next_step)
        return RowMissing(what, cause="no row has that at this cut", next_step=f'kappa query "FROM {self._name}"')


def _shown(named: Sequence[tuple[str, str | None]]) -> str:
    return ", ".join(f"{name} = {'null' if text is None else text}" for name, text in named)
