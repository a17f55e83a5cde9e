"""Two generations of a table at equal positions, row by row, in DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import duckdb
import psutil
import pyarrow as pa

from flows.errors import KappaError
from flows.fingerprint import type_name
from flows.sql.rewrite import ROW, UPSTREAM
from flows.sql.tree import quoted
from flows.summary import Summary
from flows.upsert import DELETED
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.cut import Cut, Held, compute_cut
from sinks.engine import message
from sinks.history import commits, newest
from sinks.record import Partition
from sinks.snapshot import held
from sinks.table import open_table
from sinks.versions import Versions

TOLERANCE = 1e-9  # of the size of what is added up (DESIGN invariant I5)
_COMPARED = ("_timestamp", "_extra", "_corrects")  # of the columns that begin with _
COPY = "_copy"  # of a materialized table without a key: which of several equal rows
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


class NotComparable(KappaError):
    """Two generations that cannot be held against each other row by row."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Of one numeric column: least, greatest and mean value, and how many rows have none."""

    least: Any
    greatest: Any
    mean: float | None
    nulls: int


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """A column of both. ``changed``: rows of both in which it differs; ``types``: when these differ; ``a``, ``b``: of numeric columns."""

    name: str
    changed: int
    types: tuple[str, str] | None = None
    a: Numbers | None = None
    b: Numbers | None = None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its generation, the Delta version that was read, and its rows there."""

    generation: str
    version: int
    rows: int


@dataclass(frozen=True, slots=True)
class Diff:
    """``key``: what makes two rows the same; ``positions``: where both stand; ``only_a``, ``only_b``: rows whose key the other lacks;
    ``changed``: rows of both with another value. ``dropped`` and ``added``: columns of ``a`` alone, of ``b`` alone, with their types.
    ``samples``: the first rows that differ, as {"in": "a" | "b" | "both", key columns, changed column: [a, b]}.
    """

    table: str
    key: tuple[str, ...]
    positions: Mapping[Partition, int]
    a: Side
    b: Side
    only_a: int
    only_b: int
    changed: int
    columns: tuple[ColumnDiff, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every row, column and type is the same, DOUBLE aggregates of summaries within the tolerance."""
        return not (self.only_a or self.only_b or self.changed or self.dropped or self.added or any(c.types for c in self.columns))


