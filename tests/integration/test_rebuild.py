"""Definitions that change, tables that fail, tables that come later: what `kappa run` and `kappa run --rebuild` make of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infra.run import rebuild
from infra.run.feed import Feed
from infra.run.selection import Fed
from sinks import Warehouse as Reader
from sinks.snapshot import take_snapshot
from tests.inprocess import Running, audit, kappa, wait_until
from tests.warehouse import EVENT, SOURCE, Warehouse, event, valid

pytestmark = pytest.mark.slow
RUN = """
[run]
commit_rows = 100
batch_rows = 50
commit_interval_s = 0.1
catch_up_records = 100
max_rejects = 60
"""
LOWER = EVENT.replace("upper(kind)", "lower(kind)")
CHILD = '/* kind = "append" */ SELECT id, kind AS name FROM core.event WHERE id % 2 = 0'
EVENTS = 500


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """EVENTS events, none of them in a table yet; core.child derives from core.event."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=RUN)
    (made.folder / "core/child.sql").write_text(CHILD)
    made.produce(1, EVENTS)
    return made


@pytest.fixture
def caught_up(warehouse: Warehouse) -> Warehouse:
    kappa(warehouse.folder, "run", "--until-caught-up")
    return warehouse


def change(warehouse: Warehouse, sql: str = LOWER) -> None:
    (warehouse.folder / "core/event.sql").write_text(sql)


def generations(warehouse: Warehouse) -> dict[str, str]:
    return {table: entry["generation"] for table, entry in warehouse.catalogue()["tables"].items()}


def catalogues(warehouse: Warehouse) -> int:
    return len(list((warehouse.folder / "data/_kappa/catalog").glob("[0-9]*.json")))


def listed(warehouse: Warehouse) -> dict[str, Any]:
    return {table["name"]: table for table in json.loads(kappa(warehouse.folder, "tables", "--json"))["tables"]}


def kinds(warehouse: Warehouse, table: str = "core.event", column: str = "kind") -> set[str]:
    return {row[column][0] for row in warehouse.rows(table)}


REBUILT = {"core.event", "core.event__rejected", "core.child", "core.child__rejected", "analytics.tally"}


def test_a_changed_definition_is_refused_and_rebuilt_with_what_derives_from_it(caught_up: Warehouse) -> None:
    before, files, rows = generations(caught_up), catalogues(caught_up), len(caught_up.rows("core.event"))
    change(caught_up)
    caught_up.produce(EVENTS + 1, 100)
    said = kappa(caught_up.folder, "run", "--until-caught-up", status=1)
    assert f"the definition of core.event differs from its live generation {before['core.event']}" in said
    assert "upper(kind)" in said.lower()
    assert "lower(kind)" in said.lower()
    assert "kappa run --rebuild core.event" in said
    assert len(caught_up.rows("core.event")) == rows
    said = kappa(caught_up.folder, "run", "--rebuild", "core.event", "--until-caught-up")
    assert "swapped 5 tables" in said
    assert catalogues(caught_up) == files + 1
    after = generations(caught_up)
    assert {table for table in after if after[table] != before[table]} == REBUILT
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert kinds(caught_up) == kinds(caught_up, "core.child", "name") == {"k"}
    assert not audit(caught_up.folder, "--full")
    change(caught_up, EVENT)
    kappa(caught_up.folder, "run", "--rebuild", "core.event", "--until-caught-up")
    caught_up.check_independently()
    assert not audit(caught_up.folder, "--full")


