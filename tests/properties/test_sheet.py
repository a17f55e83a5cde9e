"""Spreadsheets: what a cell holds arrives as it is, and what cannot be read is named."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.files.chunk import Chunk
from connectors.files.errors import FileUnreadable, FormatMismatch, HeaderInvalid
from connectors.files.input import InputFile
from connectors.files.reading import read_rows, reader_options
from flows.contract import Column, Source

cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(-1e300, 1e300).map(lambda number: float(f"{number:.15g}")),  # openpyxl writes no more digits
    st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
        lambda text: text[0] not in "=" and not text.startswith("_x")
    ),
)


def source(kind: str = "json", **more) -> Source:
    return Source(name="s", topic="t", format=kind, columns={"id": Column.parse("bigint"), "b": Column.parse("varchar")}, **more)


def write(path: Path, rows: list[list], title: str = "first") -> Path:
    book = openpyxl.load_workbook(path) if path.exists() else openpyxl.Workbook()
    sheet = book.create_sheet(title) if path.exists() else book.active
    sheet.title = title
    for row in rows:
        sheet.append(row)
    book.save(path)
    return path


def read(path: Path, made: Source | None = None) -> Chunk:
    with InputFile(path) as file:
        chunks = list(read_rows(made or source(), file).chunks)
    assert len(chunks) <= 1
    return chunks[0] if chunks else Chunk([], [])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, cells), max_size=4))
def test_cells_keep_their_values(tmp_path, rows):
    path = tmp_path / "f.xlsx"
    path.unlink(missing_ok=True)
    write(path, [["id", "b"], *map(list, rows)])
    wanted = [dict(zip(("id", "b"), row, strict=True)) for row in rows if row != (None, None)]
    found = [json.loads(value) for value in read(path).values]
    assert found == wanted
    assert all(type(found[name]) is bool for found, row in zip(found, wanted, strict=True) for name in row if type(row[name]) is bool)
    texts = [json.loads(value) for value in read(path, source("csv")).values]
    assert all(text is None or isinstance(text, str) for row in texts for text in row.values())
    for row, text in zip(wanted, texts, strict=True):
        for name, cell in row.items():
            if type(cell) in (int, float):
                assert float(text[name]) == cell
                assert ("." in text[name] or "e" in text[name]) == (cell != int(cell) or abs(cell) >= 2**53)


def test_times_booleans_keys_and_blank_rows(tmp_path):
    rows = [
        ["id", "b", None],
        [3.0, dt.datetime(2020, 1, 2, 3, 4, 5)],
        [],
        ["x", dt.date(2020, 1, 2)],
        [1.5, dt.time(3, 4)],
        [True, dt.timedelta(hours=30, minutes=1)],
        [7, "b", "beside"],
    ]
    chunk = read(write(tmp_path / "f.xlsx", rows), source("csv", key=("id",)))
    assert chunk.values == [
        b'{"id":"3","b":"2020-01-02T03:04:05"}',
        b'{"id":"x","b":"2020-01-02"}',
        b'{"id":"1.5","b":"03:04:00"}',
        b'{"id":"true","b":"30:01:00"}',
        b'["7","b","beside"]',
    ]
    assert chunk.keys == [b'{"id":"3"}', b'{"id":"x"}', b'{"id":"1.5"}', b'{"id":"true"}', None]
    assert list(chunk.broken) == [4]


def test_the_sheet_is_chosen_by_name_and_is_part_of_the_identity(tmp_path):
    path = write(tmp_path / "f.xlsx", [["id"], [1]])
    write(path, [["id"], [2]], "second")
    second = source(sheet={"name": "second"})
    assert (read(path).values, read(path, second).values) == ([b'{"id":1}'], [b'{"id":2}'])
    with InputFile(path) as file:
        assert (reader_options(source(), file), reader_options(second, file)) == ({}, {"sheet": "second"})
    with pytest.raises(FormatMismatch, match="no sheet 'third', but 'first', 'second'"):
        read(path, source(sheet={"name": "third"}))


def test_a_row_beyond_the_limit_is_cut_and_marked(tmp_path):
    chunk = read(write(tmp_path / "f.xlsx", [["id", "b"], [1, "x" * 3000], [2, "y"]]), source(max_record_bytes=2000))
    assert [len(value) for value in chunk.values] == [2000, 16]
    assert "max_record_bytes" in chunk.broken[0].cause


@pytest.mark.parametrize(
    ("rows", "error"),
    [([["id", None, "b"]], HeaderInvalid), ([["id", "id"]], HeaderInvalid), ([["x", "y"]], HeaderInvalid)],
)
def test_a_header_that_cannot_be_used(tmp_path, rows, error):
    with pytest.raises(error, match=r"f\.xlsx"):
        read(write(tmp_path / "f.xlsx", rows))


def test_what_is_no_spreadsheet_or_too_large_is_named(tmp_path, monkeypatch):
    (tmp_path / "no.xlsx").write_bytes(b"no spreadsheet")
    with pytest.raises(FileUnreadable, match=r"no\.xlsx"):
        read(tmp_path / "no.xlsx")
    path = write(tmp_path / "f.xlsx", [["id"], [1]])
    (tmp_path / "cut.xlsx").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileUnreadable, match=r"cut\.xlsx"):
        read(tmp_path / "cut.xlsx")
    monkeypatch.setattr("connectors.files.sheet.MAX_BYTES", 100)
    with pytest.raises(FormatMismatch, match="up to 100 bytes"):
        read(path)


def test_an_empty_sheet_has_no_rows(tmp_path):
    assert read(write(tmp_path / "f.xlsx", [])).values == []
