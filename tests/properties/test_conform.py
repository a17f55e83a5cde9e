"""Any row-local SQL, over any rows, cut into any batches, gives what DuckDB gives for the same SQL; and every record ends in one place.

The oracle shares no code with kappa: DuckDB runs the SQL as written over each record alone, and over all of them at once.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flows.batch import RECORDS, UTC_MICROSECONDS, Batch
from flows.conform import Conform
from flows.plan import Node
from tests.folder import append, plan

# Expressions by type over the columns of a relation that has flight, code, delay, tags and scores.
LEAVES = {
    "integer": [
        "flight",
        "len(tags)",
        "len(code)",
        "7",
        "CAST(code AS INTEGER)",
        "CAST(code AS INTEGER)",
        "CAST(list_sum(scores) AS integer)",
        "CAST(NULL AS integer)",
    ],
    "text": ["code", "upper(code)", "'x'", "CAST(flight AS varchar)", "tags[1]", "array_to_string(tags, '-')"],
    "double": ["delay", "delay * 2", "CAST(code AS DOUBLE)", "sqrt(delay)"],
    "list": [
        "string_split(code, '1')",
        "tags",
        "[code, upper(code)]",
        "list_transform(tags, t -> t || '!')",
        "[code, 'z']",
        "CAST([] AS varchar[])",
    ],
}


def expressions(kind: str) -> st.SearchStrategy[str]:
    leaf = st.sampled_from(LEAVES[kind])
    if kind == "integer":
        return st.recursive(
            leaf, lambda inner: st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%"]), inner).map(_operation), max_leaves=3
        )
    if kind == "text":
        return st.recursive(leaf, lambda inner: st.tuples(inner, st.just("||"), inner).map(_operation), max_leaves=3)
    return leaf


def _operation(parts: tuple[str, str, str]) -> str:
    return f"({' '.join(parts)})"


@st.composite
def conditions(draw: st.DrawFn) -> str:
    simple = st.one_of(
        st.tuples(expressions("integer"), st.sampled_from(["<", ">=", "<>"]), expressions("integer")).map(_operation),
        st.tuples(expressions("text"), st.sampled_from(["<>", ">=", "LIKE", "~"]), expressions("text")).map(_operation),
        st.sampled_from(["delay IS NULL", "code IN ('1', '12', 'x')", "flight > 0", "NOT delay > 0", "length(code) > 0", "true"]),
    )
    return draw(st.recursive(simple, lambda inner: st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(_operation), max_leaves=3))


@st.composite
def queries(draw: st.DrawFn) -> str:
    """One to three SELECTs, each over the one below: as subqueries or as CTEs; the columns keep their names and types."""
    unnests = st.sampled_from(["none", "none", "none", "list", "two", "struct"])
    wheres = st.integers(0, 3).flatmap(lambda number: conditions() if number == 0 else st.none())
    levels = draw(st.lists(st.tuples(unnests, wheres), min_size=1, max_size=3))
    ctes: list[str] = []
    source = "staging.flights"
    for number, (unnest, where) in enumerate(levels):
        items = {
            "flight": draw(st.just("flight") | expressions("integer")),
            "code": draw(st.just("code") | expressions("text")),
            "delay": draw(st.just("delay") | expressions("double")),
            "tags": draw(st.just("tags") | expressions("list")),
            "scores": "scores",
        }
        if unnest in ("list", "two"):
            items["code"] = f"unnest({draw(expressions('list'))})"
        if unnest == "two":
            items["flight"] = "unnest(scores)"
        if unnest == "struct":
            del items["code"], items["delay"]
            items["unnest({'code': code, 'delay': delay})"] = ""
        star = number == 0 and unnest == "none" and draw(st.booleans())
        written = ", ".join(f"{expression} AS {name}" if expression else name for name, expression in items.items())
        select = f"SELECT {'*' if star else written} FROM {source}" + (f" WHERE {where}" if where else "")
        if number == len(levels) - 1:
            return f"WITH {', '.join(ctes)} {select}" if ctes else select
        if draw(st.booleans()):
            ctes.append(f"c{number} AS ({select})")
            source = f"c{number}"
        else:
            source = f"({select}) AS s{number}"
    raise AssertionError


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "flight": st.integers(-3, 9) | st.integers(-3, 9) | st.none(),
            "code": st.sampled_from(["1", "12", "1", "911", "7", "2.5"]) | st.sampled_from(["x", "", "ä1b", None]),
            "delay": st.none() | st.sampled_from([-1.0, 0.0, 2.25, 1e300]),
            "tags": st.lists(st.sampled_from(["a", "1", "b1", None]), max_size=3) | st.none(),
            "scores": st.lists(st.sampled_from([0, 1, 2, None]), max_size=3) | st.none(),
        }
    ),
    min_size=2,
    max_size=12,
)
CONTRACT = """
topic = "t"
format = "json"
[columns]
flight = "integer"
code = "varchar"
delay = "double"
tags = "varchar[]"
scores = "integer[]"
"""
TYPES = {"flight": pa.int32(), "code": pa.string(), "delay": pa.float64(), "tags": pa.list_(pa.string()), "scores": pa.list_(pa.int32())}


def node_of(sql: str) -> Node | None:
    with tempfile.TemporaryDirectory() as folder:
        made = plan(Path(folder), {"sources/flights.toml": CONTRACT, "core/t.sql": append(sql)})
    unbound = [finding for finding in made.findings if "Cannot compare" not in finding.cause and "No function matches" not in finding.cause]
    assert not unbound, [sql, *map(str, unbound)]
    return made.nodes.get("core.t")


def staged(rows: Sequence[dict[str, Any]], offsets: Sequence[int]) -> pa.Table:
    count = len(rows)
    return pa.table(
        {
            **{name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()},
            "_extra": pa.nulls(count, pa.string()),
            "_partition": pa.array([3] * count, pa.int32()),
            "_offset": pa.array(offsets, pa.int64()),
            "_timestamp": pa.array([0] * count, UTC_MICROSECONDS),
        }
    )


def batch_of(offsets: Sequence[int]) -> Batch:
    count = len(offsets)
    columns = [
        pa.array(offsets, pa.int64()),
        pa.array([0] * count, UTC_MICROSECONDS),
        pa.array([b"k%d" % offset for offset in offsets], pa.binary()),
        pa.array([b"v%d" % offset for offset in offsets], pa.binary()),
        pa.nulls(count, RECORDS.field("headers").type),
    ]
    start, end = (offsets[0], offsets[-1] + 1) if offsets else (0, 0)
    return Batch("t", 3, start, end, pa.record_batch(columns, schema=RECORDS))


class Oracle:
    """DuckDB with the SQL as the user wrote it, evaluated literally: no optimizer but the one that leaves out what nothing uses."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.connection = duckdb.connect(config={"threads": 1})
        others = self.connection.execute("SELECT string_agg(name, ',') FROM duckdb_optimizers() WHERE name <> 'unused_columns'").fetchall()
        self.connection.execute(f"SET disabled_optimizers = '{others[0][0]}'; CREATE SCHEMA staging")

    def rows(self, rows: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]] | None:
        """The rows of the answer; None when the SQL raises."""
        given = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()})
        self.connection.register("given", given)
        self.connection.execute("CREATE OR REPLACE TABLE staging.flights AS FROM given")
        try:
            return self.connection.execute(self.sql).fetchall()
        except (duckdb.DataError, duckdb.ProgrammingError, duckdb.NotSupportedError):
            return None


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(sql=queries(), rows=ROWS, gaps=st.lists(st.integers(1, 4), min_size=12, max_size=12), cuts=st.sets(st.integers(0, 12)))
def test_conform_gives_what_duckdb_gives(sql: str, rows: list[dict[str, Any]], gaps: list[int], cuts: set[int]) -> None:
    node = node_of(sql)
    assume(node is not None)
    assert node is not None
    offsets = [100 + sum(gaps[: index + 1]) for index in range(len(rows))]
    oracle = Oracle(sql)
    alone = {offset: oracle.rows([row]) for offset, row in zip(offsets, rows, strict=True)}

    conform = Conform(node)
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [
        conform.conform(staged(rows[start:end], offsets[start:end]), batch_of(offsets[start:end]))
        for start, end in itertools.pairwise(edges)
    ]
    made = [row for part in parts for row in part.rows.to_pylist()]
    filtered = [offset for part in parts for offset in part.filtered.to_pylist()]
    rejected = [row["_offset"] for part in parts for row in part.rejects.to_pylist()]

    assert rejected == [offset for offset, expected in alone.items() if expected is None]
    assert filtered == [offset for offset, expected in alone.items() if expected == []]
    names = [name for name in node.schema.names if not name.startswith("_")]
    got: dict[int, list[tuple[Any, ...]]] = {}
    for row in made:
        got.setdefault(row["_offset"], []).append(tuple(row[name] for name in names))
    assert repr(got) == repr({offset: expected for offset, expected in alone.items() if expected})
    if node.has_row:
        assert [row["_row"] for row in made] == [index for rows_ in got.values() for index in range(len(rows_))]
    whole = oracle.rows(rows)
    if whole is not None and not rejected:
        assert sorted(map(repr, whole)) == sorted(repr(row) for rows_ in got.values() for row in rows_)


