"""Corrections through the real dataflow and the real sinks: whatever the batch boundaries, workers, restarts and which tables were fed,
staging and its rejects are what a reader of the whole log makes of it, record by record (DESIGN invariant I5)."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from bytewax._bytewax import cluster_main
from deltalake import DeltaTable
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import flows.stage.corrections
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
from sinks.rejects import StoredRejects
from sinks.sink import TableParts, TableSink
from tests.memory import TOPIC, MemorySource, Record, split

LOG = LogIdentity("cluster", {TOPIC: "topic-id"})
RUN = RunIdentity("host", 1, "2026-01-01T00:00:00.000000Z")
SOURCE = f"""
topic = "{TOPIC}"
format = "json"
null_values = "delete"
corrections = true
[columns]
id = "bigint not null"
[rules.small]
check = "id < 1000"
[rules.even]
check = "id % 2 = 0"
on_failure = "warn"
"""
FOLDER = Path(tempfile.mkdtemp(prefix="kappa-corrections-"))
(FOLDER / "sources").mkdir()
(FOLDER / "core").mkdir()
(FOLDER / "warehouse.toml").write_text('name = "test"\n')
(FOLDER / "sources/events.toml").write_text(SOURCE)
(FOLDER / "core/event.sql").write_text('/* kind = "append" */ SELECT id, _corrects AS stands_for FROM staging.events')
PROJECT = load_project(FOLDER)
PLAN = analyse(PROJECT)
require(PLAN)
DEFINITIONS = definitions(PROJECT, PLAN)
STAGING, REJECTS = "staging.events", "staging.events__rejected"
GOOD = st.sampled_from([b'{"id": 1}', b'{"id": 2}'])
BAD = st.sampled_from([b'{"id": 5000}', b'{"id": "x"}', b"nothing"])
VALUES = st.one_of(GOOD, GOOD, BAD, st.none())


@dataclass(frozen=True)
class Outcome:
    """What becomes of a record: a row (``id``, ``corrects``), a reject with ``code``, or nothing."""

    id: int | None = None
    corrects: int | None = None
    code: str | None = None


def judge(log: list[Record], partition: int) -> dict[int, Outcome]:
    """The rule of docs/rejects.md, one record after another."""
    contract: dict[bytes | None, Outcome] = {
        b'{"id": 1}': Outcome(1),
        b'{"id": 2}': Outcome(2),
        b'{"id": 5000}': Outcome(code="rule"),
        b'{"id": "x"}': Outcome(code="wrong_type"),
        b"nothing": Outcome(code="invalid_json"),
        None: Outcome(),
    }
    made: dict[int, Outcome] = {}
    first_of: dict[int, int] = {}  # rejected and not superseded -> the first record that it stands for
    closed: set[int] = set()
    for record in log:
        outcome = contract[record.value]
        named = [value for name, value in record.headers if name == "kappa-corrects"]
        if not named:
            if outcome.code:
                first_of[record.offset] = record.offset
        else:
            names = {name(partition, offset): first for offset, first in first_of.items()}
            first = names.get(named[0]) if len(named) == 1 and record.value is not None else None
            if first is None or first in closed:
                outcome = Outcome(code="superseded")
            elif outcome.code:
                first_of[record.offset] = first
            else:
                closed.add(first)
                outcome = Outcome(outcome.id, corrects=first)
        made[record.offset] = outcome
    return made


@st.composite
def logs(draw: st.DrawFn) -> dict[int, list[Record]]:
    """1 or 2 partitions with gaps between offsets; most records correct one of the first few, some name nothing of the kind."""
    log = {}
    for partition in range(draw(st.integers(1, 2))):
        records: list[Record] = []
        offset = -1
        for _ in range(draw(st.integers(0, 10))):
            offset += draw(st.integers(1, 2))
            wrong = [name(partition + 1, 0), b"", b"no position", name(partition, -1), name(partition, offset)]
            near = [name(partition, record.offset) for record in records[:4]]
            named = draw(st.one_of(st.none(), st.sampled_from(near or wrong), st.sampled_from(near or wrong), st.sampled_from(wrong)))
            header = () if named is None else (("kappa-corrects", named),)
            twice = header if draw(st.integers(0, 9)) == 0 else ()
            value = draw(VALUES if named is not None else st.one_of(BAD, VALUES))
            records.append(Record(offset, value, headers=(("kappa-load", b"L"), *header, *twice)))
        log[partition] = records
    return log


def name(partition: int, offset: int) -> bytes:
    return b"%s/%d/%d" % (TOPIC.encode(), partition, offset)


def correction(offset: int, of: int, value: bytes = b'{"id": 1}') -> Record:
    return Record(offset, value, headers=(("kappa-corrects", name(0, of)),))


# what random logs meet seldom: each record is committed by a run of its own
RESTARTED = [(frozenset(), 1, 1)] * 3
LATE_SECOND = {0: [Record(0, b"nothing"), correction(1, 0), correction(2, 0)]}
CHAIN = {0: [Record(0, b"nothing"), correction(1, 0, b"nothing"), correction(2, 1), correction(3, 0)]}
SUPERSEDED_IS_FINAL = {0: [Record(0, b'{"id": 1}'), correction(1, 0), correction(2, 1)]}
AHEAD = {0: [Record(0, b"nothing"), correction(1, 0), correction(2, 0), correction(3, 2)]}


def feed(
    root: str, tables: list[str], log: dict[int, list[Record]], cuts: list[int], marks: list[bool], workers: int, crash_at: int | None
):
    """One run of ``tables`` over what they do not hold yet; with ``crash_at``, it ends without its last commit."""
    control = RunControl()
    with ThreadPoolExecutor(2) as pool:
        sinks, positions = {}, []
        for name in tables:
            definition, address = DEFINITIONS[name], TableAddress(root, name, "0123456789ab-1")
            owner = Owner.claim(address, definition.schema, definition.partition_by, RUN, LOG)
            held = {p: owner.positions.get((TOPIC, p), 0) for p in log}
            positions.append(held)
            parts = TableParts(
                owner=owner,
                starts={(TOPIC, p): offset for p, offset in held.items()},
                pending=FileWriter(address, definition.schema, definition.partition_by).draft,
                multiplies=False,
                maintenance=None,
                pool=pool,
                flush_bytes=1000,
                still_live=lambda: None,
                committed=lambda info: None,
            )
            sinks[name] = TableSink(name, parts, control)
        batches = split(log, {p: min(held[p] for held in positions) for p in log}, cuts, marks)
        stored = StoredRejects(TOPIC, *(TableAddress(root, name, "0123456789ab-1") for name in (STAGING, REJECTS)), dict.fromkeys(log, 0))
        lane = MemorySource(batches, crash_at)
        flow = build(PROJECT.sources["events"], list(PLAN.nodes.values()), sinks, lane, control, 1000, stored=stored)
        cluster_main(flow, [], 0, epoch_interval=timedelta(0), worker_count_per_proc=workers)
    assert control.fatal is None
    assert not control.failures, control.failures


def read(root: str, table: str) -> list[dict[str, object]]:
    rows = DeltaTable(TableAddress(root, table, "0123456789ab-1").uri).to_pyarrow_table().to_pylist()
    return sorted(rows, key=lambda row: (row["_partition"], row["_offset"]))


@pytest.mark.parametrize("remembered", [0, 100_000])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    log=logs(),
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    marks=st.lists(st.booleans(), min_size=1, max_size=4),
    runs=st.lists(
        st.tuples(st.frozensets(st.sampled_from([STAGING, REJECTS]), max_size=2), st.integers(1, 8), st.integers(1, 2)), max_size=2
    ),
)
@example(LATE_SECOND, [1], [True], RESTARTED)
@example(CHAIN, [1], [True], RESTARTED)
@example(SUPERSEDED_IS_FINAL, [1], [True], RESTARTED)
@example(AHEAD, [1], [True], [*RESTARTED[:1], (frozenset({REJECTS}), 3, 1)])
@example(AHEAD, [1], [True], [*RESTARTED[:1], (frozenset({STAGING}), 3, 1)])
def test_corrections_equal_the_oracle(remembered, log, cuts, marks, runs):
    """``runs`` before the one that ends: which tables were killed before their commits, after how many batches, and the workers."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as root:
        patch.setattr(flows.stage.corrections, "REMEMBERED", remembered)
        for killed, crash_at, workers in runs:
            feed(root, [table for table in DEFINITIONS if table not in killed], log, cuts, marks, workers, crash_at)
        feed(root, list(DEFINITIONS), log, cuts[::-1], marks[::-1], 2, None)
        made = {(p, offset): outcome for p, records in log.items() for offset, outcome in judge(records, p).items()}
        rows = {at: outcome for at, outcome in sorted(made.items()) if outcome.id is not None}
        assert [((r["_partition"], r["_offset"]), r["id"], r["_corrects"]) for r in read(root, STAGING)] == [
            (at, outcome.id, outcome.corrects) for at, outcome in rows.items()
        ]
        assert [((r["_partition"], r["_offset"]), r["id"], r["stands_for"]) for r in read(root, "core.event")] == [
            (at, outcome.id, outcome.corrects) for at, outcome in rows.items()
        ]
        assert [((r["_partition"], r["_offset"]), r["code"]) for r in read(root, REJECTS)] == [
            (at, outcome.code) for at, outcome in sorted(made.items()) if outcome.code
        ]
        for name in DEFINITIONS:
            commit = newest(TableAddress(root, name, "0123456789ab-1"))
            assert commit is not None
            assert commit.record is not None
            assert all(span.balanced for span in commit.record.totals.values())
            assert sum(span.read for span in commit.record.totals.values()) == len(made)
