"""What a stage decides besides the types: headers, sizes, null values, rules, order, and the cost of a bad record."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from flows.batch import RECORDS, REJECTED, Batch, Staged
from flows.contract import Source
from flows.stage import RuleFailed, Stage

COLUMNS = {"a": "integer not null", "b": "varchar"}
BROKEN = [
    {"name": "kappa-load", "value": b"L1"},
    {"name": "kappa-broken", "value": b"unclosed quote"},
    {"name": "kappa-line", "value": b"17"},
    {"name": "kappa-file", "value": b"file:///f.csv"},
]


def source(**settings: Any) -> Source:
    return Source(**({"name": "s", "topic": "t", "format": "json", "columns": COLUMNS} | settings))


def batch(values: list[bytes | None], headers: dict[int, list[dict[str, Any]]] | None = None) -> Batch:
    """Offsets 100, 102, 104, ...: they are not dense."""
    count = len(values)
    columns = [
        pa.array(range(100, 100 + 2 * count, 2), pa.int64()),
        pa.array(range(count), RECORDS.field("_timestamp").type),
        pa.array([b"k%d" % index for index in range(count)], pa.binary()),
        pa.array(values, pa.binary()),
        pa.array([(headers or {}).get(index, []) for index in range(count)], RECORDS.field("headers").type),
    ]
    return Batch("t", 7, 90, 100 + 2 * count, pa.RecordBatch.from_arrays(columns, schema=RECORDS))


def codes(staged: Staged) -> dict[int, str]:
    return dict(zip(staged.rejects["_offset"].to_pylist(), staged.rejects["code"].to_pylist(), strict=True))


def test_rows_carry_their_position_and_types() -> None:
    contract = source()
    staged = Stage(contract).stage(batch([b'{"a":1,"b":"x"}', b'{"a":2}']))
    assert staged.rows.schema == contract.staging_schema
    assert staged.rows.drop(["_timestamp"]).to_pylist() == [
        {"a": 1, "b": "x", "_extra": None, "_partition": 7, "_offset": 100},
        {"a": 2, "b": None, "_extra": None, "_partition": 7, "_offset": 102},
    ]
    assert staged.rejects.schema == REJECTED
    assert (staged.rejects.num_rows, len(staged.filtered), staged.warned) == (0, 0, {})


def test_empty_batch() -> None:
    staged = Stage(source()).stage(batch([]))
    assert (staged.rows.num_rows, staged.rejects.num_rows, len(staged.filtered)) == (0, 0, 0)
    assert staged.rows.schema == source().staging_schema


def test_a_reject_keeps_the_record() -> None:
    staged = Stage(source()).stage(batch([b'{"a":1}', b'{"a":"1"}']))
    (reject,) = staged.rejects.to_pylist()
    assert (reject["_partition"], reject["_offset"], reject["key"], reject["value"]) == (7, 102, b"k1", b'{"a":"1"}')
    assert (reject["code"], reject["column"], reject["rule"]) == ("wrong_type", "a", None)
    assert reject["reason"] == "expected integer, found the string '1'"


def test_a_row_that_load_could_not_read() -> None:
    staged = Stage(source(format="csv")).stage(batch([b'1,"x', b'{"a":"1"}', None], {0: BROKEN, 2: BROKEN}))
    assert codes(staged) == {100: "unreadable_row", 104: "unreadable_row"}
    reject = staged.rejects.to_pylist()[0]
    assert reject["reason"] == "unclosed quote, line 17, file file:///f.csv, load L1"
    assert reject["headers"] == BROKEN
    assert staged.rows["_offset"].to_pylist() == [102]


@pytest.mark.parametrize("fast", [True, False])
def test_every_screen_at_once(fast: bool) -> None:
    values = [b'{"a":1}', None, b'{"a":1,"b":"' + b"x" * 2000 + b'"}', b"\xff", b'{"a":2}', b"", b"\xfe" * 2000]
    kept = Stage(source(null_values="delete", max_record_bytes=1024), fast=fast).stage(batch(values))
    assert codes(kept) == {104: "too_large", 106: "invalid_utf8", 110: "invalid_json", 112: "too_large"}
    assert kept.filtered.to_pylist() == [102]
    assert kept.rows["_offset"].to_pylist() == [100, 108]


def test_text_takes_one_varchar_column() -> None:
    staged = Stage(source(format="text", columns={"line": "varchar"})).stage(batch([b"x", "é".encode(), b"\xff", None]))
    assert staged.rows["line"].to_pylist() == ["x", "é"]
    assert staged.rows.schema.names == ["line", "_partition", "_offset", "_timestamp"]
    assert codes(staged) == {104: "invalid_utf8", 106: "null_value"}
    with pytest.raises(ValueError, match="exactly one varchar"):
        Stage(source(format="text", columns={"line": "blob"}))


def test_a_rule_rejects_what_is_false_and_passes_null() -> None:
    rules = {"positive": {"check": "a > 0"}, "short": {"check": "length(b) < 3"}}
    staged = Stage(source(rules=rules)).stage(batch([b'{"a":1}', b'{"a":0,"b":"long"}', b'{"a":1,"b":"long"}', b'{"a":1,"b":"x"}']))
    assert [(r["_offset"], r["code"], r["rule"]) for r in staged.rejects.to_pylist()] == [(102, "rule", "positive"), (104, "rule", "short")]
    assert staged.rows["_offset"].to_pylist() == [100, 106]


def test_a_rule_warns_about_rows_that_stay() -> None:
    rules = {"positive": {"check": "a > 0"}, "short": {"check": "length(b) < 3", "on_failure": "warn"}}
    staged = Stage(source(rules=rules)).stage(batch([b'{"a":0,"b":"long"}', b'{"a":1,"b":"long"}', b"{}", b'{"a":1,"b":"longer"}']))
    assert {name: offsets.to_pylist() for name, offsets in staged.warned.items()} == {"short": [102, 106]}
    assert staged.rows["_offset"].to_pylist() == [102, 106]


def test_a_rule_fails_at_the_first_position() -> None:
    rules = {"positive": {"check": "a > 0", "on_failure": "fail"}, "real": {"check": "a <> -1"}}
    stage = Stage(source(rules=rules))
    assert stage.stage(batch([b'{"a":1}', b'{"a":-1}'])).rows.num_rows == 1  # rejected by the other rule: nothing stays to fail for
    with pytest.raises(RuleFailed) as raised:
        stage.stage(batch([b'{"a":1}', b"null", b'{"a":-2}', b'{"a":-3}']))
    assert (raised.value.rule, raised.value.position) == ("positive", ("t", 7, 104))


def test_a_rule_that_raises_rejects_that_row_alone() -> None:
    rules = {"even": {"check": "a * 2 % 2 = 0"}, "small": {"check": "a < 5"}}
    values = [b'{"a":%d}' % (index % 5) for index in range(200)]
    values[77] = values[78] = b'{"a":2147483647}'
    values[150] = b'{"a":9}'
    staged = Stage(source(rules=rules)).stage(batch(list(values)))
    rejects = staged.rejects.to_pylist()
    assert [(r["_offset"], r["code"], r["rule"]) for r in rejects] == [(254, "rule", "even"), (256, "rule", "even"), (400, "rule", "small")]
    assert rejects[0]["reason"] == "a * 2 % 2 = 0 cannot be evaluated on this row"
    assert staged.rows.num_rows == 197


def test_only_rules_that_reject_decide_which_rows_there_are() -> None:
    """The others are not part of a fingerprint: also one whose expression raises leaves the row where it is."""
    values: list[bytes | None] = [b'{"a":1}', b'{"a":2147483647}', b'{"a":3}']
    even = {"check": "a * 2 % 2 = 0"}
    staged = Stage(source(rules={"even": {**even, "on_failure": "warn"}})).stage(batch(values))
    assert (staged.rows["_offset"].to_pylist(), staged.rejects.num_rows) == ([100, 102, 104], 0)
    assert {name: offsets.to_pylist() for name, offsets in staged.warned.items()} == {"even": [102]}
    with pytest.raises(RuleFailed, match="cannot be evaluated on this row") as raised:
        Stage(source(rules={"even": {**even, "on_failure": "fail"}})).stage(batch(values))
    assert raised.value.position == ("t", 7, 102)


@pytest.mark.parametrize(
    "check",
    [
        "b = 'x' AND CAST(b AS integer) > 0",
        "b <> 'x' OR CAST(b AS integer) > 0",
        "CASE WHEN b = 'x' THEN true ELSE CAST(b AS integer) > 0 END",
        "TRY_CAST(b AS integer) > 0",
        "a IS NOT NULL AND 10 / a > 1",
    ],
)
def test_a_check_means_what_it_means_in_a_select(check: str) -> None:
    """The oracle is DuckDB itself, asked row by row: AND and OR evaluate both sides there, CASE does not."""
    rows = [(1, "x"), (0, "1"), (20, "-1"), (3, None), (0, "x")]
    oracle = duckdb.connect()
    expected = []
    for a, b in rows:
        try:
            (passed,) = oracle.execute(f"SELECT ({check}) FROM (SELECT ?::integer AS a, ?::varchar AS b)", [a, b]).fetchone() or ()
        except duckdb.Error:
            passed = False
        expected.append(passed is not False)
    staged = Stage(source(rules={"it": {"check": check}})).stage(batch([json.dumps({"a": a, "b": b}).encode() for a, b in rows]))
    assert staged.rows["_offset"].to_pylist() == [100 + 2 * index for index, passed in enumerate(expected) if passed]


@pytest.mark.parametrize("bad", [b'{"a":1.5}', b'{"a":1', b'{"a":1,"b":"\\ud800"}', b"{}", b'{"a":1,"a":1}', b"[]", b'{"a":1}{"a":2}'])
def test_a_bad_record_costs_itself_and_not_its_neighbours(bad: bytes) -> None:
    values: list[bytes | None] = [b'{"a":%d,"b":"x"}' % index for index in range(20_000)]
    for index in (0, 5_000, 5_001, 19_999):
        values[index] = bad
    stage = Stage(source())
    staged = stage.stage(batch(values))
    assert staged.rejects["_offset"].to_pylist() == [100, 10_100, 10_102, 40_098]
    assert staged.rows["a"].to_pylist() == [index for index in range(20_000) if values[index] != bad]
    assert stage.tolerant_records <= 4 * 32


def test_unnamed_members_do_not_leave_the_fast_path() -> None:
    values: list[bytes | None] = [b'{"a":%d,"x":"%d"}' % (index, index) for index in range(1000)]
    stage = Stage(source())
    staged = stage.stage(batch(values))
    assert staged.rows["_extra"].to_pylist() == [f'{{"x":"{index}"}}' for index in range(1000)]
    assert stage.stage(batch([b'{"a":1}'] * 10)).rows["_extra"].null_count == 10
    assert stage.tolerant_records == 0


def test_a_sliced_batch_is_read_where_it_begins() -> None:
    records = batch([b'{"a":%d,"b":"%d"}' % (index, index) for index in range(50)]).records.slice(20, 10)
    staged = Stage(source()).stage(Batch("t", 7, 0, 1000, records))
    assert staged.rows["a"].to_pylist() == list(range(20, 30))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "value",
    [
        b'{"d":' + b"1" * 1_000_000 + b"}",
        b'{"d":0.' + b"1" * 1_000_000 + b"}",
        b'{"d":' + b"1e-" * 300_000 + b"}",
        b'{"d":1,' + b",".join(b'"x%d":1' % index for index in range(80_000)) + b"}",
        b'{"d":1,"x":"' + b'\\"' * 500_000 + b'"}',
        b'{"d":1,"x":' + b'"[{' * 300_000 + b"}",
    ],
)
def test_hostile_records_take_linear_time(value: bytes) -> None:
    contract = source(columns={"d": "decimal(10,2)"})
    records = batch([b'{"d":1}', value, b'{"d":2}'])
    fast = Stage(contract).stage(records)
    slow = Stage(contract, fast=False).stage(records)
    assert fast.rows.equals(slow.rows)
    assert fast.rejects.equals(slow.rejects)
    assert {100, 104} <= set(fast.rows["_offset"].to_pylist())


def test_headers_of_a_sliced_batch() -> None:
    records = batch([b"x"] * 6, {4: BROKEN}).records.slice(3, 2)
    staged = Stage(source(format="text", columns={"line": "varchar"})).stage(Batch("t", 7, 0, 1000, records))
    assert codes(staged) == {108: "unreadable_row"}
    assert staged.rows["_offset"].to_pylist() == [106]


def test_rejects_hold_no_batch_in_a_cycle() -> None:
    """The cycle collector runs rarely in a run: memory must not wait for it."""
    stage = Stage(source())
    stage.stage(batch([b"{"]))
    gc.collect()
    gc.disable()
    try:
        before = pa.total_allocated_bytes()
        for _ in range(10):
            stage.stage(batch([b'{"a": 1, "b": "%s"}' % (b"x" * 1_000_000), b'{"a": "x"}']))
        assert pa.total_allocated_bytes() - before < 1_000_000
    finally:
        gc.enable()


DELETES: list[tuple[bytes | None, dict[str, Any] | str]] = [
    (b'{"a": 1, "b": "x"}', {"a": 1, "b": "x"}),
    (b'{"b": "y", "a": 2, "more": [1]}', {"a": 2, "b": "y"}),
    (None, "null_key"),
    (b"\xff", "invalid_utf8"),
    (b"7", "not_an_object"),
    (b'{"a": 1}', "missing_field"),
    (b'{"a": null, "b": "x"}', "null_field"),
    (b'{"a": "1", "b": "x"}', "wrong_type"),
]


@pytest.mark.parametrize("alone", [True, False])
def test_a_record_without_a_value_names_what_it_deletes_by_its_key(alone: bool) -> None:
    """Whatever else is in the batch."""
    contract = source(null_values="delete", key=("a", "b"))
    for keys in [[case] for case in DELETES] if alone else [DELETES]:
        given = batch([None] * len(keys) + [b'{"a": 5, "b": "row"}'])
        records = given.records.set_column(2, "key", pa.array([*(key for key, _ in keys), b"no key is read here"], pa.binary()))
        staged = Stage(contract).stage(replace(given, records=records))
        offsets = [100 + 2 * index for index in range(len(keys))]
        good = [{**made, "_partition": 7, "_offset": at} for at, (_, made) in zip(offsets, keys, strict=True) if isinstance(made, dict)]
        assert staged.filtered.to_pylist() == [row["_offset"] for row in good]
        assert codes(staged) == {at: made for at, (_, made) in zip(offsets, keys, strict=True) if isinstance(made, str)}
        assert ([] if staged.deletes is None else staged.deletes.drop(["_timestamp"]).to_pylist()) == good
        assert staged.rows["a"].to_pylist() == [5]
        assert all("key" in row["reason"] for row in staged.rejects.to_pylist())


@pytest.mark.parametrize(
    ("column", "keys", "made"),
    [
        ("varchar", [b"x", b"", b'"y"'], ["x", "", '"y"']),
        ("integer", [b"1", b"-02"], [1, -2]),
        ("integer", [b"1", b"1.0", b"9999999999"], [1, "bad_value", "out_of_range"]),
        ("boolean", [b"t", b"no"], [True, "bad_value"]),
        ("date", [b"2024-02-29", b"2023-02-29"], [date(2024, 2, 29), "bad_value"]),
        ("decimal(4,2)", [b"1.5", b"100"], [Decimal("1.50"), "out_of_range"]),
    ],
)
def test_keys_that_are_texts(column: str, keys: list[bytes], made: list[Any]) -> None:
    contract = source(null_values="delete", key=("a",), key_format="text", columns={"a": column})
    given = batch([None] * len(keys))
    staged = Stage(contract).stage(replace(given, records=given.records.set_column(2, "key", pa.array(keys, pa.binary()))))
    refused = codes(staged)
    found = iter(staged.deletes["a"].to_pylist() if staged.deletes else [])
    assert [refused[100 + 2 * index] if 100 + 2 * index in refused else next(found) for index in range(len(keys))] == made
