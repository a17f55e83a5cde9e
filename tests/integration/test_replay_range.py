"""`kappa replay TABLE --from --to`: rows of a range of an append table, made anew in one commit of the live generation."""

from __future__ import annotations

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import Running, audit, kappa, wait_until
from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow
EVENTS = 400
SETTINGS = "[run]\ncommit_rows = 60\nbatch_rows = 30\n"


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=SETTINGS)
    made.produce(1, EVENTS)
    made.kappa("run", "--until-caught-up")  # a process that has ended
    return made


def places(rows: list[dict[str, Any]]) -> set[tuple[int, int, int]]:
    return {(row["_partition"], row["_offset"], row.get("_row") or 0) for row in rows}


def table(warehouse: Warehouse, name: str) -> Any:
    return warehouse.delta(warehouse.catalogue()["tables"][name]["path"])


def test_a_range_gives_the_rows_that_were_there(caught_up: Warehouse) -> None:
    """Whatever another program has done to them; what lies outside stays as that has left it."""
    names = ("core.event", "core.tag", "staging.events", "raw.events", "staging.events__rejected")
    before = {name: caught_up.rows(name) for name in names}
    live = caught_up.catalogue()["tables"]
    for name in names:
        kappa(caught_up.folder, "replay", name, "--from", "40", "--to", "90")
        assert caught_up.rows(name) == before[name], name
    assert not audit(caught_up.folder, "--full")
    for name in names:
        table(caught_up, name).delete("_offset % 3 = 0")
        damaged = places(caught_up.rows(name))
        kappa(caught_up.folder, "replay", name, "--from", "40", "--to", "90")
        assert places(caught_up.rows(name)) == damaged | {place for place in places(before[name]) if 40 <= place[1] < 90}, name
        kappa(caught_up.folder, "replay", name, "--from", "earliest")
        assert caught_up.rows(name) == before[name], name
    assert caught_up.catalogue()["tables"] == live
    caught_up.produce(EVENTS + 1, 100)
    kappa(caught_up.folder, "run", "--until-caught-up")
    caught_up.check_independently()


def test_a_range_of_time(caught_up: Warehouse) -> None:
    before, now = caught_up.rows("core.event"), datetime.now(UTC)
    table(caught_up, "core.event").delete()
    assert not caught_up.rows("core.event")
    future, past = (now + timedelta(hours=1)).isoformat(), (now - timedelta(hours=1)).isoformat()
    said = kappa(caught_up.folder, "replay", "core.event", "--from", future, status=2)
    assert "the range holds nothing of core.event" in said
    assert f"{caught_up.topic}/0/0..200" in said
    kappa(caught_up.folder, "replay", "core.event", "--from", past, "--to", future, "--rate", "100000")
    assert caught_up.rows("core.event") == before


def test_what_is_not_provable_is_refused_with_what_to_do_instead(caught_up: Warehouse) -> None:
    (caught_up.folder / "analytics/best.sql").write_text('/* kind = "materialized" */ SELECT max(total) AS best FROM analytics.tally')
    kappa(caught_up.folder, "run", "--until-caught-up")
    for name, why in (
        ("core.slot", "the latest of their keys"),
        ("analytics.tally", "it follows core.event"),
        ("analytics.corner", "it follows core.slot"),
        ("analytics.best", "a whole query over other tables"),
    ):
        said = kappa(caught_up.folder, "replay", name, "--from", "10", status=2)
        assert why in said
        assert f"kappa replay {name} builds all of it anew" in said
    assert "a range is of one table" in kappa(caught_up.folder, "replay", "events", "--to", "10", status=2)
    assert "a range is of one table" in kappa(caught_up.folder, "replay", "core.event", "core.tag", "--to", "10", status=2)
    assert "'soon' is no place in the log" in kappa(caught_up.folder, "replay", "core.event", "--from", "soon", status=2)


def test_a_table_at_work_is_left_alone_unless_it_is_taken_over(caught_up: Warehouse) -> None:
    with Running(caught_up.folder) as running:
        wait_until(running.is_reading)
        work = caught_up.kappa("replay", "core.event", "--from", "10", status=1)
        assert "core.event is left alone" in work.stderr
        assert "--take-over" in work.stderr
        caught_up.kappa("replay", "core.event", "--from", "10", "--take-over")
        caught_up.produce(EVENTS + 1, 10)
        running.join()
        assert "core.event" in str(running.fatal)
    kappa(caught_up.folder, "run", "--until-caught-up")
    caught_up.check_independently()
    assert not audit(caught_up.folder, "--full")


@pytest.mark.parametrize("point", ["before-graft:1", "after-commit:3"])
def test_killed_at_named_points(caught_up: Warehouse, point: str) -> None:
    before = caught_up.rows("core.event")
    done = caught_up.kappa("replay", "core.event", "--from", "10", "--to", "150", status=None, KAPPA_FAULT=point)
    assert done.returncode in (-signal.SIGKILL, 0)
    assert caught_up.rows("core.event") == before
    kappa(caught_up.folder, "replay", "core.event", "--from", "10", "--to", "150")
    assert caught_up.rows("core.event") == before
    standing = [path for path in (caught_up.folder / "data/core/event").iterdir() if any(path.rglob("*.parquet"))]
    assert [path.name for path in standing] == [caught_up.catalogue()["tables"]["core.event"]["generation"]]
    assert not audit(caught_up.folder, "--full")
