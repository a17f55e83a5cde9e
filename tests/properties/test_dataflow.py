"""The real dataflow builder and the real sinks, driven from memory: whatever the batch boundaries, partitions, workers and restarts,
the tables equal what DuckDB makes of the same records (DESIGN invariants I1, I3, I5)."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from bytewax._bytewax import cluster_main
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.control import RunControl
from flows.dataflow import build
from flows.fingerprint import definitions
from flows.ledger import LogIdentity, RunIdentity
from flows.plan import analyse, require
from flows.project import load_project
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.history import newest
from sinks.owner import Owner
from sinks.sink import TableParts, TableSink
from tests.memory import TOPIC, MemorySource, Record, split
from tests.warehouse import write_folder

LOG = LogIdentity("cluster", {TOPIC: "topic-id"})
RUN = RunIdentity("host", 1, "2026-01-01T00:00:00.000000Z")
FOLDER = Path(tempfile.mkdtemp(prefix="kappa-properties-"))
write_folder(FOLDER, TOPIC)
PROJECT = load_project(FOLDER)
PLAN = analyse(PROJECT)
require(PLAN)
DEFINITIONS = definitions(PROJECT, PLAN)


@dataclass(frozen=True)
class Value:
    """The bytes of a value, and the typed row that it must become; None when it must be rejected."""

    data: bytes | None
    row: dict[str, Any] | None


@st.composite
def good(draw: st.DrawFn) -> Value:
    row = {
        "id": draw(st.integers(-(2**63), 2**63 - 1)),
        "kind": draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        "amount": draw(st.none() | st.decimals(Decimal(-999999), Decimal(999999), places=2)),
        "tags": draw(st.none() | st.lists(st.text("abc", max_size=2), max_size=3)),
    }
    members = [f'"{name}": {value}' if isinstance(value, Decimal) else f'"{name}": {json.dumps(value)}' for name, value in row.items()]
    return Value(("{" + ", ".join(draw(st.permutations(members))) + "}").encode(), row)


BAD = st.sampled_from(
    [
        None,
        b"",
        b"   ",
        b"null",
        b"[1]",
        b'{"id": 1',
        b'{"id": 1} {"id": 2}',
        b'{"id": 1,}',
        b'{"id": "1"}',
        b'{"id": 1.5}',
        b'{"id": null}',
        b'{"kind": "x"}',
        b'{"id": 1, "id": 2}',
        b'{"id": 9223372036854775808}',
        b'{"id": 1, "kind": "\xff"}',
        b'{"id": 1, "amount": NaN}',
        b'{"id": 1, "amount": 2000000}',
        b'{"id": 1, "tags": [1]}',
        b'{"id": true}',
    ]
).map(lambda data: Value(data, None))


@st.composite
def logs(draw: st.DrawFn) -> dict[int, list[tuple[Record, Value]]]:
    """1 to 8 partitions with gaps between offsets."""
    log = {}
    for partition in range(draw(st.integers(1, 8))):
        values = draw(st.lists(good() | BAD, max_size=12))
        gaps = draw(st.lists(st.integers(1, 3), min_size=len(values), max_size=len(values)))
        offset = -1
        rows = []
        for value, gap in zip(values, gaps, strict=True):
            offset += gap
            rows.append((Record(offset, value.data), value))
        log[partition] = rows
    return log


def feed(root: str, log: dict[int, list[Record]], cuts: list[int], marks: list[bool], workers: int, crash_at: int | None) -> RunControl:
    """One run over what the tables do not hold yet; with ``crash_at``, it ends without its last commit."""
    control = RunControl()
    with ThreadPoolExecutor(2) as pool:
        sinks, positions = {}, []
        for name, definition in DEFINITIONS.items():
            address = TableAddress(root, name, "0123456789ab-1")
            owner = Owner.claim(address, definition.schema, definition.partition_by, RUN, LOG)
            held = {p: owner.positions.get((TOPIC, p), 0) for p in log}
            positions.append(held)
            parts = TableParts(
                owner=owner,
                starts={(TOPIC, p): offset for p, offset in held.items()},
                files=FileWriter(address, definition.schema, definition.partition_by),
                maintenance=None,
                pool=pool,
                flush_bytes=1000,
                still_live=lambda: None,
                committed=lambda info: None,
            )
            sinks[name] = TableSink(name, parts, control)
        starts = {p: min(held[p] for held in positions) for p in log}
        batches = split(log, starts, cuts, marks)
        flow = build(PROJECT.sources["events"], list(PLAN.nodes.values()), sinks, MemorySource(batches, crash_at), control, 1000)
        cluster_main(flow, [], 0, epoch_interval=timedelta(0), worker_count_per_proc=workers)
    assert control.fatal is None
    assert not control.failures, control.failures
    return control


def rows(root: str, table: str) -> list[dict[str, Any]]:
    found = DeltaTable(TableAddress(root, table, "0123456789ab-1").uri).to_pyarrow_table().to_pylist()
    return sorted(found, key=lambda row: (row["_partition"], row["_offset"], row.get("_row") or 0))


def at(row: dict[str, Any]) -> tuple[int, int]:
    return row["_partition"], row["_offset"]


def oracle(query: str, staged: pa.Table) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("staged", staged)
        return connection.execute(query).fetchall()


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    log=logs(),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    marks=st.lists(st.booleans(), min_size=1, max_size=4),
    crashes=st.lists(st.integers(0, 10), max_size=1),
)
def test_tables_equal_the_oracle(workers, log, cuts, marks, crashes):
    """``workers``: of the run that is broken off; the run that ends takes the other number."""
    records = {partition: [record for record, _ in pairs] for partition, pairs in log.items()}
    with tempfile.TemporaryDirectory() as root:
        for crash_at in crashes:
            feed(root, records, cuts, marks, workers, crash_at)
        feed(root, records, cuts[::-1], marks[::-1], 3 - workers, None)
        everything = sorted((p, record.offset) for p, pairs in log.items() for record, _ in pairs)
        accepted = [(p, record.offset, value.row) for p, pairs in log.items() for record, value in pairs if value.row is not None]
        assert [at(row) for row in rows(root, "raw.events")] == everything
        staged = rows(root, "staging.events")
        typed = [(*at(row), {name: row[name] for name in ("id", "kind", "amount", "tags")}) for row in staged]
        assert typed == sorted(accepted, key=lambda row: row[:2])
        rejected = rows(root, "staging.events__rejected")
        assert sorted([at(row) for row in rejected] + [at(row) for row in staged]) == everything
        table = DeltaTable(TableAddress(root, "staging.events", "0123456789ab-1").uri).to_pyarrow_table()
        events = oracle(
            "SELECT _partition, _offset, id, upper(kind), amount * 2 FROM staged WHERE id % 5 <> 0 ORDER BY 1, 2",
            table,
        )
        assert [(*at(r), r["id"], r["kind"], r["twice"]) for r in rows(root, "core.event")] == events
        tags = oracle(
            "SELECT _partition, _offset, id, tag"
            " FROM (SELECT *, unnest(tags) AS tag, generate_subscripts(tags, 1) AS n FROM staged) ORDER BY 1, 2, n",
            table,
        )
        assert [(*at(r), r["id"], r["tag"]) for r in rows(root, "core.tag")] == tags
        check_ledgers(root, log)


def check_ledgers(root: str, log: dict[int, list[tuple[Record, Value]]]) -> None:
    """Every table's totals cover the log and balance."""
    for name in DEFINITIONS:
        commit = newest(TableAddress(root, name, "0123456789ab-1"))
        assert commit is not None
        assert commit.record is not None
        for partition, pairs in log.items():
            total = commit.record.totals[TOPIC, partition]
            assert total.balanced
            assert (total.start, total.read) == (0, len(pairs)), name
            assert total.end == (pairs[-1][0].offset + 1 if pairs else 0)
