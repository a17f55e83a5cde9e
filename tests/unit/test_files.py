"""Data files: every type reads back, and the statistics never hide a row from a reader that skips files by them."""

from __future__ import annotations

import datetime as dt
import decimal
import importlib.util
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.batch import RAW, SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.owner import Owner
from sinks.stats import MAX_CHARACTERS, FileStats
from tests.owned import LOG, TOPIC, run

ALL_TYPES = pa.schema(
    [
        ("flag", pa.bool_()),
        ("i8", pa.int8()),
        ("i16", pa.int16()),
        ("i32", pa.int32()),
        ("i64", pa.int64()),
        ("wide", pa.decimal128(38, 0)),
        ("money", pa.decimal128(10, 2)),
        ("f32", pa.float32()),
        ("f64", pa.float64()),
        ("text", pa.string()),
        ("bytes", pa.binary()),
        ("day", pa.date32()),
        ("local", pa.timestamp("us")),
        ("moment", pa.timestamp("us", "UTC")),
        ("numbers", pa.list_(pa.int32())),
        ("pair", pa.struct([("a", pa.int32()), ("at", pa.timestamp("us", "UTC")), ("texts", pa.list_(pa.string()))])),
        ("pairs", pa.list_(pa.struct([("name", pa.string()), ("value", pa.binary())]))),
        *SYSTEM,
    ]
)
_MOMENTS = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999))


def _utc(moments: st.SearchStrategy[dt.datetime]) -> st.SearchStrategy[dt.datetime]:
    return moments.map(lambda moment: moment.replace(tzinfo=dt.UTC))


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "flag": st.booleans(),
    "i8": st.integers(-(2**7), 2**7 - 1),
    "i16": st.integers(-(2**15), 2**15 - 1),
    "i32": st.integers(-(2**31), 2**31 - 1),
    "i64": st.integers(-(2**63), 2**63 - 1),
    "wide": st.integers(-(10**38) + 1, 10**38 - 1).map(decimal.Decimal),
    "money": st.integers(-(10**10) + 1, 10**10 - 1).map(lambda cents: decimal.Decimal(cents).scaleb(-2)),
    "f32": st.floats(width=32),
    "f64": st.floats(),
    "text": st.text(max_size=6) | st.text(st.characters(exclude_categories=["Cs"]), min_size=30, max_size=60),
    "bytes": st.binary(max_size=8),
    "day": st.dates(),
    "local": _MOMENTS,
    "moment": _utc(_MOMENTS),
    "numbers": st.lists(st.none() | st.integers(-5, 5), max_size=3),
    "pair": st.fixed_dictionaries(
        {
            "a": st.none() | st.integers(-5, 5),
            "at": st.none() | _utc(_MOMENTS),
            "texts": st.none() | st.lists(st.text(max_size=2), max_size=2),
        }
    ),
    "pairs": st.lists(st.fixed_dictionaries({"name": st.text(max_size=2), "value": st.none() | st.binary(max_size=2)}), max_size=2),
}
_COLUMNS = st.integers(1, 5).flatmap(
    lambda size: st.fixed_dictionaries(
        {name: st.lists(st.none() | values, min_size=size, max_size=size) for name, values in _VALUES.items()}
    )
)


def table_of(columns: dict[str, list[Any]]) -> pa.Table:
    size = len(columns["flag"])
    system = {"_partition": [0] * size, "_offset": list(range(size)), "_timestamp": [None] * size}
    return pa.table({**columns, **system}, schema=ALL_TYPES)


@given(_COLUMNS)
@settings(max_examples=150, deadline=None)
def test_bounds_hold_every_value(columns: dict[str, list[Any]]) -> None:
    rows = table_of(columns)
    sink = pa.BufferOutputStream()
    footer: list[Any] = []
    stats = FileStats(ALL_TYPES)
    stats.add(rows)
    pq.write_table(rows, sink, metadata_collector=footer, row_group_size=2)
    text = stats.to_json(footer[0])
    said = msgspec.json.decode(text, type=dict[str, Any])
    exact = msgspec.json.Decoder(dict[str, Any], float_hook=decimal.Decimal).decode(text)
    assert said["numRecords"] == rows.num_rows
    for name, values in columns.items():
        known = [value for value in values if value is not None]
        if name == "pair":
            assert said["nullCount"]["pair"]["a"] == sum(value is None or value["a"] is None for value in values)
            _holds(said, exact, "pair", "at", [value["at"] for value in known if value["at"] is not None])
            continue
        assert said["nullCount"][name] == len(values) - len(known), name
        _holds(said, exact, name, None, known)


