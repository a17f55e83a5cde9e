"""Definitions that change, tables that fail, tables that come later: what `kappa run`, `kappa apply` and `kappa replay` make of them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flows.project import load_project
from infra.changes.build import Build, Options
from infra.changes.plan import make_plan
from infra.run import rebuild
from infra.run.feed import Feed
from infra.run.selection import Fed
from infra.run.session import Session
from sinks import Warehouse as Reader
from sinks.snapshot import take_snapshot
from tests.inprocess import Running, audit, committed, kappa, wait_until
from tests.warehouse import EVENT, SOURCE, Warehouse, event, valid

pytestmark = pytest.mark.slow
RUN = """
[run]
commit_rows = 200
batch_rows = 100
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


def applying(warehouse: Warehouse) -> Callable[[Session], None]:
    """What `kappa apply` does with a session."""
    tables = make_plan(load_project(warehouse.folder), None).builds
    return lambda session: Build(session, Options("apply")).apply(tables)


REBUILT = {"core.event", "core.event__rejected", "core.child", "core.child__rejected", "analytics.tally"}


def test_a_changed_definition_waits_for_apply(caught_up: Warehouse) -> None:
    """Runs go on with the definition that is live; apply builds the new one with what derives from it, and swaps all at once."""
    before, files = generations(caught_up), catalogues(caught_up)
    change(caught_up)
    caught_up.produce(EVENTS + 1, 100)
    said = kappa(caught_up.folder, "run", "--until-caught-up")
    assert "the folder defines core.event, core.child, analytics.tally otherwise: fed as built until kappa apply" in said
    assert (generations(caught_up), catalogues(caught_up)) == (before, files)
    assert len(caught_up.rows("staging.events")) == accepted_rows(EVENTS + 100)
    assert kinds(caught_up) == {"K"}
    assert not audit(caught_up.folder, "--full")
    said = kappa(caught_up.folder, "apply", "--yes")
    assert "swapped 5 tables" in said
    assert catalogues(caught_up) == files + 1
    after = generations(caught_up)
    assert {table for table in after if after[table] != before[table]} == REBUILT
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert kinds(caught_up) == kinds(caught_up, "core.child", "name") == {"k"}
    assert not audit(caught_up.folder, "--full")
    change(caught_up, EVENT)
    kappa(caught_up.folder, "apply", "--yes")
    caught_up.check_independently()
    assert not audit(caught_up.folder, "--full")


def accepted_rows(events: int) -> int:
    return sum(valid(event(number)) is not None for number in range(1, events + 1))


def test_readers_see_the_old_or_the_new(caught_up: Warehouse) -> None:
    change(caught_up)
    before, seen = generations(caught_up), set()
    question = """
        SELECT (SELECT string_agg(DISTINCT kind[1], '') FROM core.event), (SELECT string_agg(DISTINCT name[1], '') FROM core.child),
               (SELECT count(*) FROM core.event), (SELECT count(*) FROM core.child)"""
    with Running(caught_up.folder, work=applying(caught_up)):
        while generations(caught_up) == before or len(seen) < 2:
            with Reader.open(caught_up.folder) as reader:
                seen |= set(map(tuple, (row.values() for row in reader.sql(question).arrow().to_pylist())))
    counts = len(caught_up.rows("core.event")), len(caught_up.rows("core.child"))
    assert seen == {("K", "K", *counts), ("k", "k", *counts)}


def test_an_apply_killed_in_the_middle_is_resumed(caught_up: Warehouse) -> None:
    before, files = generations(caught_up), catalogues(caught_up)
    change(caught_up)
    command = ("apply", "--yes")
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
        with Running(caught_up.folder, work=applying(caught_up)) as other:
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


