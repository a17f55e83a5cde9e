"""Published cuts: `kappa run` makes them, `kappa cuts` lists and pins them, readers ask all tables as of one."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from sinks import Warehouse as Reader
from sinks.published import Cuts
from tests.inprocess import Running, audit, kappa, wait_until
from tests.unit.test_cli_listings import example, same_shape
from tests.warehouse import EVENT, Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
ASKED = {
    "core.event": "SELECT count(*) AS n, sum(twice) AS total FROM core.event",
    "analytics.tally": "SELECT CAST(sum(events) AS bigint) AS n, sum(total) AS total FROM analytics.tally",
    "analytics.by_kind": "SELECT CAST(sum(events) AS bigint) AS n, sum(total) AS total FROM analytics.by_kind",
}
SLOTS = "SELECT slot, kind, id FROM core.slot ORDER BY ALL"
FORGETFUL = "[maintenance]\nretention_s = 0\nkeep_generations = 1\ncompact_files = 2\n"


@pytest.fixture
def caught_up(request: pytest.FixtureRequest, kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=getattr(request, "param", ""))
    grow(made, 1)
    return made


def grow(warehouse: Warehouse, first: int) -> None:
    warehouse.produce(first, EVENTS)
    kappa(warehouse.folder, "run", "--until-caught-up")


def cuts(warehouse: Warehouse) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(kappa(warehouse.folder, "cuts", "--json"))["cuts"]
    return listed


def answers(reader: Reader) -> dict[str, Any]:
    """What the tables say, which must be the same of each: they are functions of the same records."""
    found = {name: reader.sql(sql).arrow().to_pylist()[0] for name, sql in ASKED.items()}
    assert len({(row["n"], row["total"]) for row in found.values()}) == 1, found
    return {**found["core.event"], "slots": reader.sql(SLOTS).arrow().to_pylist()}


def test_a_run_publishes_its_end_and_all_tables_can_be_asked_as_of_it(caught_up: Warehouse) -> None:
    with Reader.open(caught_up.folder) as reader:
        first = answers(reader)
    kappa(caught_up.folder, "run", "--until-caught-up")
    grow(caught_up, EVENTS + 1)
    listed = cuts(caught_up)
    assert [cut["n"] for cut in listed] == [1, 2], "a run that changes nothing publishes nothing"
    assert sum(listed[1]["positions"].values()) == 2 * EVENTS
    with Reader.open(caught_up.folder) as reader, reader.at(1) as old, reader.at(listed[1]["created_at"]) as new:
        assert answers(old) == first
        assert answers(new) == answers(reader) != first
        old.refresh()
        assert answers(old) == answers(reader)
    sql = ASKED["core.event"]
    rows = json.loads(kappa(caught_up.folder, "query", sql, "--cut", "1", "--format", "json"))
    assert rows == [{"n": first["n"], "total": str(first["total"])}] or Decimal(str(rows[0]["total"])) == first["total"]
    said = kappa(caught_up.folder, "query", sql, "--cut", "9", status=2)
    assert "no cut 9" in said
    assert "there are 1 to 2" in said
    assert "kappa cuts" in said


@pytest.mark.parametrize("caught_up", [FORGETFUL], indirect=True)
def test_a_pinned_cut_outlives_commits_compaction_vacuum_and_retention(caught_up: Warehouse) -> None:
    with Reader.open(caught_up.folder) as reader:
        first = answers(reader)
    assert cuts(caught_up) == [], "without retention nothing is kept that is not pinned"
    assert "pinned as month-end" in kappa(caught_up.folder, "cuts", "publish", "--pin", "month-end")
    for step in (1, 2):
        grow(caught_up, step * EVENTS + 1)
    kappa(caught_up.folder, "maintain")
    (caught_up.folder / "core/event.sql").write_text(EVENT.replace("upper(kind)", "lower(kind)"))
    for _ in range(2):
        kappa(caught_up.folder, "apply", "--yes")
        kappa(caught_up.folder, "replay", "core.slot")
    kappa(caught_up.folder, "maintain")
    old = caught_up.folder / "data" / "core/event"
    with Reader.open(caught_up.folder) as reader, reader.at("month-end") as pinned:
        assert answers(pinned) == first
        assert answers(reader) != first
        generation = pinned.snapshot.tables["core.event"].generation
    assert (old / generation).is_dir()
    assert "kappa cuts unpin month-end" in kappa(caught_up.folder, "drop-generation", "core.event", generation, status=2)
    assert not audit(caught_up.folder)
    kappa(caught_up.folder, "cuts", "unpin", "month-end")
    kappa(caught_up.folder, "replay", "core.event")
    assert not (old / generation).exists(), "retention drops what nothing names any more"
    assert "no cut month-end" in kappa(caught_up.folder, "query", "SELECT 1", "--cut", "month-end", status=2)


def test_a_run_publishes_while_it_runs_and_a_reader_of_a_cut_never_sees_it_move(caught_up: Warehouse) -> None:
    kappa(caught_up.folder, "run", "--until-caught-up")
    toml = caught_up.folder / "warehouse.toml"
    toml.write_text('name = "test"\n[run]\ncut_interval_s = 1\ncommit_interval_s = 0.1\n')
    published = Cuts(str(caught_up.folder / "data"))
    seen: dict[int, dict[str, Any]] = {}
    with Running(caught_up.folder) as running, Reader.open(caught_up.folder) as reader:
        wait_until(running.is_reading)
        first = EVENTS + 1
        while len(seen) < 3:
            caught_up.produce(first, 50)
            first += 50
            for cut in published.all():
                if cut.n not in seen:
                    with reader.at(cut.n) as at:
                        seen[cut.n] = answers(at)
    for n, answer in seen.items():
        with Reader.open(caught_up.folder) as reader, reader.at(n) as at:
            assert answers(at) == answer
    counts = [answer["n"] for answer in seen.values()]
    assert counts == sorted(set(counts))


def test_a_table_that_has_failed_is_named_by_the_cut(caught_up: Warehouse) -> None:
    (caught_up.folder / "warehouse.toml").write_text('name = "test"\n[run]\nmax_rejects = 0\n')
    (caught_up.folder / "core/digit.sql").write_text('/* kind = "append" */ SELECT CAST(kind[2] AS integer) AS digit FROM staging.events')
    grow(caught_up, EVENTS + 1)
    producer = Producer({"bootstrap.servers": caught_up.bootstrap})
    producer.produce(caught_up.topic, b'{"id": 1, "kind": "kx", "amount": 1, "tags": []}', partition=0)
    assert producer.flush(60) == 0
    kappa(caught_up.folder, "run", "--until-caught-up", status=1)
    before, newest = cuts(caught_up)[-2:]
    assert before["left_out"] == {}
    assert "it has failed" in newest["left_out"]["core.digit"]
    assert newest["tables"]["core.digit"]["version"] > before["tables"]["core.digit"]["version"]
    assert sum(newest["positions"].values()) == 2 * EVENTS + 1


def test_what_has_changed_between_two_cuts(caught_up: Warehouse) -> None:
    kappa(caught_up.folder, "cuts", "publish", "--pin", "first")
    before = len(caught_up.rows("core.event"))
    grow(caught_up, EVENTS + 1)

    def diff(*arguments: str, status: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(kappa(caught_up.folder, "diff", *arguments, "--json", status=status))
        return found

    same_shape(example("kappa diff --json"), found := diff("core.event", "@first", status=3))
    assert (found["only_a"], found["only_b"], found["changed"]) == (0, len(caught_up.rows("core.event")) - before, 0)
    assert found["a"]["rows"] == before
    assert found["positions"] == {}
    assert found["a"]["generation"] == found["b"]["generation"]
    found = diff("analytics.tally", "@first", f"@{cuts(caught_up)[-1]['n']}", status=3)
    assert (found["only_a"], found["only_b"], found["changed"]) == (0, 0, 7)
    assert diff("core.slot", "@first", "@first", status=0)["equal"]
    assert "cut 1 has no core.nothing" in kappa(caught_up.folder, "diff", "core.nothing", "@1", status=2)
    assert "no cut 77" in kappa(caught_up.folder, "diff", "core.event", "@77", status=2)


def test_the_listing_is_as_written_down(caught_up: Warehouse) -> None:
    listed = json.loads(kappa(caught_up.folder, "cuts", "--json"))
    same_shape(example("kappa cuts --json"), listed)
    same_shape(example("kappa cuts --json")["cuts"][0], json.loads(kappa(caught_up.folder, "cuts", "pin", "1", "kept", "--json")))
    said = kappa(caught_up.folder, "cuts")
    assert said.splitlines()[1].split()[:3] == ["1", listed["cuts"][0]["created_at"], "kept"]
