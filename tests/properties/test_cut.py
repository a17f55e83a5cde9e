"""The cut against an oracle that tries every vector."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sinks.cut import Cut, Held, Undecided, compute_cut


@st.composite
def sources(draw: st.DrawFn) -> list[Held]:
    """One source: a chain of vectors, of which each table holds a run of versions (some twice: empty commits)."""
    partitions = draw(st.integers(1, 3))
    vector = [0] * partitions
    chain = []
    for _ in range(draw(st.integers(1, 8))):
        vector = [position + draw(st.integers(0, 3)) for position in vector]
        vector[draw(st.integers(0, partitions - 1))] += 1
        chain.append({("t", p): position for p, position in enumerate(vector)})
    tables = []
    for n in range(draw(st.integers(1, 4))):
        kept = sorted(draw(st.sets(st.integers(0, len(chain) - 1), min_size=1)))
        version = draw(st.integers(0, 5))
        versions = []
        for index in kept:
            for _ in range(draw(st.integers(1, 2))):
                versions.append((version, chain[index]))
                version += draw(st.integers(1, 2))
        tables.append(Held(f"core.t{n}", versions))
    return tables


def vector_of(held: Held, version: int) -> frozenset[object]:
    return frozenset(dict(held.versions)[version].items())


@given(sources())
def test_the_cut_is_the_greatest_vector_that_all_hold(tables: list[Held]) -> None:
    cut = compute_cut(tables)
    out = {left.table for left in cut.left_out}
    inside = [held for held in tables if held.table not in out]
    assert inside
    at = {vector_of(held, cut.versions[held.table]) for held in inside}
    assert len(at) == 1
    (vector,) = at
    assert {(("t", p), position) for p, position in cut.vectors["t"].items()} == vector
    shared = set.intersection(*({frozenset(v.items()) for _, v in held.versions} for held in inside))
    assert sum(p for _, p in vector) == max(sum(p for _, p in v) for v in shared)  # type: ignore[misc]
    for held in inside:  # of equal vectors the newest version: it has the fewest files
        assert cut.versions[held.table] == max(v for v, positions in held.versions if frozenset(positions.items()) == vector)


@given(sources())
def test_a_table_is_left_out_only_when_there_is_no_common_vector(tables: list[Held]) -> None:
    shared = set.intersection(*({frozenset(v.items()) for _, v in held.versions} for held in tables))
    cut = compute_cut(tables)
    assert bool(cut.left_out) == (not shared)
    for left in cut.left_out:
        held = next(held for held in tables if held.table == left.table)
        assert left.version == cut.versions[left.table] == held.versions[-1][0]
        assert left.table in str(left)


@given(sources(), st.data())
def test_reading_only_the_newest_versions_never_changes_the_cut(tables: list[Held], data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 4))
    newest = [Held(held.table, held.versions[-limit:], complete=len(held.versions) <= limit) for held in tables]
    try:
        cut = compute_cut(newest)
    except Undecided:
        return
    assert cut == compute_cut(tables)


def test_failed_and_empty_tables_do_not_hold_the_others_back() -> None:
    cut = compute_cut(
        [
            Held("staging.s", [(1, {}), (2, {("t", 0): 5}), (3, {("t", 0): 9})]),
            Held("core.failed", [(7, {("t", 0): 5})], failed="rule broken"),
            Held("core.fresh", [(0, {})]),
            Held("core.other", [(4, {("u", 0): 2})]),
        ]
    )
    assert cut.versions == {"staging.s": 3, "core.failed": 7, "core.fresh": 0, "core.other": 4}
    assert cut.vectors == {"t": {0: 9}, "u": {0: 2}}
    assert [left.table for left in cut.left_out] == ["core.failed", "core.fresh"]
    assert "rule broken" in str(cut.left_out[0])


def test_two_tables_are_read_where_they_agree() -> None:
    a = Held("core.a", [(1, {("t", 0): 5}), (2, {("t", 0): 9}), (3, {("t", 0): 12})])
    b = Held("core.b", [(1, {("t", 0): 5}), (2, {("t", 0): 9})])
    assert compute_cut([a, b]) == Cut({"core.a": 2, "core.b": 2}, {"t": {0: 9}}, [])


def test_undecided_when_the_answer_may_lie_in_older_versions() -> None:
    with pytest.raises(Undecided):
        compute_cut([Held("a", [(2, {("t", 0): 9})], complete=False), Held("b", [(1, {("t", 0): 5})])])