def _stats(rows: pa.Table) -> dict[str, Any]:
    sink, footer, stats = pa.BufferOutputStream(), [], FileStats(rows.schema)
    stats.add(rows)
    pq.write_table(rows, sink, metadata_collector=footer, row_group_size=1)
    return msgspec.json.decode(stats.to_json(footer[0]), type=dict[str, Any])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_cannot_hold_leaves_the_column_without_bounds(value: float) -> None:
    said = _stats(pa.table({"x": [1.0, value, 2.0], "y": [1.0, 2.0, -3.5]}))
    assert said["minValues"] == {"y": -3.5}
    assert said["maxValues"] == {"y": 2.0}
    assert said["nullCount"] == {"x": 0, "y": 0}


def test_a_text_too_long_for_the_footer_leaves_the_column_without_bounds() -> None:
    said = _stats(pa.table({"text": ["b", "z" * 10_000, None], "n": [1, 2, 3]}))
    assert said["minValues"] == {"n": 1}
    assert said["nullCount"] == {"text": 1, "n": 0}


def _holds(said: dict[str, Any], exact: dict[str, Any], name: str, child: str | None, values: list[Any]) -> None:
    bounds = [side[key].get(name) for side, key in ((exact, "minValues"), (exact, "maxValues"))]
    if child is not None:
        bounds = [bound.get(child) if bound else None for bound in bounds]
    if None in bounds:
        assert bounds == [None, None]
        return
    low, high = (_value(bound, values[0]) for bound in bounds)
    for value in values:
        assert low <= _comparable(value) <= high, (name, value, bounds)


def _value(bound: Any, like: Any) -> Any:
    if isinstance(like, dt.datetime):
        bound = dt.datetime.fromisoformat(bound)
        return bound if bound.tzinfo is None else bound.replace(tzinfo=dt.UTC)
    if isinstance(like, dt.date):
        return dt.date.fromisoformat(bound)
    if isinstance(like, float):
        return float(bound)
    if isinstance(like, str):
        assert len(bound) <= MAX_CHARACTERS
        return bound.encode()
    return bound


def _comparable(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


ROW = {
    "flag": True,
    "i8": -128,
    "i16": 2**15 - 1,
    "i32": -(2**31),
    "i64": 2**63 - 1,
    "wide": decimal.Decimal(10**38 - 1),
    "money": decimal.Decimal("-99999999.99"),
    "f32": 1.5,
    "f64": -1e300,
    "text": "ü" * 40,
    "bytes": b"\xff\x00",
    "day": dt.date(2013, 1, 1),
    "local": dt.datetime(2013, 1, 1, 10, 0, 0, 123456),
    "moment": dt.datetime(2013, 1, 1, 10, 0, 0, 123456, tzinfo=dt.UTC),
    "numbers": [1, None],
    "pair": {"a": 7, "at": dt.datetime(2013, 1, 1, 10, 0, 0, 999999, tzinfo=dt.UTC), "texts": ["x"]},
    "pairs": [{"name": "n", "value": None}],
}
PREDICATES = {
    "i8": "-128",
    "i64": str(2**63 - 1),
    "wide": str(10**38 - 1),
    "money": "-99999999.99",
    "f32": "1.5",
    "f64": "-1e300",
    "text": f"'{'ü' * 40}'",
    "day": "DATE '2013-01-01'",
    "local": "TIMESTAMP '2013-01-01 10:00:00.123456'",
    "moment": "TIMESTAMPTZ '2013-01-01 10:00:00.123456Z'",
    "pair.at": "TIMESTAMPTZ '2013-01-01 10:00:00.999999Z'",
}


@pytest.fixture
def duck() -> duckdb.DuckDBPyConnection:
    found = importlib.util.find_spec("duckdb_extension_delta")
    assert found is not None
    extension = next(Path(found.submodule_search_locations[0]).rglob("delta.duckdb_extension"))
    connection = duckdb.connect()
    connection.execute(f"LOAD '{extension}'; SET TimeZone = 'UTC'")
    return connection


@pytest.mark.parametrize("checkpoint", [False, True])
def test_duckdb_and_deltalake_read_every_type_and_skip_no_row(tmp_path: Path, duck: duckdb.DuckDBPyConnection, checkpoint: bool) -> None:
    address = TableAddress(str(tmp_path), "core.flight", "3f9a0c12b7de-1")
    owner = Owner.claim(address, ALL_TYPES, [], run(), LOG)
    rows = table_of({name: [value, None] for name, value in ROW.items()})
    owner.commit(FileWriter(address, ALL_TYPES).write(rows), {(TOPIC, 0): Span(0, 2, 2, 2, 0, 0)})
    if checkpoint:
        DeltaTable(address.uri).create_checkpoint()
    back = pa.table(DeltaTable(address.uri).to_pyarrow_table()).select(ALL_TYPES.names)
    assert back.to_pylist() == rows.to_pylist()
    for column, value in PREDICATES.items():
        assert duck.execute(f"SELECT count(*) FROM delta_scan('{address.uri}') WHERE {column} = {value}").fetchone() == (1,), column
    everything = duck.execute(f"SELECT * FROM delta_scan('{address.uri}') ORDER BY _offset").to_arrow_table()
    assert [row["wide"] for row in everything.to_pylist()] == [ROW["wide"], None]
    assert everything.column("text").to_pylist() == [ROW["text"], None]


def test_a_plain_table_asks_for_no_feature(tmp_path: Path) -> None:
    plain = TableAddress(str(tmp_path), "raw.flights", "3f9a0c12b7de-1")
    Owner.claim(plain, RAW, ["_partition"], run(), LOG)
    protocol = DeltaTable(plain.uri).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2)
    local = TableAddress(str(tmp_path), "core.flight", "3f9a0c12b7de-1")
    Owner.claim(local, ALL_TYPES, [], run(), LOG)
    protocol = DeltaTable(local.uri).protocol()
    assert (protocol.min_reader_version, protocol.min_writer_version, protocol.reader_features) == (3, 7, ["timestampNtz"])


