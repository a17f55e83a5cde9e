"""docs/types.md says what the code does: its tables are read and compared."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import Schema

from flows import types
from flows.stage.codes import DESCRIPTIONS, Code
from flows.stage.grammar import GRAMMAR
from flows.types import TypeRefused, parse_type

PAGE = (Path(__file__).parents[2] / "docs" / "types.md").read_text(encoding="utf-8")


def table(header: str) -> list[list[str]]:
    """The rows of the table with this header line."""
    lines = PAGE.splitlines()
    rows = []
    for line in lines[lines.index(header) + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


STORED = table("| DuckDB type | Delta type | Arrow type |")
REFUSED = table("| DuckDB type | write instead |")


@pytest.mark.parametrize(("duckdb_type", "delta", "arrow"), STORED)
def test_stored_types(duckdb_type: str, delta: str, arrow: str) -> None:
    found = parse_type(duckdb_type.strip("`")).arrow
    assert str(found) == arrow
    assert Schema.from_arrow(pa.schema([("c", found)])).fields[0].type.type == delta


@pytest.mark.parametrize(("duckdb_type", "instead"), REFUSED)
def test_refused_types(duckdb_type: str, instead: str) -> None:
    with pytest.raises(TypeRefused) as raised:
        parse_type(duckdb_type.strip("`"))
    assert instead in raised.value.instead


def test_every_type_is_on_the_page() -> None:
    assert set(types._SCALARS) <= {parse_type(row[0].strip("`")).name.lower() for row in STORED}
    assert set(types._INSTEAD) == {duckdb.sqltype(row[0].strip("`")).id for row in REFUSED}


def test_codes() -> None:
    rows = table("| code | meaning |")
    assert [(row[0].strip("`"), row[1]) for row in rows] == [(str(code), text) for code, text in DESCRIPTIONS.items()]
    assert set(DESCRIPTIONS) == set(Code)


def test_grammars() -> None:
    rows = {row[0]: row[2].strip("`") for row in table("| type | `json` takes | `csv` takes (regular expression) |")}
    assert rows["integers"] == GRAMMAR["bigint"]
    assert rows["`float`, `double`"] == GRAMMAR["double"]
    assert rows["`boolean`"] == GRAMMAR["boolean"]
    assert rows["`date`"] == GRAMMAR["date"]
