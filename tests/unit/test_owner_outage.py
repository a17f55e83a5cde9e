"""The storage goes out of reach in the middle of a commit: nothing is doubled, and the owner is not taken for another."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

import sinks.log
from flows.batch import Failure
from flows.ledger import Span
from flows.settings import MaintenanceSettings
from sinks.compaction import live_files, rewrite
from sinks.errors import CommitFailed
from sinks.landing import land
from sinks.log import DeltaLog
from sinks.maintenance import Maintenance
from sinks.owner import PUT_ATTEMPTS, Rewrite
from sinks.table import open_table
from tests.owned import TOPIC, address, claim, commit, stored, txns
from tests.properties.test_merge import TOPIC as MERGED
from tests.properties.test_merge import Process, table


@pytest.mark.parametrize("looks", [1, PUT_ATTEMPTS - 1, PUT_ATTEMPTS])
def test_a_commit_that_landed_is_found_however_late_the_storage_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """``looks``: how many looks for it fail."""
    owner = claim(address(tmp_path))
    put, read, failed = sinks.log.put_if_absent, DeltaLog.read, []

    def unanswered(path: Path, data: bytes, *, durable: bool) -> bool:
        put(path, data, durable=durable)
        raise TimeoutError("no answer")

    def out_of_reach(log: DeltaLog, version: int) -> object:
        if len(failed) < looks:
            failed.append(version)
            raise TimeoutError("out of reach")
        return read(log, version)

    monkeypatch.setattr(sinks.log, "put_if_absent", unanswered)
    monkeypatch.setattr(DeltaLog, "read", out_of_reach)
    if looks < PUT_ATTEMPTS:
        assert commit(owner, range(3)).version == 2
    else:
        with pytest.raises(CommitFailed, match="out of reach"):
            commit(owner, range(3))
        with pytest.raises(CommitFailed, match="has landed that it had given up"):  # not: fenced by itself
            owner.fail(Failure("core.flight", "the commit failed", (), ""))
        with pytest.raises(CommitFailed, match="has landed"):
            commit(owner, range(3))
    monkeypatch.undo()
    assert stored(owner.address).total() == 3
    assert txns(owner.address) == {0: 3}
    assert claim(owner.address, 2).positions == {(TOPIC, 0): 3}


@pytest.fixture
def lost_answer(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The next commit lands, and neither its answer nor any look for it arrives. ``undo`` ends it."""
    put, read, failed = sinks.log.put_if_absent, DeltaLog.read, []

    def unanswered(path: Path, data: bytes, *, durable: bool) -> bool:
        put(path, data, durable=durable)
        raise TimeoutError("no answer")

    def out_of_reach(log: DeltaLog, version: int) -> object:
        if len(failed) < PUT_ATTEMPTS:
            failed.append(version)
            raise TimeoutError("out of reach")
        return read(log, version)

    monkeypatch.setattr(sinks.log, "put_if_absent", unanswered)
    monkeypatch.setattr(DeltaLog, "read", out_of_reach)
    return monkeypatch


def test_the_files_of_a_merge_that_may_have_landed_stay(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with ThreadPoolExecutor(2) as pool:
        upserts = Process(tmp_path, [], pool)
        upserts.commit(0, table(0, 0, [(1, "a", 1, False), (2, "a", 1, False)]))
        pending = upserts.merge.pending()
        pending.write(table(0, 2, [(1, "a", 2, False)]))
        lost_answer = request.getfixturevalue("lost_answer")
        with pytest.raises(CommitFailed):
            land(pending, upserts.owner, {(MERGED, 0): Span(2, 3, 1, 1, 0, 0)})
        pending.discard()  # as all who commit do when that fails
        lost_answer.undo()
        assert sorted(offset for _, offset in stored(upserts.address)) == [1, 2]


def test_the_files_of_a_compaction_that_may_have_landed_stay(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    owner = claim(address(tmp_path))
    commit(owner, range(3))
    commit(owner, range(3, 6))
    delta = open_table(owner.address)
    job: Future[Rewrite | None] = Future()
    job.set_result(rewrite(owner.address, delta, [live_files(delta)], durable=False, stop=Event()))
    lost_answer = request.getfixturevalue("lost_answer")
    with ThreadPoolExecutor(1) as pool, pytest.raises(CommitFailed):
        Maintenance(MaintenanceSettings(), pool)._commit(owner, job)
    lost_answer.undo()
    assert stored(owner.address).total() == 6
