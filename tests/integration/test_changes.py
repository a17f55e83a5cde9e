"""`kappa plan` and `kappa apply`: what differs, what it costs, and that the plan that was seen is the plan that is applied."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.inprocess import audit, kappa, wait_until
from tests.warehouse import EVENT, SOURCE, Warehouse, at_work

pytestmark = pytest.mark.slow
EVENTS = 300


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def plan(warehouse: Warehouse, *options: str, status: int = 3) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(kappa(warehouse.folder, "plan", "--json", *options, status=status))
    return values


def statuses(made: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["status"] for each in made["tables"] if each["status"] != "unchanged"}


def contract(warehouse: Warehouse, *changes: tuple[str, str]) -> None:
    text = SOURCE.format(topic=warehouse.topic, partitions=2)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (warehouse.folder / "sources/events.toml").write_text(text)


def test_nothing_to_do(caught_up: Warehouse) -> None:
    assert plan(caught_up, status=0)["changes"] == 0
    assert "0 to change, 8 unchanged" in kappa(caught_up.folder, "plan")
    assert "nothing to do" in kappa(caught_up.folder, "apply", "--yes")


def test_comments_and_rules_that_warn_are_no_changes(caught_up: Warehouse) -> None:
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("SELECT", "-- ids that five does not divide\nSELECT\n   "))
    contract(caught_up, ("[rules.small]", '[rules.even]\ncheck = "id % 2 = 0"\non_failure = "warn"\n[rules.small]'))
    assert statuses(plan(caught_up, status=0)) == {"staging.events": "metadata", "core.event": "metadata"}
    assert "core.event: other comments" in kappa(caught_up.folder, "plan")


def test_each_kind_of_change_is_named(caught_up: Warehouse) -> None:
    contract(caught_up, ('kind = "varchar"', 'kind = "varchar"\nnote = "varchar"'), ("amount < 1000000", "amount < 5000"))
    (caught_up.folder / "core/tag.sql").unlink()
    (caught_up.folder / "core/late.sql").write_text('/* kind = "append" */ SELECT id FROM staging.events')
    (caught_up.folder / "analytics/by_kind.sql").write_text('/* kind = "view" */ SELECT id FROM core.late')
    made = plan(caught_up)
    changes = {each["name"]: each for each in made["tables"]}
    assert changes["staging.events"]["differences"] == [
        "column note added: varchar",
        "rule small: (amount < 1000000) (reject) -> (amount < 5000) (reject)",
    ]
    assert changes["core.event"]["follows"] == "staging.events"
    assert changes["analytics.tally"]["follows"] == "core.event"
    assert {name: changes[name]["status"] for name in ("core.tag", "core.late", "analytics.by_kind", "raw.events")} == {
        "core.tag": "removed",
        "core.late": "new",
        "analytics.by_kind": "changed",
        "raw.events": "unchanged",
    }
    (reads,) = made["reads"]
    assert (reads["from"], reads["records"]) == ("kafka", EVENTS)
    assert 30 * EVENTS < reads["bytes"] < 300 * EVENTS
    assert reads["disk_bytes"] is None, "nothing is known of a new table"
    said = kappa(caught_up.folder, "plan", status=3)
    assert "follows staging.events" in said
    assert '    +note = "varchar"' in said
    assert re.search(r"^core.tag +append, removed$", said, re.MULTILINE)
    assert said.endswith("next: kappa apply\n")
    kappa(caught_up.folder, "apply", "--yes")
    assert plan(caught_up, status=0)["changes"] == 0
    assert not audit(caught_up.folder, "--full")


def test_the_plan_that_was_seen_is_the_plan_that_is_applied(caught_up: Warehouse, tmp_path: Path) -> None:
    file = tmp_path / "change.json"
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("upper", "lower"))
    assert f"next: kappa apply {file}" in kappa(caught_up.folder, "plan", "-o", str(file), status=3)
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("amount * 2", "amount * 3"))
    before = caught_up.catalogue()
    said = kappa(caught_up.folder, "apply", str(file), status=1)
    assert "since it was made, these have moved: core.event" in said
    assert caught_up.catalogue() == before
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("upper", "lower"))
    kappa(caught_up.folder, "replay", "core.event")
    said = kappa(caught_up.folder, "apply", str(file), status=1)
    assert f"core.event (changed, live {before['tables']['core.event']['generation']}; now changed, live " in said
    kappa(caught_up.folder, "plan", "-o", str(file), status=3)
    kappa(caught_up.folder, "apply", str(file))
    assert plan(caught_up, status=0)["changes"] == 0
    file.write_text("{}")
    assert "is not a plan" in kappa(caught_up.folder, "apply", str(file), status=2)


def test_what_retention_took_is_read_from_the_raw_table_or_named(caught_up: Warehouse, kafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    place = TopicPartition(caught_up.topic, 0, 40)
    admin.delete_records([place])[place].result(30)
    caught_up.produce(EVENTS + 1, 50)
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("upper", "lower"))
    made = plan(caught_up)
    assert not made["warnings"]
    assert [(reads["from"], reads["records"]) for reads in made["reads"]] == [("archive", EVENTS // 2), ("kafka", EVENTS // 2 + 50)]
    before = caught_up.catalogue()
    for path in (caught_up.folder / "data/_kappa/definitions/raw.events").glob("*.json"):
        path.rename(path.with_suffix(".hidden"))
    contract(caught_up, ('topic = "', 'raw = false\ntopic = "'))
    (warning,) = plan(caught_up)["warnings"]
    assert f"{caught_up.topic}/0/0..40 is no longer in Kafka, nor in a raw table, and is in the live core.event" in warning
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "would lose records" in said
    assert "--accept-lost" in said
    assert caught_up.catalogue() == before
    kappa(caught_up.folder, "apply", "--yes", "--accept-lost")
    assert len(caught_up.rows("core.event")) < EVENTS - 40


def test_a_second_apply_at_the_same_time_is_refused(caught_up: Warehouse) -> None:
    """Also while the first does not move; once it is dead, the second goes on with what it built."""
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("upper", "lower"))
    with at_work(caught_up.start("apply", "--yes")) as first:
        wait_until(lambda: len(builds(caught_up)) == 1 or first.poll() is not None)
        first.send_signal(signal.SIGSTOP)
        said = kappa(caught_up.folder, "apply", "--yes", status=1)
        assert "is being built already" in said
        assert f"process {first.pid}" in said
    kappa(caught_up.folder, "apply", "--yes")
    assert len(list((caught_up.folder / "data/core/event").iterdir())) == 2
    assert {row["kind"][0] for row in caught_up.rows("core.event")} == {"k"}


def builds(warehouse: Warehouse) -> list[Path]:
    """The generations of core.event beside the live one that have been claimed."""
    live = warehouse.folder / "data" / warehouse.catalogue()["tables"]["core.event"]["path"]
    return [path for path in live.parent.iterdir() if path != live and len(list((path / "_delta_log").glob("*.json"))) > 1]