def test_readers_see_the_old_or_the_new(caught_up: Warehouse) -> None:
    change(caught_up)
    before, seen = generations(caught_up), set()
    question = """
        SELECT (SELECT string_agg(DISTINCT kind[1], '') FROM core.event), (SELECT string_agg(DISTINCT name[1], '') FROM core.child),
               (SELECT count(*) FROM core.event), (SELECT count(*) FROM core.child)"""
    with Running(caught_up.folder, "core.event", rebuild=True):
        while generations(caught_up) == before or len(seen) < 2:
            with Reader.open(caught_up.folder) as reader:
                seen |= set(map(tuple, (row.values() for row in reader.sql(question).arrow().to_pylist())))
    counts = len(caught_up.rows("core.event")), len(caught_up.rows("core.child"))
    assert seen == {("K", "K", *counts), ("k", "k", *counts)}


def test_a_rebuild_killed_in_the_middle_is_resumed(caught_up: Warehouse) -> None:
    before, files = generations(caught_up), catalogues(caught_up)
    change(caught_up)
    command = ("run", "--rebuild", "core.event", "--until-caught-up")
    done = caught_up.kappa(*command, status=None, KAPPA_FAULT="after-commit:5")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (generations(caught_up), catalogues(caught_up)) == (before, files)
    assert kinds(caught_up) == {"K"}
    kappa(caught_up.folder, *command)
    assert catalogues(caught_up) == files + 1
    assert len(list((caught_up.folder / "data/core/event").iterdir())) == 2, "it went on with the generation that was begun"
    assert kinds(caught_up) == {"k"}
    assert not audit(caught_up.folder, "core.event", "core.child", "--full")


