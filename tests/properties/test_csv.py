"""Reading delimited files: the bulk path, the exact path and a state machine written for this test agree on every input."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.files.csv import read_csv
from connectors.files.input import InputFile
from flows.contract import Column, Source

NAMES = ("a", "b:%s", 'c"\\')


class Row(NamedTuple):
    key: bytes | None
    value: bytes
    line: int | None  # of a broken row


def source(width: int, max_bytes: int = 1 << 20, **dialect) -> Source:
    columns = {name: Column.parse("varchar") for name in NAMES[:width]}
    made = Source(name="s", topic="t", format="csv", columns=columns, key=(NAMES[0],), csv={"header": False, "null": ["NA", ""], **dialect})
    return made.model_copy(update={"max_record_bytes": max_bytes})  # smaller than a contract may say, so that short files reach it


def read(made: Source, content: bytes, *, fast: bool, block_bytes: int = 1 << 20) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, patch("connectors.files.records._BLOCK_BYTES", block_bytes):
        path = Path(folder) / "f.csv"
        path.write_bytes(content)
        with InputFile(path) as file:
            rows = []
            for chunk in read_csv(made, file, fast=fast).chunks:
                for index, (key, value) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
                    rows.append(Row(key, value, chunk.broken[index].line if index in chunk.broken else None))
            return rows


# --- the oracle: one character at a time


def ended_line(data: bytes, at: int) -> int:
    return at + 2 if data[at : at + 2] == b"\r\n" else at + 1


def parse(data: bytes, start: int, delimiter: int, quote: int) -> tuple[list[bytes], int, bool] | None:
    """Cells, where the record ends, and whether text follows a closing quote. None: a quote is not closed."""
    cells, cell, at, state, tail = [], bytearray(), start, "begin", False
    while True:
        byte = data[at] if at < len(data) else None
        if state == "quoted":
            if byte is None:
                return None
            if byte == quote:
                state = "closed"
            else:
                cell.append(byte)
        elif state == "closed" and byte == quote:
            cell.append(quote)
            state = "quoted"
        elif byte is None or byte in b"\r\n":
            return [*cells, bytes(cell)], at, tail
        elif byte == delimiter:
            cells.append(bytes(cell))
            cell, state = bytearray(), "begin"
        elif state == "begin" and byte == quote:
            state = "quoted"
        elif state == "closed":
            tail, state = True, "tail"
        elif state != "tail":
            cell.append(byte)
            state = "plain"
        at += 1


def oracle(made: Source, data: bytes) -> list[Row]:
    width, limit = len(made.columns), made.max_record_bytes
    delimiter, quote = ord(made.csv.delimiter), ord(made.csv.quote) if made.csv.quote else -1
    rows, at, line = [], 3 if data.startswith(b"\xef\xbb\xbf") else 0, 1
    while at < len(data):
        parsed = parse(data, at, delimiter, quote)
        if parsed is None or parsed[1] - at > limit:
            end = next((i for i in range(at, len(data)) if data[i] in b"\r\n"), len(data))
            rows.append(Row(None, data[at:end][:limit], line))
            at, line = ended_line(data, end), line + 1
            continue
        cells, end, tail = parsed
        raw = data[at:end]
        if raw or width == 1:
            rows.append(expected(made, cells, raw, line, bad=tail or len(cells) != width))
        line += max(1, len(raw.splitlines()))
        at = ended_line(data, end)
    return rows


def expected(made: Source, cells: list[bytes], raw: bytes, line: int, *, bad: bool) -> Row:
    try:
        texts = [cell.decode() for cell in cells]
        raw.decode()
    except UnicodeDecodeError:
        bad = True
    if bad:
        return Row(None, raw, line)
    members = {name: None if text in made.csv.null else text for name, text in zip(made.columns, texts, strict=True)}
    return Row(msgspec.json.encode({name: members[name] for name in made.key}), msgspec.json.encode(members), None)


_ONE_BYTE = [bytes([byte]) for byte in b"x,\r\n\"\t\\':}" + b"\x00\x01\xff\xc3"]
_MORE = [b"NA", b",", b",", b"\n", b"\r\n", b'"', b'""', b'","', b'"\n', b"%s", "é".encode(), "\u2028\x85".encode(), b"\xef\xbb\xbf"]
PIECES = st.sampled_from([*_ONE_BYTE, *_MORE, b"a,b\n", b'"q,""q"\n'])
CONTENT = st.lists(PIECES, max_size=60).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(
    CONTENT,
    st.integers(1, 3),
    st.sampled_from(['"', "'", ""]),
    st.sampled_from([",", "\t", "\x01"]),
    st.integers(1, 40),
    st.integers(1, 30),
)
def test_both_paths_equal_a_state_machine(content, width, quote, delimiter, max_bytes, block_bytes):
    made = source(width, max_bytes, quote=quote, delimiter=delimiter)
    wanted = oracle(made, content)
    assert read(made, content, fast=False, block_bytes=block_bytes) == wanted
    assert read(made, content, fast=True, block_bytes=block_bytes) == wanted
    assert read(made, content, fast=True) == wanted


# Python's writer leaves a lone \r unquoted when lines end in \n, and its own reader then refuses the file.
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=3, max_size=3), max_size=12),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_what_pythons_csv_writes_comes_back_exactly(rows, quoting, end):
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=end).writerows(rows)
    got = read(source(3, null=["NA"]), text.getvalue().encode(), fast=True)
    wanted = [{name: None if cell == "NA" else cell for name, cell in zip(NAMES, row, strict=True)} for row in rows]
    if not text.getvalue().startswith("\ufeff"):  # which is a byte order mark
        assert [msgspec.json.decode(row.value) for row in got] == wanted


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30).map(b"".join), st.sampled_from(["latin-1", "cp1252", "shift_jis", "gb18030"]))
def test_other_encodings_decode_each_record_or_keep_its_bytes(content, encoding):
    made = source(2, encoding=encoding)
    got = read(made, content, fast=True)
    assert got == read(made, content, fast=False)
    body = content.removeprefix(b"\xef\xbb\xbf")
    for row in got:
        if row.line is not None:
            assert row.value in body
        else:
            msgspec.json.decode(row.value)


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), max_size=40),
    st.sampled_from(["utf-16", "utf-16-le", "utf-16-be"]),
    st.integers(1, 9),
    st.integers(1, 50),
)
def test_utf_16_reads_as_utf_8_and_keeps_the_bytes_of_what_is_broken(text, encoding, block_bytes, max_bytes):
    content = text.encode(encoding, "surrogatepass")
    plain = content.removeprefix(b"\xff\xfe") if encoding == "utf-16" else content
    got = read(source(2, max_bytes, encoding=encoding), content, fast=True, block_bytes=block_bytes)
    for row in got:
        assert row.line is None or row.value in plain
    if text.isprintable() and not text.startswith("\ufeff"):
        as_utf8 = read(source(2, max_bytes), text.encode(), fast=True)
        assert [row for row in got if row.line is None] == [row for row in as_utf8 if row.line is None]


def test_half_a_character_at_the_end_of_utf_16_keeps_its_bytes():
    content = "a,b\nc,d".encode("utf-16-le") + b"\x41"
    rows = read(source(2, encoding="utf-16-le"), content, fast=True)
    assert [row.line for row in rows] == [None, 2]
    assert rows[1].value == "c,d".encode("utf-16-le") + b"\x41"
