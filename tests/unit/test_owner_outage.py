"""The storage goes out of reach in the middle of a commit: nothing is doubled, and the owner is not taken for another."""

from __future__ import annotations

from pathlib import Path

import pytest

import sinks.log
from flows.batch import Failure
from sinks.errors import CommitFailed
from sinks.log import DeltaLog
from sinks.owner import PUT_ATTEMPTS
from tests.owned import TOPIC, address, claim, commit, stored, txns


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
