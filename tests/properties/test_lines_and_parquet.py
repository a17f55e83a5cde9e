"""NDJSON, text and Parquet: nothing is lost, nothing is rewritten."""

from __future__ import annotations

import base64
import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.files.chunk import Chunk
from connectors.files.errors import FilesNotFound, FileUnreadable, FormatMismatch, HeaderInvalid
from connectors.files.input import InputFile
from connectors.files.lines import key_reader
from connectors.files.parquet import json_text
from connectors.files.paths import find_files
from connectors.files.reading import read_rows, reader_options
from flows.contract import Column, Source

shared_folder = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def source(kind: str, key: tuple[str, ...] = (), **more) -> Source:
    return Source(
        name="s", topic="t", format=kind, columns={"id": Column.parse("bigint"), "name": Column.parse("varchar")}, key=key, **more
    )


def read(made: Source, path: Path) -> list[Chunk]:
    with InputFile(path) as file:
        return list(read_rows(made, file).chunks)


def values(chunks: list[Chunk]) -> list[bytes]:
    return [value for chunk in chunks for value in chunk.values]


@shared_folder
@given(st.lists(st.binary(max_size=8)), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.integers(1, 9))
def test_text_gives_every_line_as_it_is(tmp_path, monkeypatch, lines, end, last, block_bytes):
    monkeypatch.setattr("connectors.files.lines._BLOCK_BYTES", block_bytes)
    lines = [line.replace(b"\n", b"").rstrip(b"\r") for line in lines]
    content = end.join(lines) + (end if last and lines else b"")
    (tmp_path / "f.log").write_bytes(content)
    wanted = lines if last or (lines and lines[-1]) else lines[:-1]
    assert values(read(source("text"), tmp_path / "f.log")) == wanted


def test_ndjson_lines_go_as_they_stand_and_blank_ones_are_none(tmp_path):
    lines = [b'{"id": 1.10, "name":"\\u00e9"}', b"  ", b"not json", b'["list"]', b"", b"\xff", b'{"name":"x"}']
    (tmp_path / "f.ndjson").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    [chunk] = read(source("json", ("id",)), tmp_path / "f.ndjson")
    assert chunk.values == [line for line in lines if line.strip()]
    assert chunk.keys == [b'{"id":1.10}', None, None, None, None]
    assert chunk.broken == {}


@given(
    st.dictionaries(
        st.sampled_from(["id", "na%me", "z"]), st.recursive(st.integers() | st.text(max_size=4) | st.none(), st.lists, max_leaves=3)
    )
)
def test_a_json_key_has_the_members_bytes_in_contract_order(members):
    key = key_reader(("na%me", "id"))(json.dumps(members).encode())
    if {"id", "na%me"} <= set(members):
        assert key == ('{"na%me":' + json.dumps(members["na%me"]) + ',"id":' + json.dumps(members["id"]) + "}").encode()
    else:
        assert key is None


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_line_beyond_the_limit_is_cut_marked_and_costs_no_neighbour(tmp_path, suffix):
    limit = 2000
    good = {"csv": b"1,x", "ndjson": b'{"id":1}'}[suffix]
    (tmp_path / f"f.{suffix}").write_bytes(good + b"\n" + b"y" * 3_000_000 + b"\n" + good)
    made = source({"csv": "csv", "ndjson": "json"}[suffix], max_record_bytes=limit, csv={"header": False})
    chunks = read(made, tmp_path / f"f.{suffix}")
    assert [len(value) for value in values(chunks)] == [len(values(chunks)[0]), limit, len(values(chunks)[0])]
    [why] = [why for chunk in chunks for why in chunk.broken.values()]
    assert why.line == 2
    assert str(limit) in why.cause


JSON_LEAVES = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False),
    pa.float32(): st.floats(allow_nan=False, allow_infinity=False, width=32),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=6),
    pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["a", '"', "\\"]),
    pa.decimal128(38, 10): st.integers(-(10**38) + 1, 10**38 - 1).map(
        lambda n: Decimal(n).scaleb(-10, __import__("decimal").Context(prec=60))
    ),
}


