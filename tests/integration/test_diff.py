"""`kappa diff`, and the gates before a promotion: limits on what changes, and the warehouse's assertions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import kappa
from tests.warehouse import CORNER, EVENT, SLOT, TALLY, Warehouse, event, valid

pytestmark = pytest.mark.slow
EVENTS = 400


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def write(warehouse: Warehouse, table: str, sql: str) -> None:
    (warehouse.folder / f"{table.replace('.', '/')}.sql").write_text(sql)


def diff(warehouse: Warehouse, *arguments: str, status: int = 3) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(kappa(warehouse.folder, "diff", *arguments, "--json", status=status))
    return values


def rows(condition: Any = lambda row: True) -> int:
    staged = [row for number in range(1, EVENTS + 1) if (row := valid(event(number))) is not None]
    return sum(bool(condition(row)) for row in staged)


def test_the_same_definition_gives_the_same_rows(caught_up: Warehouse) -> None:
    """Of every kind of table, also while the live one has gone on."""
    kappa(caught_up.folder, "replay", "events", "--no-promote")
    caught_up.produce(EVENTS + 1, 50)
    kappa(caught_up.folder, "run", "--until-caught-up")
    tables = caught_up.catalogue()["tables"]
    assert len(tables) > 8
    for table in tables:
        found = diff(caught_up, table, status=0)
        assert found["equal"], found
        assert sum(found["positions"].values()) == EVENTS
        assert found["a"]["rows"] == found["b"]["rows"]


def test_what_differs_in_an_append_table(caught_up: Warehouse) -> None:
    write(
        caught_up,
        "core.event",
        EVENT.replace("upper(kind)", "CASE WHEN id % 2 = 0 THEN lower(kind) ELSE upper(kind) END").replace("% 5", "% 4"),
    )
    kappa(caught_up.folder, "apply", "--yes", "--no-promote")
    found = diff(caught_up, "core.event")
    assert not found["equal"]
    assert found["key"] == ["_partition", "_offset"]
    assert found["only_a"] == rows(lambda row: row["id"] % 5 and not row["id"] % 4)
    assert found["only_b"] == rows(lambda row: not row["id"] % 5 and row["id"] % 4)
    both = rows(lambda row: row["id"] % 5 and row["id"] % 4 and not row["id"] % 2)
    assert found["changed"] == both
    assert {column["name"]: column["changed"] for column in found["columns"]} == {"id": 0, "kind": both, "twice": 0, "_timestamp": 0}
    (ids,) = [column for column in found["columns"] if column["name"] == "id"]
    assert (ids["a"]["min"], ids["b"]["max"]) == (1, 399)
    sample = next(sample for sample in found["samples"] if sample["in"] == "both")
    assert sample["kind"][0] == sample["kind"][1].upper()
    said = kappa(caught_up.folder, "diff", "core.event", status=3)
    assert f"changed {both} (" in said
    assert "  kind: " in said


def test_what_differs_in_upsert_tables_and_summaries(caught_up: Warehouse) -> None:
    write(caught_up, "core.slot", SLOT.replace("id % 13 = 0", "id % 13 < 0"))  # nothing is deleted
    write(caught_up, "analytics.tally", TALLY.replace("sum(twice) AS total", "sum(twice) + 1 AS total, min(id) AS least"))
    kappa(caught_up.folder, "apply", "--yes", "--no-promote")
    found = diff(caught_up, "core.slot")
    assert found["key"] == ["slot", "kind"]
    assert found["only_a"] == 0
    assert found["only_b"] + found["changed"] > 0
    found = diff(caught_up, "analytics.tally")
    assert found["added"] == {"least": "bigint"}
    assert found["changed"] == found["a"]["rows"] == 7
    assert [column["name"] for column in found["columns"] if column["changed"]] == ["total"]
    found = diff(caught_up, "analytics.corner")
    assert found["key"] == ["kind", "corner"]
    write(
        caught_up,
        "analytics.corner",
        CORNER.replace("slot % 4 AS corner", "slot % 3 AS corner, slot % 2 AS side").replace(", corner\n", ", corner, side\n"),
    )
    kappa(caught_up.folder, "apply", "--yes", "--no-promote")
    assert "have other keys" in kappa(caught_up.folder, "diff", "analytics.corner", status=1)


def test_what_cannot_be_compared_is_named(caught_up: Warehouse) -> None:
    assert "has one generation" in kappa(caught_up.folder, "diff", "core.event", status=2)
    assert "no table core.x" in kappa(caught_up.folder, "diff", "core.x", status=2)
    assert "has no generation x" in kappa(caught_up.folder, "diff", "core.event", "x", status=2)


def test_limits_stop_a_promotion(caught_up: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = caught_up.folder / "warehouse.toml"
    settings.write_text(settings.read_text() + '[promotion]\nmax_changed_rows = "10%"\nmax_removed_rows = 0\n')
    before = caught_up.catalogue()
    write(caught_up, "core.event", EVENT.replace("upper", "lower"))
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "rows changed" in said
    assert "promotion.max_changed_rows allows 10%" in said
    write(caught_up, "core.event", EVENT.replace("% 5 <> 0", "% 5 > 1"))
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "rows removed" in said
    assert caught_up.catalogue() == before
    for limit in ("REMOVED", "CHANGED"):
        monkeypatch.setenv(f"KAPPA_PROMOTION__MAX_{limit}_ROWS", "100%")
    kappa(caught_up.folder, "promote")
    assert caught_up.catalogue() != before


def test_assertions_stop_a_promotion(caught_up: Warehouse) -> None:
    (caught_up.folder / "tests").mkdir()
    (caught_up.folder / "tests/kinds.sql").write_text("SELECT kind FROM core.event WHERE kind <> upper(kind)")
    (caught_up.folder / "tests/totals.sql").write_text(
        "SELECT * FROM (SELECT sum(events) AS n FROM analytics.tally) WHERE n <> (SELECT count(*) FROM core.event)"
    )
    before = caught_up.catalogue()
    write(caught_up, "core.event", EVENT.replace("upper", "lower"))
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "1 assertion of the warehouse failed" in said
    assert "tests/kinds.sql returned" in said
    assert caught_up.catalogue() == before
    (caught_up.folder / "tests/kinds.sql").write_text("SELECT kind FROM core.event WHERE kind <> lower(kind)")
    (caught_up.folder / "tests/wrong.sql").write_text("SELECT x FROM core.event")
    assert "tests/wrong.sql: " in kappa(caught_up.folder, "promote", status=1)
    (caught_up.folder / "tests/wrong.sql").unlink()
    assert "2 assertions of the warehouse passed" in kappa(caught_up.folder, "promote")
    assert caught_up.catalogue() != before
