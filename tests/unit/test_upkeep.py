"""Maintenance on demand: the same rows, nothing taken from who is at work, nothing left to do the second time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake
from hypothesis import given
from hypothesis import strategies as st

from flows.batch import Failure
from flows.errors import KappaError, UsageError
from flows.ledger import RunIdentity
from flows.settings import MaintenanceSettings
from infra.audit.commits import Walk, commits_of
from infra.cli import cli
from infra.run.identity import has_ended, this_process
from sinks import Warehouse
from sinks.address import TableAddress
from sinks.compaction import LiveFile, Stopped, choose_all, live_files
from sinks.errors import Fenced, LedgerLost
from sinks.history import newest
from sinks.owner import Owner
from sinks.upkeep import Upkeep, Upkeeper
from tests import owned, stored
from tests.owned import commit
from tests.stored import Root

ENDED = RunIdentity(socket.gethostname(), 1, "2001-01-01T00:00:00.000000Z")
ME = RunIdentity(socket.gethostname(), os.getpid(), "2026-11-22T18:00:00.000000Z")


def nobody(run: RunIdentity) -> str | None:
    return None


def tend(
    table: TableAddress,
    *,
    leave: Callable[[RunIdentity], str | None] = nobody,
    dry: bool = False,
    stop: Event | None = None,
    **settings: float,
) -> Upkeep:
    return Upkeeper(MaintenanceSettings(**settings), ME, leave, dry, stop or Event()).tend(table, compacts=True)


def table_of(tmp_path: Path, commits: int = 20) -> Owner:
    """One row a commit."""
    owner = owned.claim(owned.address(tmp_path))
    for offset in range(commits):
        commit(owner, range(offset, offset + 1))
    return owner


def contents(folder: Path) -> dict[str, str]:
    """Every file and what it holds."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def audited(table: TableAddress) -> list[str]:
    """What the audit's walk over the commits finds."""
    walk = Walk(table, multiplies=False).all(commits_of(table, DeltaTable(table.uri).version()))
    return [finding.what for finding in walk.findings]


