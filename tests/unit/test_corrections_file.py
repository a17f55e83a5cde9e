"""Files of corrections: what was exported is read again byte for byte, in every format; and the example of docs/rejects.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest

from connectors.files.corrections import Correction, CorrectionsUnreadable, read_corrections
from flows.errors import UsageError
from infra.cli.query import form_of, save
from infra.rejects import EXPORT
from sinks.result import Result

PAGE = (Path(__file__).parents[2] / "docs/rejects.md").read_text(encoding="utf-8")
VALUES = [b'{"a":"x, \\"y\\"\\nz"}', b"\xff\xfe", b"", None, "é\r\nü".encode(), b" leading, and 'quotes' ", b'"', b"null", b"x" * 2_000_000]


def exported(file: Path) -> Path:
    connection = duckdb.connect()
    connection.execute(
        """CREATE TABLE rejects ("table" text, position text, code text, rule text, "column" text, reason text, _timestamp timestamptz,
        key blob, value blob, headers struct(name text, value blob)[], corrected_by text)"""
    )
    headers = [{"name": "kappa-load", "value": b"L"}, {"name": "odd", "value": b"\xff"}]
    rows = [["staging.s", f"t/0/{n}", "rule", "r", None, "it's so", "2026-11-22", v, v, headers, None] for n, v in enumerate(VALUES)]
    connection.executemany("INSERT INTO rejects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    save(Result(connection.sql(f"SELECT {EXPORT} FROM rejects")), form_of(file), file)
    return file


@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl", ".json", ".csv", ".parquet", ".arrow"])
def test_what_was_exported_is_read_again(tmp_path: Path, suffix: str) -> None:
    read = read_corrections(exported(tmp_path / f"bad{suffix}"))
    assert read == [Correction(n + 1, "t", 0, n, "staging.s", value, value) for n, value in enumerate(VALUES)]


def test_the_documented_record(tmp_path: Path) -> None:
    match = re.search(r"```json\n(.*?)\n```", PAGE, re.DOTALL)
    assert match is not None
    (tmp_path / "bad.ndjson").write_text(match[1])
    (one,) = read_corrections(tmp_path / "bad.ndjson")
    assert (one.position, one.table, one.value) == ("orders/0/5", "staging.orders", b'{"order_id":"6","quantity":"one"}')
    fields = json.loads(exported(tmp_path / "real.ndjson").read_text().splitlines()[0])
    assert list(fields) == list(json.loads(match[1]))
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.split("## In a file")[1], re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(named))) == sorted(fields)


def test_objects_instead_of_texts(tmp_path: Path) -> None:
    """Their bytes go as they are: 1.10 stays 1.10."""
    file = tmp_path / "bad.ndjson"
    file.write_text('{"position":"a/b/0/7","value":{"x": 1.10},"key":{"k":1}}\n\n{"position":"t/0/8","value":" {}"}\n')
    assert [(one.topic, one.offset, one.key, one.value) for one in read_corrections(file)] == [
        ("a/b", 7, b'{"k":1}', b'{"x": 1.10}'),
        ("t", 8, None, b" {}"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("x.ndjson", "{", "truncated"),
        ("x.ndjson", '{"position": 5}', "Expected"),
        ("x.json", '{"position": "t/0/1"}', "Expected `array`"),
        ("x.ndjson", '{"position": "t/-1/1"}', "record 1: its position is"),
        ("x.ndjson", '{"position": null}', "record 1: its position is null"),
        ("x.csv", "", "Empty"),
        ("x.parquet", "PAR", "Parquet"),
        ("x.arrow", "nothing", ""),
        ("missing.csv", None, "No such file"),
    ],
)
def test_what_is_no_export(tmp_path: Path, name: str, content: str | None, cause: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CorrectionsUnreadable) as raised:
        read_corrections(tmp_path / name)
    assert cause in str(raised.value)
    with pytest.raises(UsageError, match="no known suffix"):
        read_corrections(tmp_path / "bad.xlsx")
