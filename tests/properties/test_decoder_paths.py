"""The whole-batch path and the tolerant path of the decoder agree on everything: rows, codes, columns and reasons."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.batch import RECORDS, Batch
from flows.contract import Source
from flows.stage import Stage

NUMBERS = ["tinyint", "integer", "bigint", "utinyint", "ubigint", "hugeint", "double", "float", "decimal(10,2)", "decimal(38,10)"]
OTHERS = ["varchar", "boolean", "date", "timestamp", "timestamptz", "blob", "json"]
NESTED = ["integer[]", "decimal(6,2)[]", "struct(p integer, q varchar)", "struct(p decimal(4,1), d date)[]", "struct(p json)"]
MAPS = ["map(varchar, integer)", "map(varchar, struct(p decimal(4,1), q json)[])"]

number_texts = st.one_of(
    st.integers(-300, 300).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.from_regex(r"\A-?[0-9]{1,30}(\.[0-9]{1,45})?([eE][+-]?[0-9]{1,3})?\Z"),
    st.text("0123456789.eE+-xX ", min_size=1, max_size=6),
    st.sampled_from(["NaN", "Infinity", "-Infinity", "-0", "1e400", "1e-400", "0e99", "9" * 40, "1." + "0" * 50, "Inf", "nan"]),
)
times = st.one_of(
    st.dates().map(str),
    st.datetimes().map(str),
    st.datetimes().map(lambda value: value.isoformat() + "Z"),
    st.from_regex(
        r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9](:[0-6][0-9](:[0-6][0-9](\.[0-9]{1,7})?)?)?(Z|[+-][0-2][0-9](:?[0-6][0-9])?)?)?\Z"
    ),
)
texts = st.one_of(
    number_texts,
    times,
    st.sampled_from(
        [
            "",
            "x",
            "true",
            "F",
            "null",
            "YQ==",
            "YQ=",
            "{}",
            "[1]",
            '{"p":1}',
            '{"p":"1"}',
            "a:b",
            '"',
            "\\",
            "a\nb",
            "NaN",
            "}",
            "{",
            "é",
            "\x00",
        ]
    ),
    st.text(max_size=5),
)
strings = st.tuples(texts, st.booleans()).map(lambda pair: json.dumps(pair[0], ensure_ascii=pair[1]))
broken = st.sampled_from(
    ["", "tru", "'x'", '"\\ud800"', '"\\x"', "1,", "01", '"a', '"a\tb"', "[1,]", "[", "{]", "1}", '1},"c0":{', "/**/1", "\u00a01"]
)
scalars = st.one_of(number_texts, strings, st.sampled_from(["null", "true", "false"]))
objects = st.dictionaries(st.sampled_from(["p", "q", "d", "x"]), scalars, max_size=3).map(
    lambda members: "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
)
members = st.one_of(
    scalars,
    objects,
    st.lists(st.one_of(scalars, objects), max_size=3).map(lambda items: f"[{','.join(items)}]"),
    broken,
)
blanks = st.sampled_from(["", "", "", " ", "\n", " \t\r\n"])
names = st.sampled_from(["c0", "c1", "c2", "x", "y", "\\u0063\\u0030", "c0\\n", ""])


@st.composite
def values(draw: st.DrawFn) -> bytes | None:
    """A record's value: often an object, sometimes not quite."""
    pairs = draw(st.lists(st.tuples(names, members, blanks), max_size=5, unique_by=(lambda pair: pair[0]) if draw(st.booleans()) else None))
    blank = draw(blanks)
    text = "{" + ",".join(f'{space}"{name}"{space}:{space}{member}{space}' for name, member, space in pairs) + "}"
    value = f"{blank}{text}{blank}".encode("utf-8", "surrogatepass")
    change = draw(st.integers(0, 30))
    if change == 0:
        return None
    if change == 1:
        return value[: draw(st.integers(0, len(value)))]
    if change == 2:
        place = draw(st.integers(0, len(value)))
        return value[:place] + draw(st.binary(min_size=1, max_size=2)) + value[place:]
    if change == 3:
        return value + draw(st.sampled_from([value, b"null", b",", b"}", b"\x00", b" {}"]))
    return value


