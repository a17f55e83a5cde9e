"""Where a statement ends: DuckDB's own parser is the oracle."""

from __future__ import annotations

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from infra.shell.statements import read, split

VALUES = st.sampled_from(
    ["1", "'a'", "';'", "'it''s;'", "e'\\';'", 'x.";"', "$$;'$$", "$a$ $$; $a$", "/* ; */ 1", "/* /* ; */ ; */ 2", "1 -- ; '\n", "name$a$"]
)
STATEMENTS = st.lists(VALUES, min_size=1, max_size=4).map(lambda values: "SELECT " + ", ".join(values))
TEXTS = st.lists(STATEMENTS, max_size=5).map(lambda statements: "".join(f"{statement}\n;" for statement in statements))


def duckdb_says(text: str) -> list[str]:
    return [statement.query.strip().removesuffix(";").strip() for statement in duckdb.extract_statements(text)]


@given(TEXTS)
def test_statements_end_where_duckdb_ends_them(text: str) -> None:
    whole, rest = split(text)
    assert whole == duckdb_says(text)
    assert rest == ""


@given(TEXTS, STATEMENTS)
def test_lines_give_the_same_statements_and_the_last_needs_no_semicolon(text: str, last: str) -> None:
    assert list(read((text + last).splitlines(keepends=True))) == duckdb_says(text + last)


@given(TEXTS, st.sampled_from(["'", '"', "/* ;", "$$ ;", "$a$ ; $$", "e'\\';", "''' ; "]))
def test_what_is_not_closed_goes_on(text: str, opening: str) -> None:
    whole, rest = split(f"{text} SELECT {opening};")
    assert whole == duckdb_says(text)
    assert rest == f"SELECT {opening};"


def test_commands_are_lines() -> None:
    text = "-- first\n.tables a;b\nSELECT 1\n.5; .quit\n/* c\n */\n.mode csv"
    expected = [".tables a;b", "SELECT 1\n.5", ".quit", ".mode csv"]
    assert list(read(text.splitlines(keepends=True))) == expected
    assert split(text) == (expected, "")
    assert split(" ; -- nothing\n;") == ([], "")
