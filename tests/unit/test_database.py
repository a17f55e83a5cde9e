"""One DuckDB for all tables of a worker: their cursors keep apart, and what does not fit at once is taken in parts."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from flows.batch import Batch
from flows.conform import Conform, TransformFailed
from flows.contract import Source
from flows.database import Database
from flows.stage import Stage
from tests.folder import append, plan
from tests.memory import Record, records_batch

MB = 1_000_000
COLUMNS = {"id": "bigint not null", "note": "varchar"}
EVENTS = 'topic = "t"\nformat = "json"\n[columns]\nid = "bigint not null"\nnote = "varchar"\n'


def batch(notes: list[str], first: int = 0) -> Batch:
    values = [b'{"id": %d, "note": "%s"}' % (number, note.encode()) for number, note in enumerate(notes)]
    records = records_batch([Record(first + offset, value) for offset, value in enumerate(values)])
    return Batch("t", 0, first, first + len(values), records)


def test_every_cursor_is_in_utc_and_sees_its_own_rows() -> None:
    database = Database(64 * MB)
    one, two = database.cursor(), database.cursor()
    for cursor, number in ((one, 1), (two, 2), (one, 3)):
        rows = pa.table({"n": [number]})
        found = cursor.query("SELECT n, current_setting('TimeZone') AS zone, current_setting('memory_limit') AS most FROM t", t=rows)
        assert found.to_pylist() == [{"n": number, "zone": "UTC", "most": "61.0 MiB"}]
    with pytest.raises(duckdb.CatalogException):
        two.query("SELECT * FROM u", t=pa.table({"n": [1]}))


def test_a_batch_that_does_not_fit_is_taken_in_parts(tmp_path: Path) -> None:
    loud = append("SELECT id, upper(note) AS note FROM staging.events")
    node = plan(tmp_path, {"sources/events.toml": EVENTS, "core/loud.sql": loud}).nodes["core.loud"]
    notes = [letter * MB for letter in "abcdefghijklmnopqrst"]
    whole = batch(notes)
    source = Source(
        name="events", topic="t", format="json", columns={"id": "bigint not null", "note": "varchar"}, max_record_bytes=16 * 1024 * 1024
    )
    rows = Stage(source).stage(whole).rows
    conform = Conform(node, Database(16 * MB))
    assert conform.conform(rows, whole).rows.column("note").to_pylist() == [note.upper() for note in notes]
    alone = batch(["x" * 15 * MB])
    too_much = Stage(source).stage(alone).rows
    with pytest.raises(TransformFailed, match="offsets 0 to 1") as raised:
        conform.conform(too_much, alone)
    assert "memory_limit" in raised.value.next_step


def test_rules_are_asked_in_parts_too() -> None:
    rules = {"quiet": {"check": "upper(note) <> repeat('X', 1000000)"}, "whole": {"check": "10 / id > 0", "on_failure": "warn"}}
    source = Source(name="events", topic="t", format="json", columns=COLUMNS, rules=rules)
    notes = ["x" * MB if number % 7 == 3 else "y" * MB for number in range(20)]
    staged = Stage(source, Database(16 * MB)).stage(batch(notes))
    assert staged.rejects.column("_offset").to_pylist() == [3, 10, 17]