@st.composite
def arrays(draw, depth: int = 2):
    """An Arrow type with values of it."""
    kind = draw(st.sampled_from(list(JSON_LEAVES)))
    leaf = JSON_LEAVES[kind] | st.none()
    for _ in range(draw(st.integers(0, depth))):
        if draw(st.booleans()):
            kind, leaf = pa.list_(kind), st.lists(leaf, max_size=3) | st.none()
        else:
            kind, leaf = (
                pa.struct([("x", kind), ('"y', pa.int64())]),
                st.fixed_dictionaries({"x": leaf, '"y': st.integers(0, 9)}) | st.none(),
            )
    return kind, draw(st.lists(leaf, max_size=6))


@settings(max_examples=400, deadline=None)
@given(arrays(), st.integers(0, 2))
def test_parquet_values_come_back_exactly(typed, start):
    kind, wanted = typed
    leaf = kind
    if pa.types.is_nested(kind):
        while pa.types.is_nested(leaf):
            leaf = leaf.field(0).type
    array = pa.array(wanted, kind)[start:]
    exact = Decimal if pa.types.is_decimal(leaf) else float
    got = [None if text is None else json.loads(text, parse_float=exact) for text in json_text(array).to_pylist()]
    if pa.types.is_decimal(leaf):
        assert rewritten(got) == rewritten(array.to_pylist())
    else:
        assert got == array.to_pylist()


def rewritten(value):
    """JSON tells 1 from 1.0 by type, decimals do not."""
    if isinstance(value, list):
        return [rewritten(item) for item in value]
    if isinstance(value, dict):
        return {name: rewritten(item) for name, item in value.items()}
    return None if value is None else Decimal(value)


def test_parquet_times_binary_and_maps(tmp_path):
    at = dt.datetime(2013, 1, 1, 10, 0, 0, 123456)
    table = pa.table(
        {
            "id": pa.array([1, None]),
            "utc": pa.array([at, None], pa.timestamp("us", "America/New_York")),
            "naive": pa.array([at, None], pa.timestamp("us")),
            "nanos": pa.array([1_000_000_001, None], pa.timestamp("ns", "UTC")),
            "whole": pa.array([1_000_000_000, None], pa.timestamp("ns", "UTC")),
            "day": pa.array([dt.date(2013, 1, 1), None]),
            "clock": pa.array([dt.time(1, 2, 3), None], pa.time64("us")),
            "bytes": pa.array([b"\x00\xff", None]),
            "fixed": pa.array([b"ab", None], pa.binary(2)),
            "map": pa.array([[(1, "x")], None], pa.map_(pa.int64(), pa.string())),
            "names": pa.array([[('k"', 1), ("", None)], None], pa.map_(pa.string(), pa.int64())),
            "decimal": pa.array([Decimal("0.0000000001"), None], pa.decimal128(38, 10)),
            "nan": pa.array([float("nan"), None]),
        }
    )
    pq.write_table(table, tmp_path / "f.parquet")
    [chunk] = read(source("json", ("id",)), tmp_path / "f.parquet")
    assert chunk.keys == [b'{"id":1}', b'{"id":null}']
    assert chunk.values[0].decode() == (
        '{"id":1,"utc":"2013-01-01T10:00:00.123456Z","naive":"2013-01-01T10:00:00.123456","nanos":"1970-01-01T00:00:01.000000001Z",'
        '"whole":"1970-01-01T00:00:01.000000Z","day":"2013-01-01","clock":"01:02:03.000000",'
        f'"bytes":"{base64.b64encode(bytes([0, 255])).decode()}","fixed":"YWI=","map":[{{"key":1,"value":"x"}}],'
        '"names":{"k\\"":1,"":null},"decimal":0.0000000001,"nan":NaN}'
    )
    assert set(msgspec.json.decode(chunk.values[1]).values()) == {None}
    [cells] = read(source("csv", ("id",)), tmp_path / "f.parquet")
    assert cells.keys[0] == b'{"id":"1"}'
    assert b'"decimal":"0.0000000001"' in cells.values[0]
    assert b'"day":"2013-01-01"' in cells.values[0]
    assert b'"map":"[{\\"key\\":1,\\"value\\":\\"x\\"}]"' in cells.values[0]
    assert b'"id":null' in cells.values[1]


