"""Any interleaving of owners that commit, crash, sleep, lose answers, compact and clean up: every row exactly once, or fenced."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

import sinks.log
from sinks.address import root_folder
from sinks.cleanup import Vacuum, clean_log
from sinks.compaction import choose, live_files, rewrite
from sinks.errors import Fenced
from sinks.files import FileWriter
from sinks.history import commits, newest
from sinks.log import DeltaLog
from sinks.owner import Owner, Rewrite
from tests.owned import SCHEMA, TOPIC, address, claim, opened, rows, span, stored
from tests.s3 import S3Server

PARTITIONS = 2
PUT = sinks.log.put_if_absent


@dataclass
class Process:
    """A run that believes to own the table."""

    pid: int
    owner: Owner


class OwnersOfOneTable(RuleBasedStateMachine):
    processes = Bundle("processes")
    compactions = Bundle("compactions")

    def __init__(self) -> None:
        super().__init__()
        self.table = address(self.new_root())
        self.positions: Counter[int] = Counter()
        self.rejected = 0
        self.newest = 0

    def teardown(self) -> None:
        sinks.log.put_if_absent = PUT
        if isinstance(root := root_folder(self.table.root), Path):
            shutil.rmtree(root)

    def new_root(self) -> str:
        """A storage root of its own, in a folder."""
        return tempfile.mkdtemp(prefix="kappa-owner-")

    @rule(target=processes)
    def starts(self) -> Process:
        self.newest += 1
        process = Process(self.newest, claim(self.table, self.newest))
        assert process.owner.positions == self.expected()
        return process

    @rule(process=consumes(processes))
    def dies(self, process: Process) -> None:
        """The bundle drops it: nothing is closed, nothing is said."""

    @rule(
        process=processes,
        partition=st.integers(0, PARTITIONS - 1),
        size=st.integers(0, 3),
        answer=st.sampled_from(["yes", "lost", "failed"]),
    )
    def commits(self, process: Process, partition: int, size: int, answer: str) -> None:
        owner = process.owner
        start = owner.positions.get((TOPIC, partition), 0)
        offsets = range(start, start + size)
        files = FileWriter(self.table, SCHEMA).write(rows(partition, offsets))
        with_answer(answer)
        if process.pid == self.newest:
            owner.commit(files, {(TOPIC, partition): span(offsets)})
            self.positions[partition] = offsets.stop
        else:
            with pytest.raises(Fenced) as fenced:
                owner.commit(files, {(TOPIC, partition): span(offsets)})
            assert fenced.value.by is not None
            assert process.pid < fenced.value.by.pid <= self.newest
        sinks.log.put_if_absent = PUT

    @rule(target=compactions, process=processes)
    def starts_compaction(self, process: Process) -> tuple[Process, Rewrite]:
        table = opened(self.table)
        runs = choose(live_files(table), 1 << 30, 2)
        return (process, rewrite(self.table, table, runs, durable=False, stop=Event())) if runs else multiple()

    @rule(compaction=consumes(compactions))
    def ends_compaction(self, compaction: tuple[Process, Rewrite]) -> None:
        """An owner has one compaction at a time: one that another has made stale is not committed by the shipped code either."""
        process, work = compaction
        live = {file.path for file in live_files(opened(self.table))}
        if process.pid != self.newest:
            with pytest.raises(Fenced):
                process.owner.rewrite(work)
        elif {old.path for old in work.replaced} <= live:
            process.owner.rewrite(work)

    @precondition(lambda self: self.newest)
    @rule(process=processes)
    def cleans_up(self, process: Process) -> None:
        """Checkpoint, vacuum and log cleanup without any retention, also by one that is fenced and does not know it."""
        table = opened(self.table)
        table.create_checkpoint()
        Vacuum(self.table).run({file.path for file in live_files(table)}, table.version(), 0)
        clean_log(DeltaLog(self.table.folder), 0, process.owner.own_version)

    @precondition(lambda self: self.newest)
    @rule()
    def another_program_compacts(self) -> None:
        opened(self.table).optimize.compact()

    @invariant()
    def every_row_is_there_once_and_positions_agree(self) -> None:
        if not self.newest:
            return
        wanted = {(partition, offset): 1 for partition, position in self.positions.items() for offset in range(position)}
        assert stored(self.table) == wanted
        delta = opened(self.table)
        for partition, position in self.positions.items():
            assert delta.transaction_version(self.table.txn(TOPIC, partition)) == position
        assert delta.transaction_version(self.table.owner_txn) == self.newest
        ledger = newest(self.table)
        assert ledger is not None
        assert ledger.record is not None
        assert ledger.record.positions == self.expected()
        totals = Owner.read_totals(self.table)
        assert all(each.balanced and each.start == 0 for each in totals.values())

    @invariant()
    def the_ranges_of_the_log_join(self) -> None:
        if not self.newest:
            return
        ends: dict[tuple[str, int], int] = {}
        for commit in reversed(list(commits(self.table))):
            for partition, part in commit.record.ranges.items() if commit.record else ():
                assert ends.get(partition, part.start) == part.start
                ends[partition] = part.end

    def expected(self) -> dict[tuple[str, int], int]:
        return {(TOPIC, partition): position for partition, position in sorted(self.positions.items())}


def with_answer(answer: str) -> None:
    """The next put: answered, landed without an answer, or failed before it landed."""

    def put(path: Path, data: bytes, *, durable: bool) -> bool:
        sinks.log.put_if_absent = PUT
        if answer == "lost":
            PUT(path, data, durable=durable)
        raise TimeoutError("no answer")

    if answer != "yes":
        sinks.log.put_if_absent = put


class OwnersOnS3(OwnersOfOneTable):
    server: S3Server

    def new_root(self) -> str:
        return f"s3://{self.server.make_bucket()}"


def settings_of(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


OwnersOfOneTable.TestCase.settings = settings_of(25, 25)
TestOwnersOfOneTable = OwnersOfOneTable.TestCase


@pytest.mark.slow
def test_owners_on_s3(s3_server: S3Server, s3: str) -> None:
    """The same on an S3 server; a request takes a hundred times as long as a file does."""
    OwnersOnS3.server = s3_server
    run_state_machine_as_test(OwnersOnS3, settings=settings_of(4, 12))
