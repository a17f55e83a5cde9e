"""`kappa generations | promote | rollback | drop-generation`: all of the old set or all of the new one, and always able to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sinks import Warehouse as Reader
from tests.inprocess import audit, kappa
from tests.warehouse import EVENT, SOURCE, Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
LOWER = EVENT.replace("upper(kind)", "lower(kind)")
CHILD = '/* kind = "append" */ SELECT id, kind AS name FROM core.event WHERE id % 2 = 0'
OF_EVENT = {"core.event", "core.event__rejected", "core.child", "core.child__rejected", "analytics.tally"}
SETTINGS = "[maintenance]\nretention_s = 0\nkeep_generations = 2\n"


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    (made.folder / "core/child.sql").write_text(CHILD)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def live(warehouse: Warehouse) -> dict[str, str]:
    return {table: entry["generation"] for table, entry in warehouse.catalogue()["tables"].items()}


def change(warehouse: Warehouse, sql: str) -> None:
    (warehouse.folder / "core/event.sql").write_text(sql)


def kinds(warehouse: Warehouse) -> set[str]:
    return {row["kind"][0] for row in warehouse.rows("core.event")} | {row["name"][0] for row in warehouse.rows("core.child")}


def states(warehouse: Warehouse, table: str) -> list[str]:
    listed: dict[str, Any] = json.loads(kappa(warehouse.folder, "generations", table, "--json"))
    return [each["state"] for each in listed["generations"]]


def test_what_was_built_beside_is_promoted(caught_up: Warehouse) -> None:
    change(caught_up, LOWER)
    before = caught_up.catalogue()
    assert "nothing can be promoted" in kappa(caught_up.folder, "promote", status=1)
    said = kappa(caught_up.folder, "apply", "--yes", "--no-promote")
    assert "nobody reads until kappa promote" in said
    assert caught_up.catalogue() == before
    assert states(caught_up, "core.event") == ["live", "built"]
    caught_up.produce(EVENTS + 1, 50)
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert kinds(caught_up) == {"K"}
    with Reader.open(caught_up.folder) as begun:
        counted = begun.sql("SELECT count(*) FILTER (kind = upper(kind)) AS n FROM core.event").arrow
        kappa(caught_up.folder, "promote")
        assert counted().to_pylist() == [{"n": len(caught_up.rows("core.event"))}], "a query that began on the old set ends on it"
    assert kinds(caught_up) == {"k"}
    assert states(caught_up, "core.event") == ["old", "live"]
    assert "nothing can be promoted" in kappa(caught_up.folder, "promote", status=1)
    assert not audit(caught_up.folder, "--full")
    kappa(caught_up.folder, "replay", "core.child", "--no-promote")
    assert states(caught_up, "core.child") == ["old", "live", "built"]
    kappa(caught_up.folder, "promote")
    assert states(caught_up, "core.child") == ["old", "old", "live"]
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert not audit(caught_up.folder, "--full")


def test_all_goes_back_and_forward(caught_up: Warehouse) -> None:
    before, text = caught_up.catalogue(), (caught_up.folder / "analytics/by_kind.sql").read_text()
    assert "nothing to go back to" in kappa(caught_up.folder, "rollback", "--all", status=1)
    change(caught_up, LOWER.replace("amount * 2 AS twice", "amount * 3 AS thrice"))
    tally = '/* kind = "summary" */ SELECT kind, sum(thrice) AS total FROM core.event GROUP BY kind'
    (caught_up.folder / "analytics/tally.sql").write_text(tally)
    (caught_up.folder / "analytics/by_kind.sql").write_text(text.replace("twice", "thrice"))
    (caught_up.folder / "core/tag.sql").rename(caught_up.folder / "core/label.sql")
    kappa(caught_up.folder, "apply", "--yes")
    after = caught_up.catalogue()
    caught_up.produce(EVENTS + 1, 50)
    kappa(caught_up.folder, "run", "--until-caught-up")
    said = kappa(caught_up.folder, "rollback", "--all", "--dry-run")
    assert "50 offsets behind" in said
    assert "dry run" in said
    assert caught_up.catalogue() == after
    kappa(caught_up.folder, "rollback", "--all")
    added = {name: after["tables"][name] for name in ("core.label", "core.label__rejected")}
    assert caught_up.catalogue()["tables"] == {**before["tables"], **added}
    assert caught_up.catalogue()["views"] == before["views"]
    assert kinds(caught_up) == {"K"}
    said = kappa(caught_up.folder, "run", "--until-caught-up")
    assert "the folder defines core.event, core.child, analytics.tally otherwise" in said
    assert not audit(caught_up.folder, "--full")
    positions = {name: table["positions"] for name, table in listed(caught_up).items()}
    assert all(each == positions["raw.events"] for each in positions.values()), "the old generations have caught up"
    kappa(caught_up.folder, "promote")
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert {name: entry["generation"] for name, entry in after["tables"].items()} == live(caught_up)
    assert caught_up.catalogue()["views"] == after["views"]
    assert kinds(caught_up) == {"k"}
    assert not audit(caught_up.folder, "--full")


def listed(warehouse: Warehouse) -> dict[str, Any]:
    return {table["name"]: table for table in json.loads(kappa(warehouse.folder, "tables", "--json"))["tables"]}


def test_a_table_goes_back_with_what_derives_from_it(caught_up: Warehouse) -> None:
    before = live(caught_up)
    change(caught_up, LOWER)
    (caught_up.folder / "core/tag.sql").write_text('/* kind = "append" */ SELECT id, unnest(tags) AS label FROM staging.events')
    kappa(caught_up.folder, "apply", "--yes")
    after = live(caught_up)
    answer = json.loads(kappa(caught_up.folder, "rollback", "core.event", "--json"))
    assert {each["table"] for each in answer["tables"]} == OF_EVENT
    assert live(caught_up) == {**after, **{name: before[name] for name in OF_EVENT}}
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert kinds(caught_up) == {"K"}
    assert not audit(caught_up.folder, "--full")


def test_a_table_goes_back_with_the_contract_that_it_needs(caught_up: Warehouse) -> None:
    before = live(caught_up)
    source = SOURCE.format(topic=caught_up.topic, partitions=2)
    (caught_up.folder / "sources/events.toml").write_text(source.replace('kind = "varchar"', 'kind = "varchar"\nnote = "varchar"'))
    kappa(caught_up.folder, "apply", "--yes")
    kappa(caught_up.folder, "rollback", "core.child")
    assert live(caught_up) == before
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert not audit(caught_up.folder, "--full")


def test_generations_are_dropped(caught_up: Warehouse) -> None:
    first = live(caught_up)
    change(caught_up, LOWER)
    kappa(caught_up.folder, "apply", "--yes")
    second = live(caught_up)
    said = kappa(caught_up.folder, "drop-generation", "core.event", second["core.event"], "--yes", status=2)
    assert "it is live" in said
    assert f"dropped {first['core.event']}" in kappa(caught_up.folder, "drop-generation", "core.event", "--yes")
    assert not (caught_up.folder / "data/core/event" / first["core.event"]).exists()
    assert states(caught_up, "core.event") == ["dropped", "live"]
    assert "could be dropped" in kappa(caught_up.folder, "drop-generation", "core.event", "--yes")
    said = kappa(caught_up.folder, "rollback", "--all", status=1)
    assert f"generation {first['core.event']} of core.event was dropped" in said
    assert live(caught_up) == second
    change(caught_up, EVENT)  # the definition of the dropped one
    kappa(caught_up.folder, "apply", "--yes")
    assert live(caught_up)["core.event"] == first["core.event"].replace("-1", "-3")
    assert not audit(caught_up.folder, "--full")
    assert "has no generation x" in kappa(caught_up.folder, "drop-generation", "core.event", "x", status=2)
    assert "no table core.x" in kappa(caught_up.folder, "generations", "core.x", status=2)


def test_old_generations_go_by_themselves(caught_up: Warehouse) -> None:
    settings = caught_up.folder / "warehouse.toml"
    settings.write_text(settings.read_text() + SETTINGS)
    for n, sql in enumerate((LOWER, EVENT, LOWER), start=2):
        change(caught_up, sql)
        said = kappa(caught_up.folder, "apply", "--yes")
        assert ("dropped generation" in said) == (n > 2)
    assert states(caught_up, "core.event") == ["dropped", "dropped", "old", "live"]
    assert states(caught_up, "core.tag") == ["live"]
    kappa(caught_up.folder, "rollback", "--all")
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert kinds(caught_up) == {"K"}
    assert not audit(caught_up.folder, "--full")