def test_nanoseconds_of_one_row_leave_the_others_alone(tmp_path):
    times = pa.array([1_577_836_800_000_000_000, 1_577_836_800_123_456_789, None], pa.int64())
    table = pa.table({"id": [1, 2, 3], "at": times.cast(pa.timestamp("ns")), "zoned": times.cast(pa.timestamp("ns", tz="UTC"))})
    pq.write_table(table, tmp_path / "f.parquet")
    rows = [msgspec.json.decode(value) for value in values(read(source("json"), tmp_path / "f.parquet"))]
    assert [row["at"] for row in rows] == ["2020-01-01T00:00:00.000000", "2020-01-01T00:00:00.123456789", None]
    assert [row["zoned"] for row in rows] == ["2020-01-01T00:00:00.000000Z", "2020-01-01T00:00:00.123456789Z", None]


def test_text_of_parquet_that_is_not_utf8_is_marked(tmp_path):
    """Parquet does not check what a writer says is UTF-8."""
    name = pa.StringArray.from_buffers(3, pa.array([b"a", b"b\xff", None], pa.binary()).buffers()[1], pa.py_buffer(b"ab\xff"))
    table = pa.table({"id": [1, 2, 3], "name": name})
    pq.write_table(table, tmp_path / "f.parquet")
    [chunk] = read(source("json", ("id",)), tmp_path / "f.parquet")
    assert chunk.keys == [b'{"id":1}', None, b'{"id":3}']
    assert {index: why.cause for index, why in chunk.broken.items()} == {1: "column name is not UTF-8"}
    assert [msgspec.json.decode(value)["name"] for value in chunk.values] == ["a", "b\ufffd", ""]


@pytest.mark.parametrize("names", [("zz",), ("id", "id")])
def test_parquet_without_a_column_of_the_contract_is_refused(tmp_path, names):
    pq.write_table(pa.table([pa.array([1])] * len(names), names=list(names)), tmp_path / "f.parquet")
    with pytest.raises(HeaderInvalid, match=r"none of its columns|named twice"):
        read(source("json"), tmp_path / "f.parquet")


def test_compressed_files_read_as_the_plain_one(tmp_path):
    content = b"id,name\n" + b"".join(b"%d,row %d\n" % (n, n) for n in range(50_000))
    (tmp_path / "a.csv").write_bytes(content)
    half = len(content) // 2
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    codec = pa.Codec("zstd")
    (tmp_path / "c.csv.zst").write_bytes(codec.compress(content[:half], asbytes=True) + codec.compress(content[half:], asbytes=True))
    plain = values(read(source("csv"), tmp_path / "a.csv"))
    assert len(plain) == 50_000
    assert values(read(source("csv"), tmp_path / "b.csv.gz")) == plain
    assert values(read(source("csv"), tmp_path / "c.csv.zst")) == plain