good = {
    **{kind: ["1", "7"] for kind in NUMBERS},
    "varchar": ['"x"', '"a:b"', '"\\"\\\\"'],
    "boolean": ["true", "false"],
    "date": ['"2013-01-01"'],
    "timestamp": ['"2013-01-01 10:00"'],
    "timestamptz": ['"2013-01-01T10:00Z"'],
    "blob": ['"YQ=="'],
    "json": ['{"a":1.10}', "[1]", '"c0"'],
    "integer[]": ["[1,2]", "[]"],
    "decimal(6,2)[]": ["[1.5]", "[]"],
    "struct(p integer, q varchar)": ['{"p":1}', '{"p":1,"q":"x"}'],
    "struct(p decimal(4,1), d date)[]": ['[{"p":1.5,"d":"2013-01-01"}]'],
    "struct(p json)": ['{"p":{"z":1.0}}'],
    "map(varchar, integer)": ['{"p":1,"":2}', "{}"],
    "map(varchar, struct(p decimal(4,1), q json)[])": ['{"é":[{"p":1.5,"q":{"z":1.0}},null],"x":null}'],
}


@st.composite
def sources(draw: st.DrawFn) -> Source:
    types = draw(st.lists(st.sampled_from(NUMBERS + OTHERS + NESTED + MAPS), min_size=1, max_size=3))
    columns = {f"c{index}": kind + draw(st.sampled_from(["", "", " not null"])) for index, kind in enumerate(types)}
    return Source(
        name="t",
        topic="t",
        format=draw(st.sampled_from(["json", "csv"])),
        columns=columns,
        extra=draw(st.sampled_from(["keep", "ignore", "reject"])),
        null_values=draw(st.sampled_from(["reject", "delete"])),
        key=draw(st.sampled_from([(), ("c0",)])),
        max_record_bytes=1024,
    )


@st.composite
def good_value(draw: st.DrawFn, source: Source) -> bytes:
    """A record that the contract takes, in the JSON of its format."""
    parts = []
    for name, column in source.columns.items():
        text = draw(st.sampled_from(good[column.text]))
        if source.format == "csv":
            text = json.dumps(json.loads(text) if column.text in ("varchar", *OTHERS[2:6]) else text)
        parts.append(f'"{name}":{text}')
    return f"{{{','.join(parts)}}}".encode()


@st.composite
def batches(draw: st.DrawFn) -> tuple[Source, list[bytes | None]]:
    source = draw(sources())
    mixed = draw(st.lists(st.one_of(values(), good_value(source), good_value(source)), max_size=12))
    return source, mixed * draw(st.sampled_from([1, 1, 9]))


def batch(contents: list[bytes | None]) -> Batch:
    count = len(contents)
    columns: list[Any] = [
        pa.array(range(10, 10 + count), pa.int64()),
        pa.array([0] * count, RECORDS.field("_timestamp").type),
        pa.nulls(count, pa.binary()),
        pa.array(contents, pa.binary()),
        pa.array([[]] * count, RECORDS.field("headers").type),
    ]
    return Batch("t", 3, 10, 10 + count, pa.RecordBatch.from_arrays(columns, schema=RECORDS))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(batches())
def test_both_paths_agree(drawn: tuple[Source, list[bytes | None]]) -> None:
    source, contents = drawn
    records = batch(contents)
    fast = Stage(source).stage(records)
    slow = Stage(source, fast=False).stage(records)
    assert fast.rejects.to_pylist() == slow.rejects.to_pylist()
    assert repr(fast.rows.to_pylist()) == repr(slow.rows.to_pylist())  # repr tells -0.0 from 0.0
    assert fast.rows.schema == source.staging_schema
    places = [*fast.rows["_offset"].to_pylist(), *fast.rejects["_offset"].to_pylist(), *fast.filtered.to_pylist()]
    assert sorted(places) == list(range(10, 10 + len(contents)))
    assert fast.rows["_offset"].to_pylist() == sorted(fast.rows["_offset"].to_pylist())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_good_records_take_the_fast_path(data: st.DataObject) -> None:
    source = data.draw(sources())
    source = source.model_copy(
        update={"columns": source.columns | {"z": source.columns["c0"].model_validate({"text": "integer", "not_null": False})}}
    )
    contents: list[bytes | None] = list(
        data.draw(
            st.lists(
                good_value(source.model_copy(update={"columns": {n: c for n, c in source.columns.items() if n != "z"}})),
                min_size=33,
                max_size=40,
            )
        )
    )
    stage = Stage(source)
    assert stage.stage(batch(contents)).rows.num_rows == len(contents)
    nested_numbers = source.format == "csv" and any("decimal" in column.text and "[" in column.text for column in source.columns.values())
    assert stage.tolerant_records == 0 or nested_numbers or any(column.text == "json" for column in source.columns.values())