@pytest.mark.parametrize("rounds", [1, 10])
def test_readers_do_not_go_back_at_a_swap_beside_a_live_run(caught_up: Warehouse, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Records arrive and are committed by the other run while a round is built; when it does so in every round, the rebuild says so."""
    feeding: list[int] = []

    def slow_flow(feed: Feed, tables: list[Fed], until: Mapping[int, int] | None) -> None:
        flow(feed, tables, until)
        if until is not None and len(feeding) < 3:
            first = EVENTS + 1 + 50 * len(feeding)
            feeding.append(first)
            caught_up.produce(first, 50)
            wait_until(lambda: live.control.fatal or len(caught_up.rows("core.event")) == accepted(first + 49))

    def accepted(last: int) -> int:
        rows = (valid(event(number)) for number in range(1, last + 1))
        return sum(row is not None and row["id"] % 5 != 0 for row in rows)

    def cut() -> int:
        return sum(take_snapshot(str(caught_up.folder / "data")).cut.vectors[caught_up.topic].values())

    flow = Feed.flow
    old = generations(caught_up)
    with Running(caught_up.folder) as live:
        wait_until(live.is_reading)
        change(caught_up)
        monkeypatch.setattr(Feed, "flow", slow_flow)
        monkeypatch.setattr(rebuild, "ROUNDS", rounds)
        with Running(caught_up.folder, "core.event", rebuild=True) as other:
            before = 0
            while generations(caught_up) == old:
                before = max(before, cut())
            assert not live.control.fatal, live.control.fatal
            back = [line for line in other.notices if "takes readers back" in line]
            if rounds == 1:
                assert "by 50 offsets" in back[0]
            else:
                assert not back
                assert (len(feeding), cut()) == (3, EVENTS + 150)
                assert before <= EVENTS + 150
    assert not audit(caught_up.folder, "core.event", "core.child", "--full")


@pytest.mark.parametrize("options", [(), ("--until-caught-up",)])
def test_a_rebuild_stopped_before_the_swap_has_not_done_what_was_asked(
    caught_up: Warehouse, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    def interrupted_flow(feed: Feed, tables: list[Fed], until: Mapping[int, int] | None) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert feed.control.wait(60)
        flow(feed, tables, until)

    flow, before = Feed.flow, generations(caught_up)
    change(caught_up)
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "flow", interrupted_flow)
        said = kappa(caught_up.folder, "run", "--rebuild", "core.event", *options, status=1)
    assert "the rebuild was stopped before the swap" in said
    assert generations(caught_up) == before
    kappa(caught_up.folder, "run", "--rebuild", "core.event", "--until-caught-up")
    assert kinds(caught_up) == {"k"}


def test_a_run_of_the_old_generation_ends_its_branch(caught_up: Warehouse) -> None:
    old = generations(caught_up)["core.event"]
    with Running(caught_up.folder) as everything:
        wait_until(everything.is_reading)
        change(caught_up)
        kappa(caught_up.folder, "run", "--rebuild", "core.event", "--until-caught-up")
        caught_up.produce(EVENTS + 1, 50)
        wait_until(lambda: len(caught_up.rows("raw.events")) == EVENTS + 50)
        new = generations(caught_up)["core.event"]
        wait_until(lambda: any("core.child__rejected: " in notice for notice in everything.notices))
        assert f"core.event: generation {old} is live no more: {new} took its place; this branch ends" in everything.notices
        kappa(caught_up.folder, "run", "core.event", "core.child", "--until-caught-up")
    assert everything.control.fatal is None
    assert not audit(caught_up.folder, "--full")


def test_a_run_whose_every_branch_has_ended_ends(caught_up: Warehouse) -> None:
    with Running(caught_up.folder, "core.child") as alone:
        wait_until(alone.is_reading)
        kappa(caught_up.folder, "run", "--rebuild", "core.child", "--until-caught-up")
        caught_up.produce(EVENTS + 1, 50)
        alone.join()
    assert alone.control.fatal is None


def test_a_table_that_comes_later_catches_up_and_joins(caught_up: Warehouse) -> None:
    (caught_up.folder / "core/late.sql").write_text('/* kind = "append" */ SELECT id, amount FROM staging.events WHERE amount > 10')
    said = kappa(caught_up.folder, "run", "--until-caught-up")
    assert "core.late, core.late__rejected catch up first" in said
    assert f"{EVENTS} records in " in said, "those of the flow that catches up are counted"
    caught_up.produce(EVENTS + 1, 100)
    said = kappa(caught_up.folder, "run", "--until-caught-up")
    assert "catch up" not in said
    positions = {name: table["positions"] for name, table in listed(caught_up).items()}
    assert all(each == positions["raw.events"] for each in positions.values())
    staged = [row["id"] for row in caught_up.rows("staging.events") if row["amount"] is not None and row["amount"] > 10]
    assert [row["id"] for row in caught_up.rows("core.late")] == staged
    assert not audit(caught_up.folder, "--full")


def test_a_table_without_a_definition_leaves_the_catalogue(caught_up: Warehouse) -> None:
    """It stays until a run of everything, which names it; its data stays too, and the cut goes on without it."""
    folder, before = caught_up.folder, caught_up.catalogue()["tables"]
    (folder / "core/child.sql").rename(folder / "core/heir.sql")
    caught_up.produce(EVENTS + 1, 100)
    assert "left the catalogue" not in kappa(folder, "run", "core.tag", "--until-caught-up")
    assert set(caught_up.catalogue()["tables"]) == set(before)
    said = kappa(folder, "run", "--until-caught-up")
    gone = {"core.child", "core.child__rejected"}
    (notice,) = [line for line in said.splitlines() if "left the catalogue" in line]
    assert all(f"{name} (its data stays in {before[name]['path']})" in notice for name in gone)
    assert set(caught_up.catalogue()["tables"]) == set(before) - gone | {"core.heir", "core.heir__rejected"}
    assert (folder / "data" / before["core.child"]["path"]).is_dir()
    with Reader.open(folder) as reader:
        assert reader.sql("SELECT count(*) AS n FROM raw.events").arrow().to_pylist() == [{"n": EVENTS + 100}]
    assert "left the catalogue" not in kappa(folder, "run", "--until-caught-up")
    assert not audit(folder, "--full")
    (folder / "core/child.sql").write_text(CHILD)  # given back: it goes on where it stood
    kappa(folder, "run", "--until-caught-up")
    assert caught_up.catalogue()["tables"]["core.child"] == before["core.child"]
    assert [row["id"] for row in caught_up.rows("core.child")] == [row["id"] for row in caught_up.rows("core.heir")]
    assert not audit(folder, "--full")


def fail_when(warehouse: Warehouse, amount: int) -> None:
    rule = f'[rules.sane]\ncheck = "amount < {amount}"\non_failure = "fail"\n'
    source = SOURCE.format(topic=warehouse.topic, partitions=2).replace("amount < 1000000", "amount < 9000000")
    (warehouse.folder / "sources/events.toml").write_text(source + rule)


def test_a_rule_that_fails_stops_its_table_and_what_derives_from_it(warehouse: Warehouse) -> None:
    fail_when(warehouse, 1_000_000)
    said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert "breaks the rule sane" in said
    status = listed(warehouse)
    assert status["raw.events"]["state"] == "live"
    assert status["raw.events"]["rows"] == EVENTS
    for name in set(status) - {"raw.events"}:
        assert status[name]["state"] == "failed", name
        failure = status[name]["failure"]
        assert "breaks the rule sane" in failure["cause"], name
        assert failure["positions"][0].startswith(f"{warehouse.topic}/")
        assert "kappa run" in failure["next_step"]
    assert not audit(warehouse.folder, "--full")
    kappa(warehouse.folder, "run", "--until-caught-up", status=1)  # nothing was corrected: tried again, failed again
    fail_when(warehouse, 3_000_000)
    kappa(warehouse.folder, "run", "--until-caught-up")
    status = listed(warehouse)
    assert all(table["state"] == "live" and table["failure"] is None for table in status.values())
    assert status["staging.events"]["rows"] + status["staging.events__rejected"]["rows"] == EVENTS
    assert not audit(warehouse.folder, "--full")


def raise_on(warehouse: Warehouse, condition: str) -> None:
    sql = f"SELECT id, CASE WHEN {condition} THEN CAST(CAST(kind AS integer) AS varchar) ELSE kind END AS kind, amount AS twice"
    change(warehouse, f'/* kind = "append" */ {sql} FROM staging.events')


def test_records_on_which_sql_raises_are_rejects_of_that_table(warehouse: Warehouse) -> None:
    raise_on(warehouse, "id % 10 = 3")
    kappa(warehouse.folder, "run", "--until-caught-up")
    staged = [row["id"] for row in warehouse.rows("staging.events")]
    assert [row["id"] for row in warehouse.rows("core.event")] == [number for number in staged if number % 10 != 3]
    rejects = warehouse.rows("core.event__rejected")
    assert [json.loads(row["value"])["id"] for row in rejects] == [number for number in staged if number % 10 == 3]
    assert {row["code"] for row in rejects} == {"transform_error"}
    assert not warehouse.rows("core.child__rejected")
    assert not audit(warehouse.folder, "--full")
    counts = json.loads(kappa(warehouse.folder, "rejects", "events", "--json"))["counts"]
    assert {"table": "core.event", "code": "transform_error", "rule": None, "rejects": len(rejects)} in counts


def test_more_rejects_than_max_rejects_fail_the_table(warehouse: Warehouse) -> None:
    raise_on(warehouse, "id % 5 = 3")
    said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert "core.event failed" in said
    assert "max_rejects = 60" in said
    status = listed(warehouse)
    assert {name for name in status if status[name]["state"] == "failed"} == REBUILT
    assert status["core.tag"]["positions"] == status["raw.events"]["positions"]
    assert not audit(warehouse.folder, "--full")


def test_a_rebuild_of_a_table_that_fails_swaps_nothing(caught_up: Warehouse) -> None:
    before = generations(caught_up)
    change(caught_up, EVENT.replace("upper(kind)", "CAST(kind AS integer)"))
    said = kappa(caught_up.folder, "run", "--rebuild", "core.event", status=1)
    assert "nothing is swapped" in said
    assert generations(caught_up) == before