@pytest.mark.parametrize("name", ["f.csv.gz", "f.csv.zst"])
def test_a_truncated_archive_is_an_error_that_names_the_file(tmp_path, name):
    content = b"id,name\n" + b"".join(b"%d,row %d\n" % (n, n * 7919) for n in range(50_000))
    packed = gzip.compress(content) if name.endswith("gz") else pa.Codec("zstd").compress(content, asbytes=True)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(FileUnreadable, match=r"f\.csv"):
        read(source("csv"), tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "name", "content", "error"),
    [
        ("csv", "f.csv", b"id,id\n1,2\n", HeaderInvalid),
        ("csv", "f.csv", b'"id,name\n1,2\n', HeaderInvalid),
        ("csv", "f.csv", b"1,2\n3,4\n", HeaderInvalid),
        ("csv", "f.ndjson", b"{}", FormatMismatch),
        ("json", "f.csv", b"a,b", FormatMismatch),
        ("json", "f.json", b'[\n{"id":1}', FileUnreadable),
        ("json", "f.parquet", b"no parquet", FileUnreadable),
        ("csv", "f.png", b"\x89PNG", FormatMismatch),
        ("json", "f.tar.gz", b"\x1f\x8b", FormatMismatch),
        ("text", "f.log.bz2", b"BZh9", FormatMismatch),
        ("csv", "f.avro.zst", b"Obj", FormatMismatch),
    ],
)
def test_a_file_that_cannot_be_read_as_a_whole_is_an_error(tmp_path, kind, name, content, error):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error) as raised:
        read(source(kind), tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert raised.value.next_step


def test_columns_that_the_contract_does_not_name_go_through_and_missing_ones_are_told(tmp_path):
    (tmp_path / "f.csv").write_bytes(b"id,other\n1,2\n")
    with InputFile(tmp_path / "f.csv") as file:
        rows = read_rows(source("csv"), file)
        assert values(list(rows.chunks)) == [b'{"id":"1","other":"2"}']
        assert "name" in rows.notices[0]


def test_paths(tmp_path):
    for name in ("b.csv", "a.csv", ".hidden.csv", "_SUCCESS", "~$a.xlsx", "a.csv~", "a.csv.PART", "sub/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    inside = [tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "sub/c.csv"]
    assert find_files([str(tmp_path)]) == inside
    assert find_files([str(tmp_path / "*.csv"), str(tmp_path / "a.csv")]) == inside[:2]
    assert find_files([str(tmp_path / "**/c.csv")]) == inside[2:]
    with pytest.raises(FilesNotFound):
        find_files([str(tmp_path / "*.nope")])
    with pytest.raises(FilesNotFound, match="name too long"):
        find_files([str(tmp_path / ("a" * 300))])


def test_a_file_that_fails_while_it_is_read_is_named(tmp_path):
    with InputFile(Path("/proc/self/mem")) as file, pytest.raises(FileUnreadable, match=r"/proc/self/mem cannot be read"):
        file.sha256()
    with pytest.raises(FileUnreadable, match="No such file"):  # removed since it was listed
        InputFile(tmp_path / "gone.csv")


def test_the_identity_names_only_options_that_differ(tmp_path):
    (tmp_path / "f.csv").write_bytes(b"")
    with InputFile(tmp_path / "f.csv") as file:
        assert reader_options(source("csv", csv={"null": ["NA"]}), file) == {"delimiter": ",", "null": ["NA"]}
        assert reader_options(source("csv", csv={"header": False}), file) == {
            "delimiter": ",",
            "null": [""],
            "header": False,
            "columns": ["id", "name"],
        }
        assert reader_options(source("json"), file) == {}


@shared_folder
@given(st.lists(st.integers(0, 30)), st.integers(1, 12), st.integers(1, 9), st.sampled_from([b"\n", b"\r\n"]))
def test_lines_beyond_the_limit_are_marked_wherever_blocks_end(tmp_path, monkeypatch, lengths, limit, block_bytes, end):
    monkeypatch.setattr("connectors.files.lines._BLOCK_BYTES", block_bytes)
    (tmp_path / "f.log").write_bytes(b"".join(b"x" * length + end for length in lengths))
    made = source("text").model_copy(update={"max_record_bytes": limit})
    chunks = read(made, tmp_path / "f.log")
    assert values(chunks) == [b"x" * min(length, limit) for length in lengths]
    marked = [why.line for chunk in chunks for why in chunk.broken.values()]
    assert marked == [line for line, length in enumerate(lengths, 1) if length > limit]
