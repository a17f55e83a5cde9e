"""Kind materialized: any SQL over tables and views, made anew at one cut when that has moved; part of apply, rollback and replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sinks import Warehouse as Reader
from tests.inprocess import Running, audit, kappa, wait_until
from tests.warehouse import EVENT, Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
SQL = """
SELECT e.kind, count(DISTINCT e.id % 10) AS digits, quantile_disc(e.twice, 0.5) AS middle, max(v.total) AS total, avg(e.twice) AS mean,
  sum(e.id) AS ids
FROM core.event AS e JOIN analytics.by_kind AS v USING (kind) LEFT JOIN core.slot AS s ON s.id = e.id
GROUP BY e.kind
"""
PORTRAIT = f'/*\nkind = "materialized"\nkey = ["kind"]\nrefresh_interval_s = 0.2\n*/{SQL}'
RANK_SQL = "SELECT kind, rank() OVER (ORDER BY ids DESC, kind) AS place FROM analytics.portrait"
RANK = f'/* kind = "materialized" */ {RANK_SQL}'


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name)
    (made.folder / "analytics/portrait.sql").write_text(PORTRAIT)
    (made.folder / "analytics/ranking.sql").write_text(RANK)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def check(warehouse: Warehouse) -> list[dict[str, Any]]:
    """Each is what its SQL gives over the tables that it reads."""
    with Reader.open(warehouse.folder) as reader:
        rows: list[dict[str, Any]] = reader.sql("FROM analytics.portrait ORDER BY kind").arrow().to_pylist()
        assert rows == reader.sql(f"{SQL} ORDER BY kind").arrow().to_pylist()
        assert reader.sql("FROM analytics.ranking ORDER BY ALL").arrow() == reader.sql(f"{RANK_SQL} ORDER BY ALL").arrow()
        assert reader.warnings == []
    return rows


def versions(warehouse: Warehouse, table: str = "analytics.portrait") -> int:
    return warehouse.delta(warehouse.catalogue()["tables"][table]["path"]).version()


def test_it_is_made_by_a_run_and_again_when_what_it_reads_has_moved(caught_up: Warehouse) -> None:
    first = check(caught_up)
    assert len(first) == 7
    before = versions(caught_up), versions(caught_up, "analytics.ranking")
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert (versions(caught_up), versions(caught_up, "analytics.ranking")) == before, "nothing moved: nothing is written, not even a claim"
    caught_up.produce(EVENTS + 1, EVENTS)
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert check(caught_up) != first
    assert not audit(caught_up.folder, "--full")
    shown = json.loads(kappa(caught_up.folder, "show", "analytics.portrait", "--json"))
    assert shown["kind"] == "materialized"
    assert shown["reads"] == ["analytics.by_kind", "core.event", "core.slot"]
    assert shown["read_by"] == ["analytics.ranking"]


def test_a_run_refreshes_it_while_the_streams_go_on(caught_up: Warehouse) -> None:
    before = check(caught_up)

    def ids() -> int:
        with Reader.open(caught_up.folder) as reader:
            found: int = reader.sql("SELECT CAST(sum(ids) AS bigint) AS n FROM analytics.portrait").arrow().to_pylist()[0]["n"]
        return found

    with Running(caught_up.folder) as running:
        wait_until(running.is_reading)
        caught_up.produce(EVENTS + 1, 50)
        wait_until(lambda: ids() > sum(row["ids"] for row in before))
    assert not audit(caught_up.folder, "--full")


def test_a_change_upstream_swaps_it_with_all_the_others_and_back(caught_up: Warehouse) -> None:
    first = check(caught_up)
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("amount * 2 AS twice", "amount * 3 AS twice").replace("% 5", "% 7"))
    plan = json.loads(kappa(caught_up.folder, "plan", "--json", status=3))
    found = {table["name"]: table for table in plan["tables"]}
    assert found["analytics.portrait"]["status"] == found["analytics.ranking"]["status"] == "changed"
    assert found["analytics.portrait"]["follows"] == "core.event"
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert check(caught_up) == first, "it waits with what it reads"
    kappa(caught_up.folder, "apply", "--yes")
    second = check(caught_up)
    assert second != first
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert check(caught_up) == second
    assert kappa(caught_up.folder, "diff", "analytics.portrait", *generations(caught_up), status=3)
    kappa(caught_up.folder, "rollback", "core.event")
    assert check(caught_up) == first
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert check(caught_up) == first
    assert not audit(caught_up.folder)
    kappa(caught_up.folder, "promote")
    assert check(caught_up) == second
    kappa(caught_up.folder, "replay", "core.slot")
    assert check(caught_up) == second
    assert not audit(caught_up.folder, "--full")


def generations(warehouse: Warehouse) -> list[str]:
    listed = json.loads(kappa(warehouse.folder, "generations", "analytics.portrait", "--json"))["generations"]
    return [each["generation"] for each in listed]


def test_sql_that_fails_fails_it_alone_and_is_tried_again(caught_up: Warehouse) -> None:
    path = caught_up.folder / "analytics/digits.sql"
    path.write_text('/* kind = "materialized" */ SELECT CAST(kind[2] AS integer) AS digit FROM core.event')
    kappa(caught_up.folder, "run", "--until-caught-up")
    with Reader.open(caught_up.folder) as reader:
        assert len(reader.sql("FROM analytics.digits").arrow()) == len(reader.sql("FROM core.event").arrow())
    path.write_text(path.read_text().replace("kind[2]", "kind"))
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "analytics.digits failed" in said
    assert "Could not convert string 'K" in said
    with Reader.open(caught_up.folder) as reader:
        assert len(reader.sql("FROM analytics.digits").arrow()) > 0, "the live one stays"
    path.write_text('/* kind = "materialized" */ SELECT 1 // (200 - max(id)) AS rest FROM core.event')
    kappa(caught_up.folder, "apply", "--yes")
    assert not audit(caught_up.folder, "--full")


def test_rows_that_it_should_not_have_are_found(caught_up: Warehouse) -> None:
    table = caught_up.delta(caught_up.catalogue()["tables"]["analytics.portrait"]["path"])
    table.delete("kind = 'K3'")
    found = audit(caught_up.folder, "--full")
    assert "analytics.portrait" in found