def test_small_files_become_one_and_a_second_call_has_nothing_to_do(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    before = owner.version
    done = tend(owner.address)
    assert (done.merged.files, done.into.files) == (20, 1)
    assert (done.version, done.checkpoint) == (before + 1, before + 1)
    assert (done.removed.files, done.kept.files) == (0, 20)
    assert len(live_files(DeltaTable(owner.address.uri))) == 1
    assert owned.stored(owner.address) == {(0, offset): 1 for offset in range(20)}
    assert audited(owner.address) == []
    after = contents(tmp_path)
    again = tend(owner.address)
    assert not again.anything
    assert again.kept == done.kept
    assert contents(tmp_path) == after


def test_a_dry_run_says_it_and_changes_nothing(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    before = contents(tmp_path)
    said = tend(owner.address, dry=True)
    assert contents(tmp_path) == before
    done = tend(owner.address)
    assert (said.merged, said.into.files) == (done.merged, done.into.files)
    assert said.into.nbytes is None
    middle = contents(tmp_path)
    said = tend(owner.address, dry=True, retention_s=0)
    assert contents(tmp_path) == middle
    done = tend(owner.address, retention_s=0)
    assert (said.removed, said.log) == (done.removed, done.log)
    assert len(middle) - len(contents(tmp_path)) == done.removed.files + done.log.files > 40


def test_versions_of_the_retention_stay_readable(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    old = owner.version
    tend(owner.address, retention_s=3600)
    assert DeltaTable(owner.address.uri, version=old).to_pyarrow_table().num_rows == 20
    done = tend(owner.address, retention_s=0)
    assert done.removed.files == 20
    assert done.kept.files == 0
    assert owned.stored(owner.address).total() == 20
    assert newest(owner.address) is not None
    assert owned.claim(owner.address, 2).totals == owner.totals
    assert not tend(owner.address, retention_s=0).removed.files


def test_the_next_run_goes_on_after_it_and_the_one_before_is_fenced(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    tend(owner.address)
    with pytest.raises(Fenced) as error:
        commit(owner, range(20, 21))
    assert (error.value.by, error.value.by_epoch) == (ME, owner.epoch + 1)
    after = owned.claim(owner.address, 3)
    commit(after, range(20, 21))
    assert owned.stored(owner.address).total() == 21
    assert audited(owner.address) == []


def test_what_may_have_an_owner_at_work_is_left_to_it(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    before = contents(tmp_path)
    done = tend(owner.address, leave=lambda run: f"{run} is at work")
    assert done.left == f"{owned.run()} is at work"
    assert done.merged.files == 0
    assert {name for name in contents(tmp_path) if name not in before} == {
        f"core/flight/{owner.address.generation}/_delta_log/{owner.version:020}.checkpoint.parquet",
        f"core/flight/{owner.address.generation}/_delta_log/_last_checkpoint",
    }
    commit(owner, range(20, 21))
    assert owned.stored(owner.address).total() == 21


def test_an_owner_that_commits_meanwhile_keeps_the_table(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    files = set(owner.address.folder.glob("*.parquet"))

    def late(run: RunIdentity) -> None:
        commit(owner, range(20, 21))

    done = tend(owner.address, leave=late)
    assert "new owner" in done.left
    assert len(set(owner.address.folder.glob("*.parquet")) - files) == 1  # the owner's own
    commit(owner, range(21, 22))
    assert owned.stored(owner.address).total() == 22
    assert audited(owner.address) == []


def test_another_program_that_rewrites_meanwhile_is_not_undone(tmp_path: Path) -> None:
    owner = table_of(tmp_path)

    def late(run: RunIdentity) -> None:
        DeltaTable(owner.address.uri).delete("_offset = 3")

    done = tend(owner.address, leave=late)
    assert "out of date" in done.left
    assert owned.stored(owner.address).total() == 19


class Late(Event):
    """Set when it is asked the n-th time: first before the work, then once for each row group."""

    def __init__(self, nth: int) -> None:
        super().__init__()
        self.left = nth

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_stopped_on_the_way_it_leaves_no_file(tmp_path: Path, nth: int) -> None:
    owner = table_of(tmp_path, 70)
    before = contents(tmp_path)
    assert tend(owner.address, dry=True, target_file_bytes=65536).into.files == 2
    with pytest.raises(Stopped):
        tend(owner.address, stop=Late(nth), target_file_bytes=65536)
    assert contents(tmp_path) == before


def test_a_failed_table_stays_failed(tmp_path: Path) -> None:
    owner = table_of(tmp_path)
    failure = Failure("core.flight", "a rule", ("flights/0/20..30",), "kappa run")
    owner.fail(failure)
    tend(owner.address)
    last = newest(owner.address)
    assert last is not None
    assert last.record is not None
    assert last.operation == "OPTIMIZE"
    assert last.record.failure == failure


def test_a_table_without_its_ledger_is_not_touched(tmp_path: Path) -> None:
    table = owned.address(tmp_path)
    table.folder.mkdir(parents=True)
    for offset in range(3):
        write_deltalake(table.uri, owned.rows(0, range(offset, offset + 1)), mode="append")
    before = contents(tmp_path)
    with pytest.raises(LedgerLost):
        tend(table)
    assert contents(tmp_path) == before


sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 400)), max_size=60)


@given(sizes, st.integers(64, 2_000), st.floats(0.05, 1.2))
def test_passes_end_with_no_small_neighbours(files: list[tuple[int, int]], target: int, shrink: float) -> None:
    live = [LiveFile(f"part-{n}", (), rows, nbytes, n) for n, (rows, nbytes) in enumerate(files)]
    while runs := choose_all(live, target):
        for run in runs:
            assert len(run) >= 2
            assert sum(file.nbytes for file in run) <= target
            assert all(file.nbytes * 2 < target and file.rows for file in run)
            at = live.index(run[0])
            assert live[at : at + len(run)] == run
            nbytes = max(1, int(sum(file.nbytes for file in run) * shrink))
            live[at : at + len(run)] = [LiveFile("+".join(f.path for f in run), (), sum(f.rows for f in run), nbytes, run[-1].order_ms)]
    small = [file.nbytes * 2 < target and file.rows > 0 for file in live]
    assert not any(left and right for left, right in pairwise(small))


# --- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tables and one of rejects, whose run has ended; a table of a run on another machine."""
    (tmp_path / "warehouse.toml").write_text('name = "test"\n')
    for name in ("staging.s", "staging.s__rejected", "core.c", "core.far"):
        monkeypatch.setattr(stored, "RUN", RunIdentity("far", 1, "2001-01-01T00:00:00.000000Z") if name == "core.far" else ENDED)
        root = Root(tmp_path / "data")
        table = root.table(name)
        for number in range(5):
            table.commit({0: (number * 10, number * 10 + 10, range(number * 10, number * 10 + 10))})
    root.view("analytics.v", "FROM core.c")
    return tmp_path


def kappa(folder: Path, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["-C", str(folder), *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.return_value or 0, done.stdout


def report(folder: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    got, text = kappa(folder, "maintain", "--json", *arguments)
    assert got == status
    return {table["table"]: table for table in json.loads(text)["tables"]}


def test_all_tables_or_those_that_are_named(folder: Path) -> None:
    assert list(report(folder, "staging.s")) == ["staging.s", "staging.s__rejected"]
    assert list(report(folder, "staging.s__rejected")) == ["staging.s__rejected"]
    everything = report(folder)
    assert list(everything) == ["core.c", "core.far", "staging.s", "staging.s__rejected"]
    assert [table["compaction"]["replaced"]["files"] for table in everything.values()] == [5, 0, 0, 0]
    assert "another machine" in everything["core.far"]["compaction"]["left"]
    assert report(folder, "--take-over", "core.far")["core.far"]["compaction"]["by"]["files"] == 1
    status, text = kappa(folder, "maintain")
    assert (status, text.splitlines()[0]) == (0, "4 tables: nothing to do")


@pytest.mark.parametrize("name", ["core.nothing", "analytics.v", "c"])
def test_unknown_names_are_wrong_usage(folder: Path, name: str) -> None:
    with pytest.raises(UsageError) as error:
        kappa(folder, "maintain", name)
    assert error.value.exit_status == 2


def test_a_table_that_cannot_be_maintained_is_said_and_the_others_are(folder: Path) -> None:
    c, s = (next((folder / "data" / part).iterdir()) for part in ("core/c", "staging/s"))
    DeltaTable(str(c)).alter.set_table_properties({"delta.setTransactionRetentionDuration": "interval 1 days"})
    for path in (s / "_delta_log").iterdir():
        path.unlink()
    tables = report(folder, status=1)
    assert "altered by another program" in tables["core.c"]["error"]["what"]
    assert "cannot be read" in tables["staging.s"]["error"]["what"]
    assert list(tables["staging.s"]["error"]) == ["what", "cause", "next_step"]
    assert tables["staging.s__rejected"]["compaction"]["by"]["files"] == 1


def test_who_has_ended() -> None:
    assert not has_ended(this_process())
    assert has_ended(ENDED)
    assert not has_ended(RunIdentity("far", 1, "2001-01-01T00:00:00.000000Z"))


def test_a_killed_process_that_nobody_has_waited_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        run = RunIdentity(socket.gethostname(), process.pid, "2999-01-01T00:00:00.000000Z")
        assert not has_ended(run)
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert has_ended(run)


def maintain(folder: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.cli", "-C", str(folder), "maintain"]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def rows(folder: Path, *tables: str) -> dict[str, int]:
    """Table -> its rows, none of them twice."""
    counts = {}
    with Warehouse.open(folder) as warehouse:
        for name in tables:
            ((every, distinct),) = warehouse.sql(f"SELECT count(*), count(DISTINCT n) FROM {name}").relation.fetchall()
            assert every == distinct, name
            counts[name] = every
    return counts


@pytest.mark.parametrize("fault", ["during-compaction:1", "compacted:1"])
def test_killed_on_the_way_it_is_called_again(folder: Path, fault: str) -> None:
    process = maintain(folder, KAPPA_FAULT=fault)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert rows(folder, "core.c") == {"core.c": 50}
    done = report(folder)
    assert rows(folder, *done) == dict.fromkeys(done, 50)
    generation = done["core.c"]["generation"]
    address = TableAddress(str(folder / "data"), "core.c", generation)
    assert len(live_files(DeltaTable(address.uri))) == 1
    assert audited(address) == []
    assert not any(table["checkpoint"] for table in report(folder).values())


def test_ctrl_c_ends_it_between_two_steps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "RUN", ENDED)
    root = Root(folder / "data")
    for number in range(40):
        table = root.table(f"core.many{number}")
        for offset in range(3):
            table.commit({0: (offset, offset + 1, [offset])})
    process = maintain(folder)
    checkpoint = next((folder / "data/core/c").iterdir()) / "_delta_log/_last_checkpoint"
    while not checkpoint.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, out + err
    assert "interrupted" in err
    assert "core.c " in out
    done = report(folder)
    assert 0 < sum(table["compaction"]["by"]["files"] for table in done.values()) <= 42
    assert rows(folder, *(name for name in done if "many" in name)) == {f"core.many{number}": 3 for number in range(40)}


def test_an_error_names_the_next_command(folder: Path) -> None:
    (folder / "data/_kappa/catalog").rename(folder / "data/_kappa/gone")
    with pytest.raises(KappaError, match="no tables yet"):
        kappa(folder, "maintain")
