"""`kappa apply --forward-only`: rows stay what they are, the change holds from a position on, and a replay makes the same rows again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from tests.inprocess import Running, audit, kappa, wait_until
from tests.warehouse import EVENT, SLOT, SOURCE, TAG, Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
TABLES = ("staging.events", "core.event", "core.tag", "core.slot")
MADE = """/*
kind = "materialized"
key = ["note"]
*/
SELECT note, count(*) AS slots FROM core.slot GROUP BY note
"""


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Caught up with events that have a note, of which no definition knows."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    produce(made, 1)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def produce(warehouse: Warehouse, first: int) -> None:
    """EVENTS events; every 50th has no id, which the contract wants."""
    producer = Producer({"bootstrap.servers": warehouse.bootstrap})
    for number in range(first, first + EVENTS):
        values: dict[str, Any] = {"id": number, "kind": f"k{number % 7}", "amount": number % 1000, "tags": ["a"] * (number % 3)}
        values |= {"note": f"n{number}", "more": number} | ({"id": None} if number % 50 == 0 else {})
        producer.produce(warehouse.topic, json.dumps(values), partition=number % 2)
    assert producer.flush(60) == 0


def contract(warehouse: Warehouse, columns: str) -> None:
    text = SOURCE.format(topic=warehouse.topic, partitions=2)
    (warehouse.folder / "sources/events.toml").write_text(text.replace('kind = "varchar"', f'kind = "varchar"\n{columns}'))


def add_note(warehouse: Warehouse) -> None:
    """In the middle of the contract and of a SELECT: a place changes nothing."""
    contract(warehouse, 'note = "varchar"')
    (warehouse.folder / "core/event.sql").write_text(EVENT.replace("SELECT id,", "SELECT id, note,"))
    (warehouse.folder / "core/slot.sql").write_text(SLOT.replace("kind, id", "kind, id, note"))


def notes(warehouse: Warehouse, table: str, column: str = "note") -> dict[int, Any]:
    """id -> note; ids of deleted slots are null."""
    return {row["id"]: row[column] for row in warehouse.rows(table) if row["id"] is not None}


def equal_after_replay(warehouse: Warehouse) -> None:
    """Every row of every table, made once more from the log."""
    kappa(warehouse.folder, "replay", "events")
    before = {}
    for each in json.loads(kappa(warehouse.folder, "generations", "--json"))["generations"]:
        if each["state"] == "old":
            before[each["table"]] = each["generation"]
    live = warehouse.catalogue()["tables"]
    for table in (*TABLES, "staging.events__rejected", "analytics.corner", "analytics.tally"):
        made = json.loads(kappa(warehouse.folder, "diff", table, before[table], live[table]["generation"], "--json"))
        assert made["equal"], (table, made)
    assert not audit(warehouse.folder, "--full")


def test_rows_stay_and_new_ones_have_the_column(warehouse: Warehouse) -> None:
    add_note(warehouse)
    (warehouse.folder / "analytics/note.sql").write_text(MADE)
    old = warehouse.catalogue()["tables"]
    plan = json.loads(kappa(warehouse.folder, "plan", "--json", "--forward-only", status=3))
    assert {name for name in plan["kept"] if not name.endswith("__rejected")} == {*TABLES}
    assert {tuple(reads["tables"]) for reads in plan["reads"]} >= {("analytics.corner",), ("analytics.tally",)}, (
        "nothing is read from Kafka"
    )
    said = kappa(warehouse.folder, "apply", "--yes", "--forward-only")
    assert "core.slot keeps the " in said
    live = warehouse.catalogue()["tables"]
    for table in TABLES:
        paths = [warehouse.folder / "data" / each[table]["path"] for each in (old, live)]
        inodes = [{file.stat().st_ino for file in path.rglob("*.parquet") if "_delta_log" not in file.parts} for path in paths]
        assert inodes[1] <= inodes[0], f"{table} was written anew"
        assert live[table]["forward"]
    assert set(notes(warehouse, "staging.events").values()) == {None}
    produce(warehouse, EVENTS + 1)
    kappa(warehouse.folder, "run", "--until-caught-up")
    for table in ("staging.events", "core.event", "core.slot"):
        assert all(note == (f"n{number}" if number > EVENTS else None) for number, note in notes(warehouse, table).items()), table
    assert json.loads(kappa(warehouse.folder, "query", "SELECT sum(slots) AS n FROM analytics.note", "--format", "json"))
    assert not audit(warehouse.folder, "--full")
    rows = {table: warehouse.rows(table) for table in TABLES}
    kappa(warehouse.folder, "maintain", "--take-over", "events")
    kappa(warehouse.folder, "replay", "core.event", "--from", "40", "--to", "250", "--take-over")
    assert {table: warehouse.rows(table) for table in TABLES} == rows, "files without the column are rewritten"
    equal_after_replay(warehouse)
    assert json.loads(kappa(warehouse.folder, "plan", "--json"))["changes"] == 0


def test_changes_on_top_of_one(warehouse: Warehouse) -> None:
    """A second one; one that builds a table anew over rows that stayed; back, and forward again."""
    add_note(warehouse)
    kappa(warehouse.folder, "apply", "--yes", "--forward-only")
    produce(warehouse, EVENTS + 1)
    kappa(warehouse.folder, "run", "--until-caught-up")
    (warehouse.folder / "core/event.sql").write_text(EVENT.replace("SELECT id, upper", "SELECT id, note, lower"))
    kappa(warehouse.folder, "apply", "--yes")
    assert notes(warehouse, "core.event")[1] is None, "staging has no note there"
    assert notes(warehouse, "core.event")[EVENTS + 1] == f"n{EVENTS + 1}"
    assert {row["kind"][0] for row in warehouse.rows("core.event")} == {"k"}
    contract(warehouse, 'note = "varchar"\nmore = "bigint"')
    kappa(warehouse.folder, "apply", "--yes", "--forward-only")
    produce(warehouse, 2 * EVENTS + 1)
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert {number for number, more in notes(warehouse, "staging.events", "more").items() if more is not None} == {
        number for number in range(2 * EVENTS + 1, 3 * EVENTS + 1) if number % 50
    }
    equal_after_replay(warehouse)
    rows = {table: warehouse.rows(table) for table in TABLES}
    kappa(warehouse.folder, "rollback", "--all")
    kappa(warehouse.folder, "rollback", "--all")
    produce(warehouse, 3 * EVENTS + 1)
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert "more" not in warehouse.rows("staging.events")[0]
    kappa(warehouse.folder, "promote")
    assert all(row in warehouse.rows("staging.events") for row in rows["staging.events"][::50])
    equal_after_replay(warehouse)


def test_a_run_goes_on_beside_it(warehouse: Warehouse) -> None:
    with Running(warehouse.folder) as run:
        wait_until(run.is_reading)
        add_note(warehouse)
        produce(warehouse, EVENTS + 1)
        kappa(warehouse.folder, "apply", "--yes", "--forward-only")
        produce(warehouse, 2 * EVENTS + 1)
        wait_until(lambda: len(warehouse.rows("raw.events")) == 3 * EVENTS)
    kappa(warehouse.folder, "run", "--until-caught-up")
    until = definition(warehouse, "core.slot")["before"][0]["until"]
    for row in warehouse.rows("staging.events"):
        assert (row["note"] is not None) == (row["_offset"] >= until[str(row["_partition"])]), row
    equal_after_replay(warehouse)


def definition(warehouse: Warehouse, table: str) -> dict[str, Any]:
    generation = warehouse.catalogue()["tables"][table]["generation"]
    content: dict[str, Any] = json.loads((warehouse.folder / f"data/_kappa/definitions/{table}/{generation}.json").read_text())
    return content


def test_explain_row_knows_what_the_row_was_made_by(warehouse: Warehouse) -> None:
    add_note(warehouse)
    kappa(warehouse.folder, "apply", "--yes", "--forward-only")
    (row,) = [row for row in warehouse.rows("core.slot") if (row["slot"], row["kind"]) == (1, "k1")]
    made = json.loads(kappa(warehouse.folder, "explain-row", "core.slot", "1", "k1", "--json"))
    assert row["note"] is None
    assert {record["row"]["note"] for record in made["records"]} == {None}


@pytest.mark.parametrize(
    ("columns", "table", "sql", "cause"),
    [
        ('note = "varchar not null"', "event", EVENT, "column note is not null, and would be null in the rows so far"),
        ("", "tag", TAG.replace("id, unnest", "unnest"), "column id is dropped"),
        ("", "event", EVENT.replace("amount * 2", "CAST(amount AS double)"), "column twice is another: decimal("),
        (
            "",
            "event",
            EVENT.replace('/* kind = "append" */', '/*\nkind = "append"\npartition_by = ["kind"]\n*/'),
            "partition_by: () -> (kind)",
        ),
        (
            "",
            "tag",
            TAG.replace("unnest(tags) AS", "kind AS").replace("staging.events", "core.event"),
            "it reads core.event, and read staging",
        ),
        ("", "slot", SLOT.replace('["slot", "kind"]', '["slot"]'), "key: (slot, kind) -> (slot)"),
    ],
)
def test_what_cannot_hold_from_now_on_is_refused(warehouse: Warehouse, columns: str, table: str, sql: str, cause: str) -> None:
    contract(warehouse, columns)
    (warehouse.folder / f"core/{table}.sql").write_text(sql)
    before = warehouse.catalogue()
    for command in (("plan", "--forward-only"), ("apply", "--forward-only", "--yes")):
        said = kappa(warehouse.folder, *command, status=2)
        assert "cannot be changed from now on only" in said
        assert cause in said
        assert "kappa apply, without --forward-only" in said
    assert warehouse.catalogue() == before


def test_the_plan_says_whether_rows_are_kept(warehouse: Warehouse, tmp_path: Path) -> None:
    add_note(warehouse)
    file = tmp_path / "plan.json"
    kappa(warehouse.folder, "plan", "-o", str(file), status=3)
    assert "what keeps its rows (nothing; now " in kappa(warehouse.folder, "apply", str(file), "--forward-only", status=1)
    said = kappa(warehouse.folder, "plan", "-o", str(file), "--forward-only", status=3)
    assert "keep the rows they have, with null in new columns; the change holds from now on" in said
    kappa(warehouse.folder, "apply", str(file))
    assert set(notes(warehouse, "core.event").values()) == {None}


@pytest.mark.parametrize("point", ["before-adopt:1", "before-adopt:5", "before-promote:1"])
def test_killed_it_goes_on_with_what_is_built(warehouse: Warehouse, point: str) -> None:
    """With the positions that it had: what came meanwhile is behind them."""
    add_note(warehouse)
    before = warehouse.catalogue()
    assert warehouse.kappa("apply", "--yes", "--forward-only", status=None, KAPPA_FAULT=point).returncode == -9
    assert warehouse.catalogue() == before
    produce(warehouse, EVENTS + 1)
    kappa(warehouse.folder, "run", "--until-caught-up")
    kappa(warehouse.folder, "apply", "--yes", "--forward-only")
    folders = [path for path in (warehouse.folder / "data/core/slot").iterdir() if path.is_dir()]
    assert len(folders) == 2, "what was begun is gone on with"
    for table in ("staging.events", "core.event", "core.slot"):
        assert all(note == (f"n{number}" if number > EVENTS else None) for number, note in notes(warehouse, table).items()), table
    equal_after_replay(warehouse)
