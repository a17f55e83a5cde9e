"""Walking commits: what the owner writes is sound, and each way of breaking it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.ledger import LogIdentity, Span
from infra.audit.commits import Commit, Walk, check_identity, commits_of
from sinks.address import TableAddress
from sinks.record import CommitRecord
from tests.stored import LOG, TOPIC, Root

PLACE = (TOPIC, 0)


@pytest.fixture
def commits(tmp_path: Path) -> list[Commit]:
    """Four commits of partition 0, of which the third moves only partition 1."""
    table = Root(tmp_path / "data").table("core.c")
    table.commit({0: (0, 10, range(10)), 1: (0, 0, [])})
    table.commit({0: (10, 25, range(10, 20))}, filtered=3, rejected=2)
    table.commit({1: (0, 5, range(5))})
    table.commit({0: (25, 30, [])})
    return list(commits_of(table.owner.address, 10**6))


def walk(commits: list[Commit], multiplies: bool = False) -> list[str]:
    address = TableAddress("data", "core.c", "0123456789ab-1")
    return [finding.what for finding in Walk(address, multiplies).all(commits).findings]


def test_what_the_owner_writes_is_sound(commits: list[Commit]) -> None:
    walked = Walk(TableAddress("data", "core.c", "0123456789ab-1"), False).all(commits)
    assert walked.findings == []
    assert walked.walked == {(TOPIC, 0): 3, (TOPIC, 1): 2}
    assert walked.record is not None
    assert walked.record.totals[PLACE] == Span(0, 30, 25, 20, 3, 2)


def test_old_commits_may_be_cleaned_up(commits: list[Commit]) -> None:
    for first in range(len(commits)):
        assert walk(commits[first:]) == []


def record_of(commit: Commit) -> CommitRecord:
    assert commit.record is not None
    return commit.record


def with_range(commit: Commit, **changes: int) -> Commit:
    record = record_of(commit)
    span = replace(record.ranges[PLACE], **changes)
    return replace(commit, record=replace(record, ranges={**record.ranges, PLACE: span}))


def with_totals(commit: Commit, **changes: int) -> Commit:
    record = record_of(commit)
    return replace(commit, record=replace(record, totals={**record.totals, PLACE: replace(record.totals[PLACE], **changes)}))


@pytest.mark.parametrize(
    ("number", "change", "expected"),
    [
        (3, lambda c: with_range(c, start=12), "a gap"),
        (3, lambda c: with_range(c, start=8), "an overlap"),
        (3, lambda c: with_range(c, written=9), "do not balance"),
        (3, lambda c: with_totals(c, read=26), "do not balance"),
        (3, lambda c: with_totals(c, filtered=4, rejected=1), "not the previous totals and the range"),
        (3, lambda c: with_totals(c, end=24), "the totals do not end where the range does"),
        (3, lambda c: replace(c, txns={**c.txns, "kappa/core.c/0123456789ab-1/t/0": 24}), "Delta's transaction says 24"),
        (3, lambda c: replace(c, txns={"kappa/core.c/0123456789ab-1/t/0": 25}), "owner transaction"),
        (3, lambda c: replace(c, rows=9), "added 9 rows"),
        (3, lambda c: replace(c, rows=11), "added 11 rows"),
        (3, lambda c: replace(c, removes=1), "removed 1 files"),
        (4, lambda c: with_totals(c, written=14, read=19), "not the previous totals"),
        (5, lambda c: replace(c, record=replace(record_of(c), epoch=0)), "was not fenced"),
        (4, lambda c: replace(c, record=None, adds=1), "another program"),
        (4, lambda c: replace(c, record=None), "moves positions and has no ledger"),
    ],
)
def test_each_way_of_breaking_a_ledger_is_found(
    commits: list[Commit], number: int, change: Callable[[Commit], Commit], expected: str
) -> None:
    commits[number] = change(commits[number])
    assert any(expected in what for what in walk(commits)), walk(commits)


def test_rows_may_outnumber_records_only_where_unnest_multiplies(commits: list[Commit]) -> None:
    commits[3] = replace(commits[3], rows=25)
    assert walk(commits, multiplies=True) == []
    assert walk(commits) != []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(2, 5), name=st.sampled_from(["read", "written", "filtered", "rejected", "start", "end"]), by=st.integers(1, 9))
def test_any_altered_count_is_found(commits: list[Commit], number: int, name: str, by: int) -> None:
    altered = list(commits)
    total = record_of(altered[number]).totals[PLACE]
    altered[number] = with_totals(altered[number], **{name: getattr(total, name) + by})
    assert walk(altered)


def test_a_missing_version_is_found(commits: list[Commit]) -> None:
    assert any("versions 3 to 3 are missing" in what for what in walk(commits[:3] + commits[4:]))


def test_identity(commits: list[Commit]) -> None:
    record = record_of(commits[-1])
    assert check_identity(record, TOPIC, LOG) is None
    assert "cluster" in str(check_identity(record, TOPIC, LogIdentity("cluster-2", LOG.topics)))
    assert "topic id" in str(check_identity(record, TOPIC, LogIdentity(LOG.cluster, {TOPIC: "topic-2"})))