def diff(
    a: TableAddress, b: TableAddress, summary: Summary | None = None, samples: int = 3, at: tuple[int | None, int | None] = (None, None)
) -> Diff:
    """Compare ``b`` with ``a``. ``summary``: what one of them is, for the tolerance of its DOUBLE columns: 1e-9 of the size of what was
    added up; without it 1e-9 of the greater value. Other values are compared exactly. ``at``: versions to read, of two moments; without
    any, both are read at equal positions.

    Raises NotComparable, TableUnreadable.
    """
    key, kind = _key(a, b)
    positions, versions, bounded = _common(a, b, kind) if at == (None, None) else _moments((a, b), at)
    schemas = [pa.schema(open_table(each, version).schema().to_arrow()) for each, version in zip((a, b), versions, strict=True)]
    with closing(Versions(psutil.virtual_memory().total // 4)) as database:
        try:
            work = _Comparison(database, (a, b), versions, schemas, key, positions if bounded else {}, kind)
            work.add_scale(summary)
            return work.run(positions, samples)
        except duckdb.Error as error:
            raise NotComparable(f"the generations of {a.name} cannot be compared", cause=message(error), next_step="kappa audit") from None


def _key(a: TableAddress, b: TableAddress) -> tuple[tuple[str, ...], str]:
    """The columns by which rows are the same, and the kind. Raises NotComparable."""
    found = []
    for each in (a, b):
        stored = Catalog(each.root).definition(each.name, each.generation)
        columns = [name for name, *_ in stored.get("columns", ())]
        kind = stored["kind"]
        place = ("_partition", "_offset", ROW) if ROW in columns and stored["role"] == "table" else ("_partition", "_offset")
        keys = {"upsert": stored.get("key"), "summary": stored.get("group"), "materialized": stored.get("key") or [*columns, COPY]}
        key: Sequence[str] = keys.get(kind) or place
        found.append((tuple(key), str(kind)))
    if found[0] != found[1]:
        (one, kind), (other, now) = found
        cause = f"{a.generation} is of kind {kind} with key ({', '.join(one)}), {b.generation} of kind {now} with key ({', '.join(other)})"
        raise NotComparable(f"the generations of {a.name} have other keys", cause=cause, next_step=f"kappa show {a.name}")
    return found[0]


def _common(a: TableAddress, b: TableAddress, kind: str) -> tuple[Mapping[Partition, int], tuple[int, int], bool]:
    """Positions, the version of each, and whether rows above the positions have to be left out. Raises NotComparable."""
    both = [replace(held(each), table=side, failed=None) for side, each in (("a", a), ("b", b))]
    cut = compute_cut(both)
    if not cut.left_out:
        return _positions(both[0], cut), (cut.versions["a"], cut.versions["b"]), False
    last = [each.record.positions if (each := newest(address)) is not None and each.record is not None else {} for address in (a, b)]
    if kind != "append" or last[0].keys() != last[1].keys() or not last[0]:
        raise NotComparable(
            f"the generations of {a.name} stand at no common positions",
            cause="neither holds a version at positions of the other",
            next_step="kappa apply --no-promote brings a new one to where the live one stands",
        )
    least = {place: min(last[0][place], last[1][place]) for place in last[0]}
    return least, (both[0].versions[-1][0], both[1].versions[-1][0]), True


def _moments(addresses: Sequence[TableAddress], at: Sequence[int | None]) -> tuple[Mapping[Partition, int], tuple[int, int], bool]:
    """As ``_common``, of two versions as they are (None: the newest); positions only where both stand at the same ones."""
    found = []
    for address, version in zip(addresses, at, strict=True):
        known = [(commit.version, commit.record) for commit in commits(address) if commit.record is not None]
        record = next((record for number, record in known if version is None or number <= version), None)
        found.append((version if version is not None else known[0][0], record.positions if record is not None else {}))
    (one, here), (other, there) = found
    return here if here == there else {}, (one, other), False


def _positions(side: Held, cut: Cut) -> Mapping[Partition, int]:
    return next(dict(vector) for version, vector in side.versions if version == cut.versions[side.table])


class _Comparison:
    """The SQL of one diff."""

    def __init__(
        self,
        database: Versions,
        addresses: Sequence[TableAddress],
        versions: Sequence[int],
        schemas: Sequence[pa.Schema],
        key: tuple[str, ...],
        bounds: Mapping[Partition, int],
        kind: str,
    ) -> None:
        self._database, self._addresses, self._versions, self._key, self._kind = database, addresses, versions, key, kind
        self._tables = [database.table(address, version) for address, version in zip(addresses, versions, strict=True)]
        self._old, self._new = schemas
        self._where = " AND ".join(filter(None, [f"NOT {DELETED}" if kind == "upsert" else "", _below(bounds)])) or "true"
        shown = [[name for name in schema.names if not name.startswith("_") or name in _COMPARED] for schema in schemas]
        self._compared = [name for name in shown[0] if name in shown[1] and name not in key]
        self._dropped = {name: type_name(self._old.field(name).type) for name in shown[0] if name not in shown[1]}
        self._added = {name: type_name(self._new.field(name).type) for name in shown[1] if name not in shown[0]}
        self._scaled: frozenset[str] = frozenset()

    def add_scale(self, summary: Summary | None) -> None:
        """Compute, for every group, the size of what was added up for each DOUBLE."""
        record = next((r for a in self._addresses if (last := newest(a)) is not None and (r := last.record) is not None), None)
        if summary is None or summary.group != self._key or record is None or record.upstream is None:
            return
        live = Catalog(self._addresses[0].root).read().tables.get(summary.upstream)
        if live is None:
            return
        address = TableAddress(self._addresses[0].root, summary.upstream, live.generation)
        where = f" WHERE NOT {DELETED}" if summary.partials is None else ""
        last = newest(address)
        if last is None:
            return
        # sizes, not values: a version near the compared one gives the same order of magnitude
        self._database.run(f"CREATE TEMP VIEW {UPSTREAM} AS SELECT * FROM {self._database.table(address, last.version)}{where}")
        self._database.run(f"CREATE TEMP TABLE scale AS {summary.scale_sql}")
        self._scaled = frozenset(field.name for field in summary.schema if pa.types.is_floating(field.type))

    def run(self, positions: Mapping[Partition, int], samples: int) -> Diff:
        numeric = [name for name in self._compared if all(any(t(s.field(name).type) for t in _NUMERIC) for s in (self._old, self._new))]
        both, differs = "a._there AND b._there", {name: f"({self._differs(name)})" for name in self._compared}
        parts = [
            "count(*) FILTER (a._there)",
            "count(*) FILTER (b._there)",
            "count(*) FILTER (a._there AND b._there IS NULL)",
            "count(*) FILTER (b._there AND a._there IS NULL)",
            f"count(*) FILTER ({both} AND ({' OR '.join(differs.values()) or 'false'}))",
        ]
        parts += [f"count(*) FILTER ({both} AND {test})" for test in differs.values()]
        for name in numeric:
            for side in ("a", "b"):
                column = f"{side}.{quoted(name)}"
                parts += [f"min({column})", f"max({column})", f"avg({column})", f"count(*) FILTER ({side}._there AND {column} IS NULL)"]
        row = self._ask(f"SELECT {', '.join(f'{part} AS c{n}' for n, part in enumerate(parts))} FROM {self._joined()}")[0]
        found = iter(row.values())
        rows_a, rows_b, only_a, only_b, changed = (next(found) for _ in range(5))
        counts = {name: next(found) for name in self._compared}
        stats = {name: [Numbers(*(next(found) for _ in range(4))) for _ in ("a", "b")] for name in numeric}
        columns = tuple(ColumnDiff(name, counts[name], self._types(name), *stats.get(name, ())) for name in self._compared)
        one, other = (
            Side(address.generation, version, rows)
            for address, version, rows in zip(self._addresses, self._versions, (rows_a, rows_b), strict=True)
        )
        shown = self._samples(samples, [name for name in self._compared if counts[name]]) if only_a or only_b or changed else ()
        name = self._addresses[0].name
        return Diff(name, self._key, positions, one, other, only_a, only_b, changed, columns, self._dropped, self._added, tuple(shown))

    def _joined(self) -> str:
        copy = f", row_number() OVER (PARTITION BY {', '.join(map(quoted, self._key[:-1]))}) AS {COPY}" if COPY in self._key else ""
        a, b = (f"(SELECT true AS _there, *{copy} FROM {table} WHERE {self._where})" for table in self._tables)
        scale = f" LEFT JOIN scale ON {self._same('a', 'scale')}" if self._scaled else ""
        return f"{a} AS a FULL JOIN {b} AS b ON {self._same('a', 'b')}{scale}"

    def _same(self, one: str, other: str) -> str:
        return " AND ".join(f"{one}.{quoted(name)} IS NOT DISTINCT FROM {other}.{quoted(name)}" for name in self._key)

    def _differs(self, name: str) -> str:
        a, b = f"a.{quoted(name)}", f"b.{quoted(name)}"
        kinds = [schema.field(name).type for schema in (self._old, self._new)]
        if kinds[0] != kinds[1] and not all(any(test(kind) for test in _NUMERIC) for kind in kinds):
            a, b = f"CAST({a} AS VARCHAR)", f"CAST({b} AS VARCHAR)"
        test = f"{a} IS DISTINCT FROM {b}"
        if all(map(pa.types.is_floating, kinds)) and self._kind in ("summary", "materialized"):
            greater = f"greatest(abs({a}), abs({b}))"
            size = f"coalesce(scale.{quoted(name)}, {greater})" if name in self._scaled else greater
            test += f" AND NOT coalesce(isfinite({size}) AND abs({a} - {b}) <= {TOLERANCE} * {size}, false)"
        return test

    def _types(self, name: str) -> tuple[str, str] | None:
        old, new = (type_name(schema.field(name).type) for schema in (self._old, self._new))
        return None if old == new else (old, new)

    def _samples(self, most: int, changed: list[str]) -> list[dict[str, Any]]:
        keys = ", ".join(f"coalesce(a.{quoted(name)}, b.{quoted(name)}) AS {quoted(name)}" for name in self._key)
        values = "".join(f", [CAST(a.{quoted(name)} AS VARCHAR), CAST(b.{quoted(name)} AS VARCHAR)] AS {quoted(name)}" for name in changed)
        shown: list[dict[str, Any]] = []
        tests = {
            "a": "b._there IS NULL",
            "b": "a._there IS NULL",
            "both": f"a._there AND b._there AND ({' OR '.join(f'({self._differs(name)})' for name in changed) or 'false'})",
        }
        for where, test in tests.items():
            more = values if where == "both" else ""
            for row in self._ask(f"SELECT {keys}{more} FROM {self._joined()} WHERE {test} ORDER BY ALL LIMIT {most}"):
                kept = {name: value for name, value in row.items() if name in self._key or (value and value[0] != value[1])}
                shown.append({"in": where, **kept})
        return shown

    def _ask(self, sql: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._database.ask(sql).to_pylist()
        return rows


def _below(bounds: Mapping[Partition, int]) -> str:
    """Rows of append tables below positions."""
    tests = [f"(_partition = {partition} AND _offset < {offset})" for (_, partition), offset in sorted(bounds.items())]
    return f"({' OR '.join(tests)})" if tests else ""
