"""A materialized table against its SQL, run again over the versions that it says it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress

import duckdb
import pyarrow as pa

from flows.errors import KappaError
from flows.materialized import Materialized
from flows.sql.tree import quoted
from infra.audit.audit import Audit, Audited
from infra.audit.findings import EXAMPLES
from sinks.address import TableAddress
from sinks.catalog import TableEntry
from sinks.cut import Cut
from sinks.engine import message
from sinks.errors import TableUnreadable
from sinks.record import ReadVersion
from sinks.snapshot import Snapshot, is_readable
from sinks.versions import Versions
from sinks.warehouse import Warehouse

MEMORY_BYTES = 1_000_000_000
TOLERANCE = 1e-9  # of the greater value: the order in which rows are read shows in the last bits of a DOUBLE


def compare_materialized(audit: Audit, table: Materialized) -> None:
    """Findings go to the audit's table. Rows are compared as a multiset, doubles within the tolerance."""
    audited = audit.table(table.name)
    record = audited.walk.record
    if record is None or record.cut is None or audited.version is None:
        return
    snapshot = _snapshot(audited.address.root, record.cut, table, audit)
    if (gone := _gone(snapshot)) is not None:
        audited.notes.append(gone)
        return
    with closing(Versions(MEMORY_BYTES)) as versions:
        try:
            with Warehouse(snapshot.root, MEMORY_BYTES, snapshot=snapshot) as warehouse:
                made = warehouse.sql(table.rows_sql).arrow().cast(table.schema)
            stored = versions.ask(f"SELECT {_columns(table.schema.names)} FROM {versions.table(audited.address, audited.version)}")
            _compare(audited, table, versions, made, stored)
        except duckdb.Error as error:
            audited.walk.find(f"it cannot be read: {message(error)}")
        except KappaError as error:
            audited.walk.find(f"its SQL cannot be run over what it was made from: {error.what}: {error.cause}")


def _snapshot(root: str, cut: Mapping[str, ReadVersion], table: Materialized, audit: Audit) -> Snapshot:
    """What the table was made from. Kinds come from what is live: a kind is part of no generation's name, and decides what is hidden."""
    tables = {name: TableEntry(audit.kind(name), at.generation, TableAddress(root, name, at.generation).path) for name, at in cut.items()}
    return Snapshot(root, 0, tables, table.views, Cut({name: at.version for name, at in cut.items()}), {})


def _gone(snapshot: Snapshot) -> str | None:
    for name, version in snapshot.cut.versions.items():
        with suppress(TableUnreadable):
            if is_readable(snapshot.address(name), version):
                continue
        return f"version {version} of {name} is no longer kept: it is not compared"
    return None


def _compare(audited: Audited, table: Materialized, versions: Versions, made: pa.Table, stored: pa.Table) -> None:
    doubles = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    exact = [name for name in table.schema.names if name not in doubles]
    pairs = [f"a.{quoted(name)} IS NOT DISTINCT FROM b.{quoted(name)}" for name in [*exact, "_nth"]]
    differs = [_differs(name) for name in doubles]
    sides = ", ".join(f"{side} AS ({_numbered(side, exact, doubles)})" for side in ("a", "b"))
    joined = f"WITH {sides} SELECT a.* EXCLUDE (_there, _nth) FROM a {{}} JOIN b ON {' AND '.join(pairs)} WHERE "
    for what, sql in (
        ("rows of its SQL are missing", joined.format("LEFT") + "b._there IS NULL"),
        ("rows are not those of its SQL", joined.replace("SELECT a.*", "SELECT b.*").format("RIGHT") + "a._there IS NULL"),
        ("rows differ from those of its SQL", joined.format("INNER") + (" OR ".join(differs) or "false")),
    ):
        rows = versions.ask(f"{sql} ORDER BY ALL", a_rows=made, b_rows=stored)
        if rows.num_rows:
            examples = "; ".join(str(row) for row in rows.slice(0, EXAMPLES).to_pylist())
            audited.walk.find(f"{rows.num_rows:,} {what}: {examples}")


def _numbered(side: str, exact: list[str], doubles: list[str]) -> str:
    """Rows that are equal but for their doubles are paired in the order of these."""
    order = f"ORDER BY {_columns(doubles)}" if doubles else ""
    partition = f"PARTITION BY {_columns(exact)}" if exact else ""
    return f"SELECT true AS _there, row_number() OVER ({partition} {order}) AS _nth, * FROM {side}_rows"


def _differs(name: str) -> str:
    a, b = f"a.{quoted(name)}", f"b.{quoted(name)}"
    near = f"isfinite({a}) AND isfinite({b}) AND abs({a} - {b}) <= {TOLERANCE} * greatest(abs({a}), abs({b}))"
    return f"({a} IS DISTINCT FROM {b} AND NOT coalesce({near}, false))"


def _columns(names: list[str]) -> str:
    return ", ".join(map(quoted, names))
