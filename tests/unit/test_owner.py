"""The owner's protocol: one process commits, whoever is stopped, woken, run twice or left without an answer."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

import sinks.log
from flows.batch import Failure
from flows.ledger import LogIdentity, Span
from sinks.cleanup import clean_log
from sinks.compaction import choose, live_files, rewrite
from sinks.errors import CommitFailed, Fenced, LedgerBroken, LedgerLost, LogChanged, RewriteStale, TableAltered
from sinks.files import FileWriter
from sinks.log import DeltaLog, info_of
from sinks.owner import Owner, Rewrite
from tests.owned import LOG, SCHEMA, TOPIC, address, claim, commit, rows, run, span, stored, txns


def once(stop: int) -> Counter[tuple[int, int]]:
    return Counter({(0, offset): 1 for offset in range(stop)})


def compaction(owner: Owner, fan_in: int = 2) -> Rewrite:
    table = DeltaTable(owner.address.uri)
    runs = choose(live_files(table), 1 << 30, fan_in)
    assert runs
    return rewrite(owner.address, table, runs, durable=False, stop=threading.Event())


def test_rows_and_positions_land_together(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    commit(owner, range(5))
    info = owner.commit(
        FileWriter(owner.address, SCHEMA).write(rows(0, range(5, 8))), {(TOPIC, 0): span(range(5, 9), rejected=1)}, {"rule": 2}
    )
    assert (info.version, info.rows, info.files) == (3, 3, 1)
    assert txns(owner.address) == {0: 9}
    assert owner.positions == {(TOPIC, 0): 9}
    assert owner.totals == {(TOPIC, 0): Span(0, 9, 9, 8, 0, 1)}
    assert stored(owner.address) == once(8)
    kappa = info_of(DeltaLog(owner.address.folder).read(3))["kappa"]
    assert kappa["ranges"] == {"flights/0": {"from": 5, "to": 9, "read": 4, "written": 3, "filtered": 0, "rejected": 1}}
    assert kappa["warned"] == {"rule": 2}
    assert kappa["run"] == {"host": "host", "pid": 1, "started_at": run(1).started_at}


def test_a_new_owner_goes_on_where_the_old_one_stopped(tmp_path: Path) -> None:
    commit(claim(address(tmp_path)), range(5))
    owner = claim(address(tmp_path), 2)
    assert (owner.epoch, owner.positions) == (2, {(TOPIC, 0): 5})
    commit(owner, range(5, 9))
    assert stored(owner.address) == once(9)


def test_a_fenced_owner_names_the_new_one_and_commits_nothing(tmp_path: Path) -> None:
    old = claim(address(tmp_path), 1)
    commit(old, range(3))
    new = claim(address(tmp_path), 2)
    for _ in range(2):  # also the second commit: a refresh must not make the old epoch good again
        with pytest.raises(Fenced) as fenced:
            commit(old, range(3, 6))
        assert fenced.value.by == run(2)
        assert "process 2 on host" in str(fenced.value)
        assert fenced.value.stops_run
    commit(new, range(3, 4))
    assert stored(new.address) == once(4)


@pytest.mark.parametrize("commits_of_the_twin", [0, 1, 12])
def test_a_twin_that_claims_between_two_commits_fences(tmp_path: Path, commits_of_the_twin: int) -> None:
    old = claim(address(tmp_path), 1)
    commit(old, range(1))
    twin = claim(address(tmp_path), 2)
    for offset in range(1, 1 + commits_of_the_twin):
        commit(twin, range(offset, offset + 1))
    DeltaTable(twin.address.uri).create_checkpoint()
    with pytest.raises(Fenced):
        commit(old, range(1, 2))
    assert stored(twin.address) == once(1 + commits_of_the_twin)


def test_a_twin_that_commits_other_partitions_is_fenced_too(tmp_path: Path) -> None:
    old = claim(address(tmp_path), 1)
    new = claim(address(tmp_path), 2)
    commit(new, range(2), partition=0)
    with pytest.raises(Fenced):
        commit(old, range(2), partition=1)


def test_of_two_claims_at_the_same_time_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(address(tmp_path), 1)
    put = DeltaLog.put

    def late(log: DeltaLog, version: int, body: bytes) -> bool:
        monkeypatch.setattr(DeltaLog, "put", put)
        claim(address(tmp_path), 3)  # lands after the other has read the epoch
        return put(log, version, body)

    monkeypatch.setattr(DeltaLog, "put", late)
    with pytest.raises(Fenced) as fenced:
        claim(address(tmp_path), 2)
    assert fenced.value.by == run(3)


def test_a_claim_takes_over_from_an_owner_that_goes_on_committing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = claim(address(tmp_path), 1)
    put = DeltaLog.put

    def late(log: DeltaLog, version: int, body: bytes) -> bool:
        monkeypatch.setattr(DeltaLog, "put", put)
        commit(old, range(3))
        return put(log, version, body)

    monkeypatch.setattr(DeltaLog, "put", late)
    new = claim(address(tmp_path), 2)
    assert new.positions == {(TOPIC, 0): 3}
    with pytest.raises(Fenced):
        commit(old, range(3, 4))
    commit(new, range(3, 4))
    assert stored(new.address) == once(4)


def test_threads_that_claim_at_once_make_one_owner_an_epoch(tmp_path: Path) -> None:
    claim(address(tmp_path))
    barrier, owners, refused = threading.Barrier(4), [], []

    def contend(pid: int) -> None:
        barrier.wait()
        try:
            owners.append(claim(address(tmp_path), pid))
        except Fenced as error:
            refused.append(error)

    threads = [threading.Thread(target=contend, args=(pid,)) for pid in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    epochs = [owner.epoch for owner in owners]
    assert len(epochs) + len(refused) == 4
    assert len(set(epochs)) == len(epochs)
    assert sorted(epochs) == list(range(2, 2 + len(epochs)))


def test_the_compaction_of_a_fenced_owner_is_refused(tmp_path: Path) -> None:
    old = claim(address(tmp_path), 1)
    for offset in range(4):
        commit(old, range(offset, offset + 1))
    work = compaction(old)
    claim(address(tmp_path), 2)
    with pytest.raises(Fenced):
        old.rewrite(work)
    assert stored(old.address) == once(4)


def test_a_compaction_of_files_that_another_program_removed_is_refused(tmp_path: Path) -> None:
    owner = claim(address(tmp_path), 1)
    for offset in range(4):
        commit(owner, range(offset, offset + 1))
    work = compaction(owner)
    DeltaTable(owner.address.uri).delete("_offset = 1")
    with pytest.raises(RewriteStale):
        owner.rewrite(work)
    commit(owner, range(4, 5))
    with pytest.raises(RewriteStale):  # still, after a commit that went past the other program's
        owner.rewrite(work)
    assert stored(owner.address) == once(5) - Counter({(0, 1): 1})


def test_a_compaction_beside_commits_keeps_every_row(tmp_path: Path) -> None:
    owner = claim(address(tmp_path), 1)
    for offset in range(4):
        commit(owner, range(offset, offset + 1))
    work = compaction(owner)
    commit(owner, range(4, 6))
    owner.rewrite(work)
    commit(owner, range(6, 7))
    assert stored(owner.address) == once(7)
    assert len(DeltaTable(owner.address.uri).file_uris()) == 3
    assert claim(owner.address, 2).positions == {(TOPIC, 0): 7}


@pytest.mark.parametrize("landed", [True, False])
def test_a_commit_without_an_answer_is_looked_for_before_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    owner = claim(address(tmp_path))
    put = sinks.log.put_if_absent
    calls = []

    def unanswered(path: Path, data: bytes, *, durable: bool) -> bool:
        calls.append(path)
        if len(calls) > 1:
            return put(path, data, durable=durable)
        if landed:
            put(path, data, durable=durable)
        raise TimeoutError("no answer")

    monkeypatch.setattr(sinks.log, "put_if_absent", unanswered)
    assert commit(owner, range(3)).version == 2
    assert len(calls) == (1 if landed else 2)
    commit(owner, range(3, 5))
    assert stored(owner.address) == once(5)
    assert txns(owner.address) == {0: 5}


def test_a_commit_without_an_answer_after_which_another_claimed_is_fenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = claim(address(tmp_path), 1)
    put = sinks.log.put_if_absent

    def unanswered(path: Path, data: bytes, *, durable: bool) -> bool:
        monkeypatch.setattr(sinks.log, "put_if_absent", put)
        claim(address(tmp_path), 2)
        raise TimeoutError("no answer")

    monkeypatch.setattr(sinks.log, "put_if_absent", unanswered)
    with pytest.raises(Fenced):
        commit(owner, range(3))
    assert not stored(owner.address)


def test_a_commit_that_the_storage_refuses_fails_and_names_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = claim(address(tmp_path))

    def full(path: Path, data: bytes, *, durable: bool) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sinks.log, "put_if_absent", full)
    with pytest.raises(CommitFailed, match="No space left"):
        commit(owner, range(3))
    monkeypatch.undo()
    assert owner.positions == {}
    commit(owner, range(3))
    assert stored(owner.address) == once(3)


def test_an_owner_that_slept_through_the_log_cleanup_is_fenced(tmp_path: Path) -> None:
    old = claim(address(tmp_path), 1)
    commit(old, range(1))
    new = claim(address(tmp_path), 2)
    for offset in range(1, 9):
        commit(new, range(offset, offset + 1))
    DeltaTable(new.address.uri).create_checkpoint()
    for version in range(new.version):
        DeltaLog(new.address.folder).commit_path(version).unlink()
    with pytest.raises(Fenced) as fenced:  # the version that it wants is free again
        commit(old, range(1, 2))
    assert fenced.value.by == run(2)
    commit(new, range(9, 10))
    assert stored(new.address) == once(10)


@pytest.mark.parametrize("cleaned", [False, True])
def test_an_owner_that_slept_between_its_commit_and_the_look_at_it_leaves_it_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cleaned: bool
) -> None:
    """Another owner goes on after the commit, and makes a checkpoint above it: what had landed stays part of the log."""
    old = claim(address(tmp_path), 1)
    put = sinks.log.put_if_absent

    def sleep(path: Path, data: bytes, *, durable: bool) -> bool:
        monkeypatch.setattr(sinks.log, "put_if_absent", put)
        landed = put(path, data, durable=durable)
        new = claim(address(tmp_path), 2)
        for offset in range(3, 15):
            commit(new, range(offset, offset + 1))
        DeltaTable(new.address.uri).create_checkpoint()
        if cleaned:
            clean_log(DeltaLog(new.address.folder), 0, new.own_version)
        return landed

    monkeypatch.setattr(sinks.log, "put_if_absent", sleep)
    if cleaned:
        with pytest.raises(Fenced):
            commit(old, range(3))
    else:
        assert commit(old, range(3)).version == 2
    with pytest.raises(Fenced):
        commit(old, range(3, 4))
    assert stored(old.address) == once(15)
    versions = DeltaLog(old.address.folder).versions()
    assert versions == list(range(15 if cleaned else 0, 16))


@pytest.mark.parametrize(
    "spans",
    [
        {(TOPIC, 0): Span(3, 5, 2, 1, 0, 0)},  # does not balance
        {(TOPIC, 0): Span(4, 5, 1, 1, 0, 0)},  # a gap
        {(TOPIC, 0): Span(2, 5, 3, 3, 0, 0)},  # an overlap
    ],
)
def test_a_ledger_that_does_not_add_up_is_not_committed(tmp_path: Path, spans: dict[tuple[str, int], Span]) -> None:
    owner = claim(address(tmp_path))
    commit(owner, range(3))
    with pytest.raises(LedgerBroken):
        owner.commit([], spans)
    assert (owner.version, txns(owner.address)) == (2, {0: 3})


def test_positions_move_without_rows(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    owner.commit([], {(TOPIC, 0): Span(7, 12, 0, 0, 0, 0)})
    assert claim(address(tmp_path), 2).totals == {(TOPIC, 0): Span(7, 12, 0, 0, 0, 0)}


def test_the_log_is_checked_before_every_commit(tmp_path: Path) -> None:
    def recreated() -> None:
        raise RuntimeError("the topic was made anew")

    owner = claim(address(tmp_path), verify_log=recreated)
    with pytest.raises(RuntimeError, match="anew"):
        commit(owner, range(1))
    assert txns(owner.address) == {0: None}


@pytest.mark.parametrize("log", [LogIdentity("cluster-1", {TOPIC: "topic-2"}), LogIdentity("cluster-2", {TOPIC: "topic-1"})])
def test_another_log_is_refused_with_positions_and_the_next_command(tmp_path: Path, log: LogIdentity) -> None:
    claim(address(tmp_path))
    commit(claim(address(tmp_path), 2), range(4))
    with pytest.raises(LogChanged) as changed:
        claim(address(tmp_path), 3, log)
    assert "flights/0/4" in str(changed.value)
    assert "topic-1" in str(changed.value)
    assert "kappa replay" in changed.value.next_step
    assert claim(address(tmp_path), 4).epoch == 3


def test_a_failure_is_kept_in_the_table_until_rows_are_committed(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    failure = Failure("core.flight", "boom", ("flights/0/0..3",), "kappa run")
    owner.fail(failure)
    assert owner.failure == failure
    again = claim(address(tmp_path), 2)
    assert again.failure == failure
    commit(again, range(3))
    assert again.failure is None
    assert claim(address(tmp_path), 3).failure is None


def test_totals_can_be_read_without_owning(tmp_path: Path) -> None:
    assert Owner.read_totals(address(tmp_path)) == {}
    owner = claim(address(tmp_path))
    commit(owner, range(4))
    assert Owner.read_totals(owner.address) == {(TOPIC, 0): span(range(4))}
    assert owner.epoch == 1


def test_other_programs_that_change_no_position_are_no_trouble(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    for offset in range(3):
        commit(owner, range(offset, offset + 1))
    table = DeltaTable(owner.address.uri)
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False)
    commit(owner, range(3, 5))
    assert stored(owner.address) == once(5)
    assert claim(owner.address, 2).positions == {(TOPIC, 0): 5}


def test_another_program_that_moves_a_position_is_an_error(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    commit(owner, range(3))
    properties = CommitProperties(app_transactions=[Transaction(owner.address.txn(TOPIC, 0), 1)])
    write_deltalake(owner.address.uri, rows(0, range(1)), mode="append", commit_properties=properties)
    with pytest.raises(LedgerBroken):
        commit(owner, range(3, 4))
    with pytest.raises(LedgerBroken):
        claim(owner.address, 2)


def test_a_table_that_would_forget_its_positions_is_refused(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    DeltaTable(owner.address.uri).alter.set_table_properties({"delta.setTransactionRetentionDuration": "interval 1 days"})
    with pytest.raises(TableAltered):
        commit(owner, range(1))
    with pytest.raises(TableAltered, match="setTransactionRetentionDuration"):
        claim(owner.address, 2)


def test_a_table_of_another_shape_is_refused(tmp_path: Path) -> None:
    claim(address(tmp_path))
    wider = SCHEMA.append(pa.field("more", pa.string()))
    with pytest.raises(TableAltered, match="more"):
        Owner.claim(address(tmp_path), wider, [], run(), LOG)
    with pytest.raises(TableAltered, match="partition"):
        Owner.claim(address(tmp_path), SCHEMA, ["_partition"], run(), LOG)


def test_rows_without_a_ledger_are_refused(tmp_path: Path) -> None:
    table = address(tmp_path)
    write_deltalake(table.uri, rows(0, range(3)))
    with pytest.raises((LedgerLost, TableAltered)):
        Owner.claim(table, SCHEMA, [], run(), LOG)


@pytest.mark.parametrize("durable", [False, True])
def test_only_a_durable_commit_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool) -> None:
    owner = claim(address(tmp_path), durable=durable)
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink())))
    files = FileWriter(owner.address, SCHEMA, durable=durable).write(rows(0, range(1)))
    owner.commit(files, {(TOPIC, 0): span(range(1))})
    log = str(owner.address.folder / "_delta_log")
    data = [str(owner.address.folder / files[0].path), str(owner.address.folder)]
    assert [path for path in synced if not path.endswith(".tmp")] == ([*data, log] if durable else [])
    assert len(synced) == (4 if durable else 0)


def test_commit_ids_sort_by_time(tmp_path: Path) -> None:
    owner = claim(address(tmp_path))
    ids = [commit(owner, range(offset, offset + 1)).record.id for offset in range(3)]
    assert len(set(ids)) == 3
    assert {len(each) for each in ids} == {26}