@pytest.mark.parametrize("durable", [False, True])
def test_partitions_of_any_value_read_back(tmp_path: Path, duck: duckdb.DuckDBPyConnection, durable: bool) -> None:
    schema = pa.schema([("city", pa.string()), ("month", pa.timestamp("us", "UTC")), *SYSTEM])
    cities = ["Zürich", "a/b=c%20d", "", None, "x y:z", "Zürich"]
    month = dt.datetime(2013, 1, 1, tzinfo=dt.UTC)
    address = TableAddress(str(tmp_path), "core.city", "3f9a0c12b7de-1")
    rows = pa.table(
        {"city": cities, "month": [month] * 6, "_partition": [0] * 6, "_offset": list(range(6)), "_timestamp": [None] * 6}, schema=schema
    )
    owner = Owner.claim(address, schema, ["city", "month"], run(), LOG, durable=durable)
    files = FileWriter(address, schema, ["city", "month"], durable=durable).write(rows)
    assert sorted(file.rows for file in files) == [1, 1, 2, 2]
    owner.commit(files, {(TOPIC, 0): Span(0, 6, 6, 6, 0, 0)})
    wanted = sorted((offset, city or None, month) for offset, city in enumerate(cities))  # Delta has no empty partition value
    found = duck.execute(f"SELECT _offset, city, month FROM delta_scan('{address.uri}') ORDER BY 1").to_arrow_table().to_pylist()
    assert [(row["_offset"], row["city"], row["month"].astimezone(dt.UTC)) for row in found] == wanted
    back = pa.table(DeltaTable(address.uri).to_pyarrow_table()).sort_by("_offset")
    assert back.column("city").to_pylist() == [city for _, city, _ in wanted]


def test_a_file_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    address = TableAddress(str(tmp_path), "raw.flights", "3f9a0c12b7de-1")

    def break_off() -> None:
        with FileWriter(address, SYSTEM).open({}):
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        break_off()
    assert not list(address.folder.iterdir())


def test_rows_of_several_log_partitions_go_to_their_folders(tmp_path: Path) -> None:
    address = TableAddress(str(tmp_path), "raw.flights", "3f9a0c12b7de-1")
    rows = pa.table(
        {
            "_partition": [1, 0, 1],
            "_offset": [4, 7, 5],
            "_timestamp": [None] * 3,
            "key": [None] * 3,
            "value": [b"a", b"b", b"c"],
            "headers": [None] * 3,
        },
        schema=RAW,
    )
    owner = Owner.claim(address, RAW, ["_partition"], RunIdentity("h", 1, "t"), LogIdentity("c", {TOPIC: "i"}))
    files = FileWriter(address, RAW, ["_partition"]).write(rows)
    assert {(file.path.partition("/")[0], file.rows) for file in files} == {("_partition=1", 2), ("_partition=0", 1)}
    owner.commit(files, {(TOPIC, 0): Span(7, 8, 1, 1, 0, 0), (TOPIC, 1): Span(4, 6, 2, 2, 0, 0)})
    back = pa.table(DeltaTable(address.uri).to_pyarrow_table()).sort_by("_offset")
    assert back.select(["_partition", "_offset", "value"]).to_pydict() == {
        "_partition": [1, 1, 0],
        "_offset": [4, 5, 7],
        "value": [b"a", b"c", b"b"],
    }
