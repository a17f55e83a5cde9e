"""`kappa apply`, `replay`, `promote` and `rollback` killed with SIGKILL: always all old or all new, always able to go on."""

from __future__ import annotations

import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from sinks import Warehouse as Reader
from tests.inprocess import audit, kappa
from tests.warehouse import EVENT, Warehouse

pytestmark = pytest.mark.slow
EVENTS = 300
RUN = "[run]\ncommit_rows = 100\nbatch_rows = 50\ncommit_interval_s = 0.1\n[maintenance]\nkeep_generations = 2\nretention_s = 0\n"
LOWER = EVENT.replace("upper(kind)", "lower(kind)")
BEST = '/* kind = "materialized" */ SELECT kind, rank() OVER (ORDER BY total DESC, kind) AS place FROM analytics.tally'
CHILD = '/* kind = "append" */ SELECT id, kind AS name FROM core.event WHERE id % 2 = 0'
QUESTION = """
    SELECT (SELECT string_agg(DISTINCT kind[1], '') FROM core.event), (SELECT string_agg(DISTINCT name[1], '') FROM core.child),
        (SELECT string_agg(DISTINCT kind[1], '') FROM analytics.tally), (SELECT string_agg(DISTINCT kind[1], '') FROM analytics.by_kind),
        (SELECT string_agg(DISTINCT kind[1], '') FROM analytics.best)
"""
NAMED = ["files-written:1", "before-commit:1", "before-commit:4", "after-commit:1", "after-commit:4", "before-summary:1"]
NAMED += ["before-materialized:1", "before-promote:1", "after-promote:1"]
POSTGRES_DOWN = "postgresql://nobody@127.0.0.1:1/kappa"
RANDOM_KILLS = 20


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=RUN)
    (made.folder / "core/child.sql").write_text(CHILD)
    (made.folder / "analytics/best.sql").write_text(BEST)
    made.produce(1, EVENTS)
    kappa(made.folder, "run", "--until-caught-up")
    return made


def letter(warehouse: Warehouse) -> str:
    """``K`` or ``k``: which of the two definitions readers see, in every table and view. Fails on a mixture."""
    with Reader.open(warehouse.folder) as reader:
        (row,) = reader.sql(QUESTION).arrow().to_pylist()
        assert not reader.warnings
    (seen,) = set(row.values())
    assert seen in ("K", "k")
    return str(seen)


def define(warehouse: Warehouse, wanted: str) -> None:
    (warehouse.folder / "core/event.sql").write_text(EVENT if wanted == "K" else LOWER)


def other(seen: str) -> str:
    return seen.swapcase()


@pytest.mark.parametrize(("command", "points"), [(("apply", "--yes"), NAMED), (("replay", "events"), NAMED[::2])])
def test_killed_at_named_points(warehouse: Warehouse, command: tuple[str, ...], points: list[str]) -> None:
    for point in points:
        before = letter(warehouse)
        wanted = other(before) if command[0] == "apply" else before
        define(warehouse, wanted)
        done = warehouse.kappa(*command, status=None, KAPPA_FAULT=point)
        assert done.returncode == -signal.SIGKILL, (point, done.returncode, done.stderr)
        assert letter(warehouse) == (wanted if point.startswith("after-promote") else before), point
        kappa(warehouse.folder, "run", "--until-caught-up")
        assert letter(warehouse) == (wanted if point.startswith("after-promote") else before), point
        kappa(warehouse.folder, *command)
        assert letter(warehouse) == wanted, point
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert not audit(warehouse.folder, "--full")


def test_killed_at_random(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in turn, at any moment from its start to its end; then it is gone on with. PostgreSQL is down all the time."""
    monkeypatch.setenv("KAPPA_POSTGRES__DSN", POSTGRES_DOWN)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    killed = 0
    while killed < RANDOM_KILLS:
        before = letter(warehouse)
        define(warehouse, other(before))
        killed += kill(warehouse, chance, "apply", "--yes")
        assert letter(warehouse) in (before, other(before))
        kappa(warehouse.folder, "apply", "--yes", "--no-promote")
        killed += kill(warehouse, chance, "promote")
        if letter(warehouse) == before:
            kappa(warehouse.folder, "promote")
        assert letter(warehouse) == other(before)
        killed += kill(warehouse, chance, "replay", "core.event")
        kappa(warehouse.folder, "replay", "core.event")
        assert letter(warehouse) == other(before)
        ordinals = warehouse.catalogue()["tables"]["core.event"]["generation"]
        killed += kill(warehouse, chance, "rollback", "core.event")
        if warehouse.catalogue()["tables"]["core.event"]["generation"] == ordinals:
            kappa(warehouse.folder, "rollback", "core.event")
        assert letter(warehouse) in (before, other(before))
        kappa(warehouse.folder, "run", "--until-caught-up")
        assert letter(warehouse) in (before, other(before))
    assert not audit(warehouse.folder, "--full")


def kill(warehouse: Warehouse, chance: random.Random, *command: str) -> bool:
    """Begin a command and kill it; False when it was quicker."""
    process = warehouse.start(*command)
    with suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.3, 2.2))
    process.kill()
    said, _ = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


def test_an_unfinished_build_does_not_disturb_a_later_one(warehouse: Warehouse) -> None:
    """A summary is built over the live generation of its upstream, whatever was begun beside that."""
    done = warehouse.kappa("replay", "core.slot", status=None, KAPPA_FAULT="after-commit:3")
    assert done.returncode == -signal.SIGKILL
    before = warehouse.catalogue()["tables"]
    kappa(warehouse.folder, "replay", "analytics.corner")
    after = warehouse.catalogue()["tables"]
    assert after["core.slot"] == before["core.slot"]
    assert after["analytics.corner"] != before["analytics.corner"]
    assert not audit(warehouse.folder, "--full")
    kappa(warehouse.folder, "replay", "core.slot")
    assert warehouse.catalogue()["tables"]["core.slot"] != before["core.slot"]
    assert not audit(warehouse.folder, "--full")
    warehouse.check_independently()
