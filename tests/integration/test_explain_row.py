"""`kappa explain-row`: from a row of each kind of table back to the events, from the raw table or from Kafka."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.inprocess import kappa
from tests.integration.test_rejects import edit, export, mend, resend, sales
from tests.unit.test_cli_listings import example, same_shape
from tests.warehouse import Warehouse, event

__all__ = ["sales"]
pytestmark = pytest.mark.slow
EVENTS = 200


@pytest.fixture
def caught_up(request: pytest.FixtureRequest, kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    if getattr(request, "param", None) == "raw off":
        source = made.folder / "sources/events.toml"
        source.write_text("raw = false\n" + source.read_text())
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def explain(warehouse: Warehouse, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kappa(warehouse.folder, "explain-row", *arguments, "--json"))
    return found


def values(found: dict[str, Any]) -> list[str]:
    return [record["event"]["value"] for record in found["records"]]


def offset_of(number: int) -> tuple[str, str]:
    """Ids go to the partitions in turn."""
    return str(number % 2), str((number - 1) // 2 if number % 2 else number // 2 - 1)


@pytest.mark.parametrize("caught_up", ["raw on", "raw off"], indirect=True)
def test_rows_that_stay_are_of_one_event(caught_up: Warehouse, request: pytest.FixtureRequest) -> None:
    origin = "raw" if (caught_up.folder / "data/raw").exists() else "kafka"
    found = explain(caught_up, "core.event", *offset_of(7))
    same_shape(example("kappa explain-row --json"), found)
    (record,) = found["records"]
    assert found["chain"] == ["core.event", "staging.events", f"topic {caught_up.topic}"]
    assert (record["part"], record["from"], record["event"]["value"]) == ("row", origin, event(7).decode())
    assert record["event"]["key"] == "7"
    assert found["row"]["id"] == "7"
    assert values(explain(caught_up, "staging.events", "id=8")) == [event(8).decode()]
    found = explain(caught_up, "core.tag", *offset_of(11))
    assert [record["row"]["tag"] for record in found["records"]] == ["t0", "t1"]
    assert values(found) == [event(11).decode()] * 2
    assert values(explain(caught_up, "core.tag", *offset_of(11), "1")) == [event(11).decode()]
    assert values(explain(caught_up, "staging.events__rejected", *offset_of(97))) == [event(97).decode()]
    assert values(explain(caught_up, "staging.events__rejected", "rule=small")) == [event(178).decode(), event(89).decode()]
    said = kappa(caught_up.folder, "explain-row", "core.event", *offset_of(7))
    assert f"{caught_up.topic}/1/3  gave the row" in said
    assert event(7).decode() in said


def test_an_upsert_row_has_the_events_of_its_key(caught_up: Warehouse) -> None:
    live = next(row for row in caught_up.rows("core.slot") if not row["_deleted"])
    ids = [n for n in range(1, EVENTS + 1) if n % 20 == live["slot"] and f"k{n % 7}" == live["kind"] and n % 97 and n % 89]
    found = explain(caught_up, "core.slot", str(live["slot"]), live["kind"])
    assert sorted(values(found)) == sorted(event(n).decode() for n in ids)
    parts = [record["part"] for record in found["records"]]
    assert parts[0] == "row"
    assert parts.count("row") == 1
    assert found["row"]["id"] == str(live["id"])
    assert found["total"] == len(ids)
    dead = next(row for row in caught_up.rows("core.slot") if row["_deleted"])
    found = explain(caught_up, "core.slot", f"kind={dead['kind']}", f"slot={dead['slot']}")
    assert found["row"] is None
    assert found["records"][0]["part"] == "delete"
    assert "deleted the key" in kappa(caught_up.folder, "explain-row", "core.slot", str(dead["slot"]), dead["kind"])


@pytest.mark.parametrize(("table", "caught_up"), [("analytics.tally", "raw on"), ("analytics.corner", "raw off")], indirect=["caught_up"])
def test_a_group_has_the_events_that_count_in_it(caught_up: Warehouse, table: str) -> None:
    group = caught_up.rows(table)[0]
    key = [group["kind"]] if table == "analytics.tally" else [group["kind"], str(group["corner"])]
    found = explain(caught_up, table, *key, "--limit", "1000")
    counted = group["events"] if table == "analytics.tally" else group["slots"]
    assert found["total"] == len(found["records"]) == counted
    ids = [json.loads(value)["id"] for value in values(found)]
    assert sum(ids) == group["ids"] if table == "analytics.corner" else sum(ids) / len(ids) == group["mean"]
    first = explain(caught_up, table, *key, "--limit", "2")
    assert (first["total"], first["records"]) == (counted, found["records"][:2])
    assert f"more of {counted}" in kappa(caught_up.folder, "explain-row", table, *key, "--limit", "1")


def test_a_null_group_is_named(caught_up: Warehouse) -> None:
    producer = Producer({"bootstrap.servers": caught_up.bootstrap})
    producer.produce(caught_up.topic, b'{"id": 1001, "kind": null, "amount": 1, "tags": null}', partition=0)
    assert producer.flush(60) == 0
    kappa(caught_up.folder, "run", "--until-caught-up")
    found = explain(caught_up, "analytics.tally", "NULL")
    assert [json.loads(value)["id"] for value in values(found)] == [1001]
    assert "has no row kind = NULL" in kappa(caught_up.folder, "explain-row", "analytics.tally", "'NULL'", status=2)


@pytest.mark.parametrize("caught_up", ["raw off"], indirect=True)
def test_an_event_that_is_nowhere_is_named(caught_up: Warehouse) -> None:
    admin = AdminClient({"bootstrap.servers": caught_up.bootstrap})
    place = TopicPartition(caught_up.topic, 1, 20)
    admin.delete_records([place])[place].result(30)
    (record,) = explain(caught_up, "core.event", *offset_of(7))["records"]
    assert (record["from"], record["event"]) == (None, None)
    assert record["missing"] == "no raw table holds it, and the topic no longer does"
    assert "missing: no raw table holds it" in kappa(caught_up.folder, "explain-row", "core.event", *offset_of(7))


def test_a_corrected_row_has_the_rejected_record_too(sales: Warehouse) -> None:
    file = export(sales)
    edit(file, mend)
    resend(sales, file)
    kappa(sales.folder, "run", "--until-caught-up")
    found = explain(sales, "core.sale", "id=5")
    assert [record["part"] for record in found["records"]] == ["row", "corrected"]
    assert '"twelve"' in found["records"][1]["event"]["value"]
    assert '"twelve"' not in found["records"][0]["event"]["value"]
    rejected = explain(sales, "staging.sales__rejected", *found["records"][1]["position"].split("/")[1:])
    assert [(record["position"], record["part"]) for record in rejected["records"]] == [
        (found["records"][1]["position"], "row"),
        (found["records"][0]["position"], "correction"),
    ]


def test_what_cannot_be_explained_says_why(caught_up: Warehouse) -> None:
    (caught_up.folder / "analytics/best.sql").write_text('/* kind = "materialized" */ SELECT max(total) AS best FROM analytics.tally')
    kappa(caught_up.folder, "run", "--until-caught-up")
    for arguments, said in (
        (("core.evnt", "1"), "did you mean core.event"),
        (("analytics.by_kind", "K1"), "each row is of a query, which reads core.event\n  next:  kappa explain-row core.event KEY"),
        (("analytics.best", "best=1"), "each row is of a whole query, which reads analytics.tally"),
        (("core.slot", "1"), "its key has 2: slot, kind"),
        (("core.slot", "1", "nobody"), "core.slot has no row slot = 1, kind = nobody"),
        (("core.event", "0", "99999"), "core.event has no row _partition = 0, _offset = 99999"),
        (("core.event", "zero", "1"), "'zero' is no value of _partition"),
    ):
        assert said in kappa(caught_up.folder, "explain-row", *arguments, status=2), arguments
