"""Records without a value delete the row of their Kafka key, whatever the batches, workers and restarts: against a fold over each key's
records in the order of the log."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

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
from sinks.keys import Keys
from sinks.merge import Merge
from sinks.owner import Owner
from sinks.sink import TableParts, TableSink
from tests.memory import TOPIC, MemorySource, Record, split

LOG = LogIdentity("cluster", {TOPIC: "topic-id"})
RUN = RunIdentity("host", 1, "2026-01-01T00:00:00.000000Z")
SOURCE = """
topic = "log"
format = "json"
key = ["id", "half"]
null_values = "delete"
partitions = 3
[columns]
id = "integer not null"
half = "varchar not null"
stamp = "bigint"
note = "varchar"
"""
THING = """/*
kind = "upsert"
sequence = "stamp"
delete_when = "note = 'gone'"
*/
SELECT half, id, stamp, note FROM staging.things
"""
HALF = """/*
kind = "upsert"
sequence = "stamp"
partition_by = ["half"]
*/
SELECT half, id, note FROM staging.things WHERE note <> 'x'
"""
SEEN = """/* kind = "append" */
SELECT id, note FROM staging.things
"""
TABLES = {"core.thing": THING, "core.half": HALF, "core.seen": SEEN}
PARTITIONS = 3
Event = tuple[int, str, int | None, str | None]  # id, half, at, note; note None: no value
events = st.tuples(
    st.integers(0, 3), st.sampled_from(["", "é"]), st.none() | st.integers(0, 4), st.none() | st.sampled_from(["a", "b", "x", "gone"])
)


def write(folder: Path) -> None:
    for part in ("sources", "core"):
        (folder / part).mkdir()
    (folder / "warehouse.toml").write_text('name = "nulls"\n')
    (folder / "sources/things.toml").write_text(SOURCE)
    for name, sql in TABLES.items():
        (folder / f"{name.replace('.', '/')}.sql").write_text(sql)


FOLDER = Path(tempfile.mkdtemp(prefix="kappa-null-values-"))
write(FOLDER)
PROJECT = load_project(FOLDER)
PLAN = analyse(PROJECT)
require(PLAN)
DEFINITIONS = definitions(PROJECT, PLAN)


def feed(root: str, log: dict[int, list[Record]], cuts: list[int], marks: list[bool], workers: int, crash_at: int | None) -> None:
    control = RunControl()
    with ThreadPoolExecutor(2) as pool:
        sinks, positions = {}, []
        for name, definition in DEFINITIONS.items():
            address = TableAddress(root, name, "0123456789ab-1")
            owner = Owner.claim(address, definition.schema, definition.partition_by, RUN, LOG)
            held = {p: owner.positions.get((TOPIC, p), 0) for p in log}
            positions.append(held)
            writer = FileWriter(address, definition.schema, definition.partition_by)
            pending: Any = writer.draft
            if definition.upsert is not None:
                keys = Keys.of_upsert(definition.upsert, definition.schema, definition.partition_by)
                version = lambda owner=owner: owner.version  # noqa: E731
                pending = Merge(writer, keys, version, pool, leaf_rows=3, open_sequence=definition.upsert.open_sequence).pending
            parts = TableParts(
                owner=owner,
                starts={(TOPIC, p): offset for p, offset in held.items()},
                pending=pending,
                multiplies=False,
                maintenance=None,
                pool=pool,
                flush_bytes=1000,
                still_live=lambda: None,
                committed=lambda info: None,
            )
            sinks[name] = TableSink(name, parts, control)
        batches = split(log, {p: min(held[p] for held in positions) for p in log}, cuts, marks)
        flow = build(PROJECT.sources["things"], list(PLAN.nodes.values()), sinks, MemorySource(batches, crash_at), control, 1000)
        cluster_main(flow, [], 0, epoch_interval=timedelta(0), worker_count_per_proc=workers)
    assert control.fatal is None
    assert not control.failures, control.failures


def record(offset: int, event: Event) -> Record:
    number, half, at, note = event
    value = None if note is None else json.dumps({"id": number, "half": half, "stamp": at, "note": note}).encode()
    return Record(offset, value, json.dumps({"half": half, "id": number, "more": at}).encode())


def fold(log: dict[int, list[Event]], table: str) -> list[dict[str, Any]]:
    """The table's rows: the greatest (at, partition, offset) of each key. A delete without ``at`` has the greatest before it."""
    rows: dict[tuple[int, str], tuple[Any, ...]] = {}
    greatest: dict[tuple[int, str], int] = {}
    for partition, happened in log.items():
        for offset, (number, half, at, note) in enumerate(happened):
            if table == "core.half" and (note == "x" or half == ""):  # which no partition can be called
                continue
            deleted = note is None or (table == "core.thing" and note == "gone")
            key = (number, half)
            before = greatest.get(key, -1)
            order = before if note is None or (deleted and at is None) else -1 if at is None else at
            greatest[key] = max(order, before)
            version = (order, partition, offset, None if deleted else note, deleted)
            rows[key] = max(rows.get(key, version), version, key=lambda row: row[:3])
    return sorted(
        (
            {"id": n, "half": h, "at": None if at < 0 else at, "note": note, "deleted": deleted, "partition": partition, "offset": offset}
            for (n, h), (at, partition, offset, note, deleted) in rows.items()
        ),
        key=lambda row: (row["id"], row["half"]),
    )


