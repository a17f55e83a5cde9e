"""Comparing rows that should be there with rows that are."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from infra.audit.compare import compare

NAN = float("nan")


def table(offsets: list[int], **columns: pa.Array) -> pa.Table:
    return pa.table({"_offset": pa.array(offsets, pa.int64()), **columns})


rows = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2), st.one_of(st.none(), st.floats())), max_size=12)


def made(content: list[tuple[int, int, float | None]]) -> pa.Table:
    offsets, ordinals, values = zip(*sorted(content, key=lambda row: row[:2]), strict=True) if content else ((), (), ())
    return table(list(offsets), _row=pa.array(ordinals, pa.int32()), x=pa.array(values, pa.float64()))


@given(rows, rows)
def test_positions_that_differ_are_named(ours: list[tuple[int, int, float | None]], theirs: list[tuple[int, int, float | None]]) -> None:
    difference = compare(made(ours), made(theirs))
    left = sorted(row[:2] for row in ours)
    right = sorted(row[:2] for row in theirs)
    if left == right:
        assert not difference.missing
        assert not difference.extra
    else:
        for row in right:
            if row in left:
                left.remove(row)
        assert difference.missing == sorted({offset for offset, _ in left})
        assert difference.missing or difference.extra


@given(rows)
def test_equal_rows_do_not_differ(ours: list[tuple[int, int, float | None]]) -> None:
    assert not compare(made(ours), made(ours))


def test_values_are_compared_bit_for_bit() -> None:
    ours = table([1, 2, 3, 4], x=pa.array([NAN, 0.0, 1.0, None]), s=pa.array(["a", None, "c", ""]), z=pa.array([[1], None, [NAN], []]))
    assert not compare(ours, ours)
    theirs = table([1, 2, 3, 4], x=pa.array([NAN, -0.0, 1.0, 0.0]), s=pa.array(["a", None, "c", None]), z=pa.array([[1], None, [NAN], []]))
    difference = compare(ours, theirs)
    assert difference.changed == [2, 4]
    assert difference.columns == ["x", "s"]


def test_a_repeated_row_is_extra() -> None:
    assert compare(table([1, 2]), table([1, 2, 2])).extra == [2]
    assert compare(table([1, 2, 2]), table([1, 2])).missing == [2]
