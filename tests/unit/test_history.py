"""What the commits of a table say, newest first."""

from __future__ import annotations

from pathlib import Path

from deltalake import DeltaTable

from flows.batch import Failure
from sinks.cleanup import clean_log
from sinks.history import commits, newest
from sinks.log import DeltaLog
from tests.owned import TOPIC, address, claim, commit, run


def test_a_table_that_does_not_exist_has_no_history(tmp_path: Path) -> None:
    assert list(commits(address(tmp_path))) == []
    assert newest(address(tmp_path)) is None


def test_commits_tell_who_did_what(tmp_path: Path) -> None:
    owner = claim(address(tmp_path), 7)
    info = commit(owner, range(4))
    owner.fail(Failure("core.flight", "boom", ("flights/0/4",), "kappa run"))
    found = list(commits(owner.address))
    assert [(each.version, each.operation) for each in found] == [(3, "FAIL"), (2, "WRITE"), (1, "CLAIM"), (0, "CREATE TABLE")]
    assert [each.rows_added for each in found] == [0, 4, 0, 0]
    assert found[1].at == info.at
    assert found[1].record == info.record
    assert found[0].record is not None
    assert found[0].record.run == run(7)
    assert found[0].record.failure == Failure("core.flight", "boom", ("flights/0/4",), "kappa run")
    assert found[3].record is None
    assert all(each.readable for each in found)


def test_after_a_cleanup_the_last_ledger_is_still_found(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    for offset in range(3):
        commit(owner, range(offset, offset + 1))
    DeltaTable(owner.address.uri).optimize.compact()
    DeltaTable(owner.address.uri).create_checkpoint()
    assert clean_log(DeltaLog(owner.address.folder), 0, owner.own_version) > 0
    assert [(each.version, each.readable) for each in commits(owner.address)] == [(5, True), (4, False)]
    found = newest(owner.address)
    assert found is not None
    assert found.record is not None
    assert found.record.positions == {(TOPIC, 0): 3}