def test_an_apply_stopped_before_the_swap_has_not_done_what_was_asked(caught_up: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted_flow(feed: Feed, tables: list[Fed], until: Mapping[int, int] | None) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert feed.control.wait(60)
        flow(feed, tables, until)

    flow, before = Feed.flow, generations(caught_up)
    change(caught_up)
    with monkeypatch.context() as patch:
        patch.setattr(Feed, "flow", interrupted_flow)
        said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "the build was stopped before the swap" in said
    assert generations(caught_up) == before
    kappa(caught_up.folder, "apply", "--yes")
    assert kinds(caught_up) == {"k"}


@pytest.mark.parametrize("names", [(), ("core.event", "core.child")])
def test_a_run_goes_on_with_what_was_swapped_in(caught_up: Warehouse, names: tuple[str, ...]) -> None:
    """Also when nothing arrives that would make it look."""
    old = generations(caught_up)["core.event"]
    with Running(caught_up.folder, *names) as live:
        wait_until(live.is_reading)
        change(caught_up)
        kappa(caught_up.folder, "apply", "--yes")
        new = generations(caught_up)["core.event"]
        wait_until(lambda: "going on with what is live now" in live.notices)
        assert f"core.event: generation {old} is live no more: {new} took its place; this branch ends" in live.notices
        caught_up.produce(EVENTS + 1, 50)
        wait_until(lambda: committed(caught_up.folder, "core.child") == EVENTS + 50)
    assert live.control.fatal is None
    assert kinds(caught_up) == {"k"}
    assert not audit(caught_up.folder, "--full")


def test_a_swap_while_records_flow_loses_none(caught_up: Warehouse) -> None:
    with Running(caught_up.folder) as live:
        wait_until(live.is_reading)
        change(caught_up)
        with Running(caught_up.folder, work=applying(caught_up)) as other:
            for first in range(EVENTS + 1, EVENTS + 1001, 100):
                caught_up.produce(first, 100)
                time.sleep(0.1)
            other.join()
        assert not other.control.fatal, other.control.fatal
        wait_until(lambda: committed(caught_up.folder, "core.child") == EVENTS + 1000)
        wait_until(lambda: committed(caught_up.folder) == EVENTS + 1000)
    assert live.control.fatal is None, live.control.fatal
    assert kinds(caught_up) == {"k"}
    assert not audit(caught_up.folder, "--full")


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


def test_a_table_without_a_definition_leaves_the_catalogue_when_that_is_applied(caught_up: Warehouse) -> None:
    """Until then runs feed it; its data stays, and the cut goes on without it."""
    folder, before = caught_up.folder, caught_up.catalogue()["tables"]
    (folder / "core/child.sql").rename(folder / "core/heir.sql")
    caught_up.produce(EVENTS + 1, 100)
    said = kappa(folder, "run", "--until-caught-up")
    assert "no file defines core.child any more: fed as built until kappa apply" in said
    assert set(caught_up.catalogue()["tables"]) == {*before, "core.heir", "core.heir__rejected"}
    assert [row["id"] for row in caught_up.rows("core.child")] == [row["id"] for row in caught_up.rows("core.heir")]
    assert not audit(folder, "--full")
    said = kappa(folder, "apply", "--yes")
    gone = {"core.child", "core.child__rejected"}
    (notice,) = [line for line in said.splitlines() if "left the catalogue" in line]
    assert all(f"{name} (its data stays in {before[name]['path']})" in notice for name in gone)
    assert set(caught_up.catalogue()["tables"]) == {*before, "core.heir", "core.heir__rejected"} - gone
    assert (folder / "data" / before["core.child"]["path"]).is_dir()
    with Reader.open(folder) as reader:
        assert reader.sql("SELECT count(*) AS n FROM raw.events").arrow().to_pylist() == [{"n": EVENTS + 100}]
    kappa(folder, "run", "--until-caught-up")
    assert set(caught_up.catalogue()["tables"]) == {*before, "core.heir", "core.heir__rejected"} - gone
    assert not audit(folder, "--full")
    (folder / "core/child.sql").write_text(CHILD)  # given back: it goes on where it stood
    kappa(folder, "run", "--until-caught-up")
    assert caught_up.catalogue()["tables"]["core.child"] == before["core.child"]
    assert [row["id"] for row in caught_up.rows("core.child")] == [row["id"] for row in caught_up.rows("core.heir")]
    assert not audit(folder, "--full")


def test_what_is_new_over_a_changed_table_waits_with_it(caught_up: Warehouse) -> None:
    change(caught_up)
    (caught_up.folder / "core/grandchild.sql").write_text('/* kind = "append" */ SELECT name FROM core.child')
    (caught_up.folder / "core/other.sql").write_text('/* kind = "append" */ SELECT id FROM staging.events')
    (caught_up.folder / "analytics/by_kind.sql").write_text('/* kind = "view" */ SELECT name FROM core.grandchild')
    views = caught_up.catalogue()["views"]
    said = kappa(caught_up.folder, "run", "--until-caught-up")
    assert "core.grandchild: new over what the folder defines otherwise; kappa apply makes it" in said
    assert "core.other" in generations(caught_up)
    assert "core.grandchild" not in generations(caught_up)
    assert caught_up.catalogue()["views"] == views
    kappa(caught_up.folder, "apply", "--yes")
    assert "core.grandchild" in caught_up.catalogue()["views"]["analytics.by_kind"]
    assert kinds(caught_up, "core.grandchild", "name") == {"k"}
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert not audit(caught_up.folder, "--full")


def test_generations_without_stored_files_are_refused(caught_up: Warehouse) -> None:
    """As kappa wrote them before it stored files: nothing tells how to go on feeding them."""
    for path in (caught_up.folder / "data/_kappa/definitions").rglob("*.json"):
        values = json.loads(path.read_text())
        del values["files"]
        path.write_text(json.dumps(values))
    change(caught_up)
    before = generations(caught_up)
    said = kappa(caught_up.folder, "run", "--until-caught-up", status=1)
    assert f"the definition of core.event differs from its live generation {before['core.event']}" in said
    assert "upper(kind)" in said.lower()
    assert "kappa apply" in said
    kappa(caught_up.folder, "apply", "--yes")
    assert kinds(caught_up) == {"k"}


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


def test_an_apply_whose_table_fails_swaps_nothing(caught_up: Warehouse) -> None:
    before = generations(caught_up)
    change(caught_up, EVENT.replace("upper(kind)", "CAST(kind AS integer)"))
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "nothing is swapped" in said
    assert generations(caught_up) == before
