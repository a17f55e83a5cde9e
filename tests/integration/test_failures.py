"""A table that cannot be fed: it fails with what derives from it, and the others go on (DESIGN invariant I8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from infra.flow import flow
from infra.run.session import NothingToFeed
from tests.inprocess import Running, audit, committed, kappa, wait_until
from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
RUN = "[run]\ncommit_rows = 100\nbatch_rows = 50\ncommit_interval_s = 0.1\n"
CHILD = '/* kind = "append" */ SELECT id, kind AS name FROM core.event WHERE id % 2 = 0'
EVENT = {"core.event", "core.event__rejected", "core.child", "core.child__rejected", "analytics.tally"}
STAGING = EVENT | {f"{table}{part}" for table in ("staging.events", "core.tag", "core.slot") for part in ("", "__rejected")}
STAGING |= {"analytics.corner"}


@pytest.fixture
def caught_up(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """EVENTS events, all of them in the tables; core.child derives from core.event."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=RUN)
    (made.folder / "core/child.sql").write_text(CHILD)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def alter(warehouse: Warehouse, table: str, name: str) -> None:
    """As another program does that sets a property of the Delta table."""
    path = warehouse.folder / "data" / warehouse.catalogue()["tables"][table]["path"]
    DeltaTable(path).alter.set_table_properties({name: "interval 1 days"}, raise_if_not_exists=False)


def read(warehouse: Warehouse) -> dict[str, int]:
    return {table: committed(warehouse.folder, table) for table in warehouse.catalogue()["tables"]}


def failures(warehouse: Warehouse) -> dict[str, Any]:
    tables = json.loads(kappa(warehouse.folder, "tables", "--json"))["tables"]
    return {table["name"]: table["failure"]["cause"] for table in tables if table["failure"]}


@pytest.mark.parametrize(("table", "failed"), [("staging.events", STAGING), ("core.event", EVENT)])
def test_a_sink_that_fails_takes_along_what_derives_from_its_table(caught_up: Warehouse, table: str, failed: set[str]) -> None:
    with Running(caught_up.folder) as run:
        wait_until(run.is_reading)
        alter(caught_up, table, "delta.deletedFileRetentionDuration")
        caught_up.produce(EVENTS + 1, 50)
        wait_until(lambda: committed(caught_up.folder) == EVENTS + 50 and failures(caught_up).keys() == failed - {table})
    assert run.control.fatal is None
    assert run.control.failures.keys() == failed
    assert read(caught_up) == {name: EVENTS + (0 if name in failed else 50) for name in read(caught_up)}
    assert f"its upstream {table} failed" in failures(caught_up)["core.event" if table != "core.event" else "core.child"]
    kappa(caught_up.folder, "run", "--until-caught-up")  # tried again
    assert set(read(caught_up).values()) == {EVENTS + 50}
    assert not failures(caught_up)
    assert not audit(caught_up.folder, "--full")


FORGETS = "delta.setTransactionRetentionDuration"  # a claim refuses it


@pytest.mark.parametrize(
    ("table", "failed"), [("staging.events", STAGING), ("core.event", EVENT), ("core.tag__rejected", {"core.tag__rejected"})]
)
def test_a_table_that_cannot_be_claimed_stops_no_other(caught_up: Warehouse, table: str, failed: set[str]) -> None:
    alter(caught_up, table, FORGETS)
    caught_up.produce(EVENTS + 1, 50)
    said = kappa(caught_up.folder, "run", "--until-caught-up", status=1)
    assert f"{table} failed: the Delta table of {table} was altered by another program" in said
    assert f"{len(failed)} table" in said
    assert read(caught_up) == {name: EVENTS + (0 if name in failed else 50) for name in read(caught_up)}
    assert failures(caught_up).keys() == failed - {table}
    assert all(f"its upstream {table} failed" in cause for name, cause in failures(caught_up).items() if name != "core.child__rejected")
    kappa(caught_up.folder, "replay", table.removesuffix("__rejected"))
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert set(read(caught_up).values()) == {EVENTS + 50}
    assert not failures(caught_up)
    assert not audit(caught_up.folder, "--full")


def test_a_table_that_cannot_be_made_stops_no_other(caught_up: Warehouse) -> None:
    (caught_up.folder / "data/core/late").write_text("not a folder")
    (caught_up.folder / "core/late.sql").write_text('/* kind = "append" */ SELECT id FROM staging.events')
    (caught_up.folder / "core/later.sql").write_text('/* kind = "append" */ SELECT id FROM core.late')
    caught_up.produce(EVENTS + 1, 50)
    said = kappa(caught_up.folder, "run", "--until-caught-up", status=1)
    assert "core.late failed" in said
    assert "core.later failed: its upstream core.late failed" in said
    assert set(read(caught_up).values()) == {EVENTS + 50}, "those that failed are not in the catalogue"
    kappa(caught_up.folder, "run", "core.late", "--until-caught-up", status=1)
    (caught_up.folder / "data/core/late").unlink()
    kappa(caught_up.folder, "run", "--until-caught-up")
    assert read(caught_up)["core.later__rejected"] == EVENTS + 50
    assert not audit(caught_up.folder, "--full")


def test_a_build_does_not_begin_when_a_table_cannot_be_made(caught_up: Warehouse) -> None:
    before = caught_up.catalogue()
    (caught_up.folder / "core/child.sql").write_text(CHILD.replace("% 2", "% 3"))
    folder = caught_up.folder / "data/core/child__rejected"
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("not a folder")
    said = kappa(caught_up.folder, "apply", "--yes", status=1)
    assert "core.child__rejected failed" in said
    assert "nothing is swapped" in said
    assert caught_up.catalogue() == before


def test_a_plain_dataflow_of_which_nothing_is_left_is_refused(caught_up: Warehouse, capsys: pytest.CaptureFixture[str]) -> None:
    for table in ("raw.events", "staging.events"):
        alter(caught_up, table, FORGETS)
    with pytest.raises(NothingToFeed, match="no table of events can be fed"):
        flow("events", str(caught_up.folder))
    assert "raw.events failed: the Delta table of raw.events was altered" in capsys.readouterr().err