def test_rejects_carry_the_record(tmp_path: Path) -> None:
    node = node_of("SELECT flight, CAST(code AS integer) AS number FROM staging.flights WHERE flight > 0")
    assert node is not None
    codes = ["1", "x", "y", "2", "z"]
    rows = [{"flight": index, "code": code, "delay": None, "tags": None, "scores": None} for index, code in enumerate(codes)]
    result = Conform(node).conform(staged(rows, [10, 12, 13, 17, 18]), batch_of([10, 12, 13, 17, 18]))
    assert result.filtered.to_pylist() == [10]
    assert result.rows.column("number").to_pylist() == [2]
    rejects = result.rejects.to_pylist()
    assert [(row["_partition"], row["_offset"], row["key"], row["value"], row["code"]) for row in rejects] == [
        (3, 12, b"k12", b"v12", "transform_error"),
        (3, 13, b"k13", b"v13", "transform_error"),
        (3, 18, b"k18", b"v18", "transform_error"),
    ]
    assert rejects[0]["reason"] == "number: CAST(flights.code AS INTEGER) raised an error for code = 'x'"


@pytest.mark.parametrize("bad", [1, 500, 5000])
def test_many_bad_records_cost_little(bad: int) -> None:
    node = node_of("SELECT flight, CAST(code AS integer) AS number FROM staging.flights")
    assert node is not None
    rows = [{"flight": 1, "code": "x" if index < bad else "1", "delay": None, "tags": None, "scores": None} for index in range(5000)]
    conform = Conform(node)
    asked = []
    query = conform._query
    conform._query = lambda sql, rows: asked.append(sql) or query(sql, rows)  # type: ignore[method-assign, func-returns-value]
    result = conform.conform(staged(rows, range(5000)), batch_of(range(5000)))
    assert (result.rejects.num_rows, result.rows.num_rows) == (bad, 5000 - bad)
    assert len(asked) <= 3