def stored(root: str, table: str) -> list[dict[str, Any]]:
    rows = DeltaTable(TableAddress(root, table, "0123456789ab-1").uri).to_pyarrow_table().to_pylist()
    sequence = "stamp" if table == "core.thing" else "_sequence"
    return sorted(
        (
            {"id": r["id"], "half": r["half"], "at": r[sequence], "note": r["note"], "deleted": r["_deleted"]}
            | {"partition": r["_partition"], "offset": r["_offset"]}
            for r in rows
        ),
        key=lambda row: (row["id"], row["half"]),
    )


@pytest.mark.parametrize("workers", [1, 2])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    happened=st.lists(events, max_size=40),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    marks=st.lists(st.booleans(), min_size=1, max_size=4),
    crashes=st.lists(st.integers(0, 10), max_size=1),
)
def test_a_record_without_a_value_deletes_what_came_before_it(
    workers: int, happened: list[Event], cuts: list[int], marks: list[bool], crashes: list[int]
) -> None:
    log: dict[int, list[Event]] = {p: [] for p in range(PARTITIONS)}
    for event in happened:
        log[event[0] % PARTITIONS].append(event)
    records = {p: [record(offset, event) for offset, event in enumerate(its)] for p, its in log.items()}
    with tempfile.TemporaryDirectory() as root:
        for crash_at in crashes:
            feed(root, records, cuts, marks, workers, crash_at)
        feed(root, records, cuts[::-1], marks[::-1], 3 - workers, None)
        for table in ("core.thing", "core.half"):
            assert stored(root, table) == fold(log, table)
        for name in DEFINITIONS:
            commit = newest(TableAddress(root, name, "0123456789ab-1"))
            assert commit is not None
            assert commit.record is not None
            nulls = sum(note is None for *_, note in happened)
            totals = commit.record.totals.values()
            assert all(total.balanced for total in totals)
            assert sum(total.read for total in totals) == len(happened)
            if name in ("staging.things", "core.seen"):
                assert sum(total.filtered for total in totals) == nulls
            if name == "core.thing":
                assert sum(total.written for total in totals) == len(happened)


@pytest.mark.parametrize("marks", [[True], [False]])
def test_a_key_in_two_partitions_stops_the_table(marks: list[bool]) -> None:
    """In one commit or in two: what a record without a value deletes would depend on the order of reading."""
    log = {0: [record(0, (0, "h", 3, "a"))], 1: [record(0, (1, "h", 3, "a")), record(1, (0, "h", None, None))]}
    with tempfile.TemporaryDirectory() as root, pytest.raises(AssertionError, match="id = 0 is in partitions 0 and 1"):
        feed(root, log, [1], marks, 1, None)
