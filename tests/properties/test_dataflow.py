"""The real dataflow builder and the real sinks, driven from memory: whatever the batch boundaries, partitions, workers and restarts,
the tables equal what DuckDB makes of the same records (DESIGN invariants I1, I3, I5)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from bytewax._bytewax import cluster_main
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.control import RunControl
from flows.dataflow import build
from flows.fingerprint import Definition, definitions
from flows.ledger import LogIdentity, RunIdentity
from flows.plan import analyse, require
from flows.project import load_project
from sinks.address import TableAddress
from sinks.files import FileWriter, Pending
from sinks.history import newest
from sinks.keys import Keys
from sinks.merge import Merge
from sinks.owner import Owner
from sinks.sink import TableParts, TableSink
from tests.memory import TOPIC, MemorySource, Record, split
from tests.oracle import BAD, Value, check_tables, good
from tests.warehouse import write_folder

LOG = LogIdentity("cluster", {TOPIC: "topic-id"})
RUN = RunIdentity("host", 1, "2026-01-01T00:00:00.000000Z")
FOLDER = Path(tempfile.mkdtemp(prefix="kappa-properties-"))
write_folder(FOLDER, TOPIC)
PROJECT = load_project(FOLDER)
PLAN = analyse(PROJECT)
require(PLAN)
DEFINITIONS = {name: each for name, each in definitions(PROJECT, PLAN).items() if each.summary is None}  # these follow another table


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
                pending=pending(address, definition, owner, pool),
                multiplies="_row" in definition.schema.names,
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


def pending(address: TableAddress, definition: Definition, owner: Owner, pool: ThreadPoolExecutor) -> Callable[[], Pending]:
    writer = FileWriter(address, definition.schema, definition.partition_by)
    if definition.upsert is None:
        return writer.draft
    keys = Keys.of_upsert(definition.upsert, definition.schema, definition.partition_by)
    return Merge(writer, keys, lambda: owner.version, pool, leaf_rows=4).pending


def read(root: str, table: str) -> pa.Table:
    return DeltaTable(TableAddress(root, table, "0123456789ab-1").uri).to_pyarrow_table()


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
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
        check_tables(partial(read, root), [((p, record.offset), value) for p, pairs in log.items() for record, value in pairs])
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
