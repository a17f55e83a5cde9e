"""``kappa source infer``: what is printed passes check, and the file's own records pass what is printed."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from connectors.files.errors import HeaderInvalid
from connectors.files.input import InputFile
from connectors.files.reading import read_rows
from flows.batch import Batch
from flows.contract import Source
from flows.plan import analyse
from flows.project import load_project
from flows.stage import Stage
from infra.cli import cli
from infra.infer.contract import propose
from infra.infer.sample import format_of, of_file
from infra.infer.verify import record_batch


def infer(file: Path, *options: str) -> Source:
    """The source that is printed for a file, after ``check`` and after its rows were read and staged without a reject."""
    result = CliRunner().invoke(cli, ["source", "infer", str(file), *options], standalone_mode=False)
    assert result.exception is None, result.exception
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sources").mkdir()
        (folder / "warehouse.toml").write_text('name = "test"')
        (folder / "sources/data.toml").write_text(result.output, encoding="utf-8")
        project = load_project(folder)
        assert not analyse(project).findings, result.output
    source = project.sources["data"]
    with InputFile(file) as opened:
        values = [value for chunk in read_rows(source, opened).chunks for value in chunk.values]
    staged = Stage(source).stage(Batch(source.topic, 0, 0, len(values), record_batch(values, 0)))
    assert staged.rejects.to_pylist() == [], result.output
    assert staged.rows.num_rows == len(values)
    return source


def types(source: Source) -> dict[str, str]:
    return {name: column.text + (" not null" if column.not_null else "") for name, column in source.columns.items()}


CSV = """id,zip,amount,ratio,day,seen,local,flag,late,note,gone
1,01234,12.50,0.5,2024-02-29,2024-01-01T10:00:00Z,2024-01-01 10:00:00,true,NA,"a, b",
2,10115,3.25,1.25e3,2024-03-01,2024-01-01T10:00:00.5+02:00,2024-01-02T10:00,false,7,,
"""


def test_csv(tmp_path: Path) -> None:
    file = tmp_path / "web orders.csv"
    file.write_text(CSV)
    source = infer(file)
    assert (source.topic, source.format, source.key, source.event_time) == ("web_orders", "csv", ("id",), "seen")
    assert source.csv.null == ("", "NA")
    assert types(source) == {
        "id": "integer not null",
        "zip": "varchar not null",
        "amount": "decimal(18,2) not null",
        "ratio": "double not null",
        "day": "date not null",
        "seen": "timestamptz not null",
        "local": "timestamp not null",
        "flag": "boolean not null",
        "late": "integer",
        "note": "varchar",
        "gone": "varchar",
    }


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
def test_other_dialects(tmp_path: Path, delimiter: str, compression: str) -> None:
    content = f"a{delimiter}b\n1{delimiter}x,y\n2{delimiter}z\n".encode()
    file = tmp_path / f"t.csv{compression}"
    if compression == ".zst":
        with pa.CompressedOutputStream(str(file), "zstd") as out:
            out.write(content)
    else:
        file.write_bytes(gzip.compress(content) if compression else content)
    source = infer(file, "--name", "other")
    assert (source.topic, source.csv.delimiter) == ("other", delimiter)
    assert types(source) == {"a": "integer not null", "b": "varchar not null"}


def test_a_file_without_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,foo,2020-01-01\n2,bar,2020-01-02\n")
    source = infer(tmp_path / "t.csv")
    assert not source.csv.header
    assert types(source) == {"column_1": "integer not null", "column_2": "varchar not null", "column_3": "date not null"}


def test_fields_that_cannot_be_columns_stay_in_extra(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,Dep Delay,_x,ID\n1,2,3,4\n")
    assert types(infer(tmp_path / "t.csv")) == {"id": "integer not null"}


def test_json(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "user": {"name": "a", "order": ["x"]}, "amount": 12.5, "at": "2024-01-01T10:00:00Z", "mixed": 1, "n": None},
        {"id": 2, "user": {"name": "b", "order": []}, "amount": 3, "at": "2024-01-02T10:00:00.123Z", "mixed": "x", "big": 2**63},
    ]
    (tmp_path / "e.ndjson").write_text("\n".join(map(json.dumps, rows)))
    source = infer(tmp_path / "e.ndjson")
    assert (source.format, source.key, source.event_time) == ("json", ("id",), "at")
    found = types(source)
    assert found["id"] == "bigint not null"
    assert found["user"] == 'struct("name" varchar, "order" varchar[]) not null'
    assert found["amount"] == "double not null"
    assert found["at"] == "timestamptz not null"
    assert found["mixed"] == "json not null"
    assert found["n"] == "json"
    assert not source.columns["big"].not_null


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int16()),
            "price": pa.array([Decimal("1.10"), None], pa.decimal128(20, 2)),
            "seen": pa.array([dt.datetime(2020, 1, 1), None], pa.timestamp("us", "UTC")),
            "photo": [b"x", b"y"],
            "clock": pa.array([dt.time(1, 2), None], pa.time64("us")),
            "scores": pa.array([[1], [2, 3]], pa.list_(pa.int32())),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert types(infer(tmp_path / "t.parquet")) == {
        "id": "smallint not null",
        "price": "decimal(20,2)",
        "seen": "timestamptz",
        "photo": "blob not null",
        "clock": "varchar",
        "scores": "integer[] not null",
    }


def test_text(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("started\nready\n")
    source = infer(tmp_path / "app.log")
    assert (source.format, types(source)) == ("text", {"line": "varchar not null"})


@pytest.mark.parametrize(
    ("values", "form"),
    [([b'{"a":"1"}', b'{"a":null}'], "csv"), ([b'{"a":"1"}', b'{"a":1}'], "json"), ([b'{"a":1}', b"x"], "text"), ([b"[1]"], "text")],
)
def test_the_format_of_a_topic(values: list[bytes], form: str) -> None:
    assert format_of(values) == form


CELL = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.floats().map(str),
    st.decimals(-1000, 1000, places=2).map(str),
    st.dates().map(str),
    st.datetimes().map(str),
    st.sampled_from(
        ["", "NA", "true", "F", "007", "-", "x", "1e400", "2024-02-30", "2024-01-01T24:00:00Z", "0000-01-01", "1.", ".5", "+1"]
    ),
    st.text("ab'\"\\ é,;", max_size=4),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(columns=st.lists(st.lists(CELL, min_size=4, max_size=4), min_size=1, max_size=4))
@example(columns=[["", "2000-01-01", "", "0000-01-01"]])  # looks like dates, and one is none
def test_any_csv_passes_the_contract_that_is_proposed(columns: list[list[str]]) -> None:
    lines = [",".join(f"c{index}" for index in range(len(columns)))]
    for row in zip(*columns, strict=True):
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in row))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.csv"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert len(infer(file).columns) == len(columns)


def test_integers_beyond_bigint_keep_their_digits(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,v,long\n99999999999999999999,1e5,1\n1,2.5,%s\n" % ("9" * 39))
    assert {name: column.text for name, column in infer(tmp_path / "a.csv").columns.items()} == {
        "id": "decimal(38,0)",
        "v": "double",
        "long": "varchar",
    }
    (tmp_path / "b.ndjson").write_text('{"id":12345678901234567890123,"x":1.5}\n{"id":2,"x":3}\n')
    assert {name: column.text for name, column in infer(tmp_path / "b.ndjson").columns.items()} == {"id": "decimal(38,0)", "x": "double"}


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"id;caf\xe9\n1;\xe8\n2;x\n", "cp1252"),
        (b"id;name\n1;\x81\xe9\n2;x\n", "latin-1"),
        ("id;größe\n1;é\n".encode(), "utf-8"),
    ],
)
def test_an_encoding_is_guessed(tmp_path: Path, content: bytes, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    source = infer(tmp_path / "t.csv")
    assert (source.csv.encoding, source.csv.delimiter) == (encoding, ";")
    first, second = content.decode(encoding, "ignore").split("\n")[0].split(";")
    assert list(source.columns) == [name for name in (first, second) if name.isascii()]


def test_one_broken_line_makes_no_other_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id;name\n1;é\n".encode() + b"2;\xe9\n")
    sample = of_file(tmp_path / "t.csv")
    assert (sample.dialect.encoding, sample.dialect.delimiter, sample.broken) == ("utf-8", ";", 1)


def test_names_that_no_column_can_have_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("größe,__x\n1,2\n", encoding="utf-8")
    done = CliRunner().invoke(cli, ["source", "infer", str(tmp_path / "t.csv")], standalone_mode=False)
    assert "there are: größe, __x" in str(done.exception)


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "t.parquet")
    done = CliRunner().invoke(cli, ["source", "infer", str(tmp_path / "t.parquet")], standalone_mode=False)
    assert isinstance(done.exception, HeaderInvalid)
    assert "columns named twice: 'a'" in str(done.exception)


def test_records_that_are_no_json_are_left_out_and_remarked(tmp_path: Path) -> None:
    (tmp_path / "c.ndjson").write_text('{"a":1}\n{bad\n[1]\n{"a":2}\n{"a":3,"a":4}\n')
    done = CliRunner().invoke(cli, ["source", "infer", str(tmp_path / "c.ndjson")], standalone_mode=False)
    assert done.exception is None
    assert "# 3 records are no JSON objects, or name a field twice: they will be rejects" in done.output
    assert 'a = "bigint not null"' in done.output
    (tmp_path / "d.ndjson").write_text("{bad\n")
    done = CliRunner().invoke(cli, ["source", "infer", str(tmp_path / "d.ndjson")], standalone_mode=False)
    assert "nothing in 1 records of d.ndjson is a JSON object" in str(done.exception)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé1-:TZ", max_size=10),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b b", "order", 'q"']), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.dictionaries(st.sampled_from(["a", "b", "Date", "x y"]), JSON, min_size=1), min_size=1, max_size=4))
@example(rows=[{"a": {'q"': False}}])  # a name that JSON escapes
def test_any_json_passes_the_contract_that_is_proposed(rows: list[dict[str, Any]]) -> None:
    rows = [{"id": index, **row} for index, row in enumerate(rows)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "t.ndjson"
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        assert "id" in infer(file).columns


def test_a_spreadsheet_and_an_array_are_proposed_as_json(tmp_path):
    book = openpyxl.Workbook()
    for row in (["id", "day"], [1, "2013-01-01"], [2, "2013-01-02"]):
        book.active.append(row)
    book.save(tmp_path / "days.xlsx")
    (tmp_path / "days.json").write_bytes(b'[{"id": 1, "day": "2013-01-01"},\n {"id": 2, "day": "2013-01-02"}]')
    for name in ("days.xlsx", "days.json"):
        proposed = propose(of_file(tmp_path / name), "days", "days", name).toml()
        assert 'format = "json"' in proposed
        assert 'id = "bigint not null"' in proposed
        assert 'day = "date not null"' in proposed
