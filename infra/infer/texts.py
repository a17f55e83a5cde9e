"""What the texts of a column could be: the narrowest type whose written grammar takes all of them."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from flows.sql.tree import quoted
from flows.stage.grammar import GRAMMAR
from infra.infer.proposal import Guess

NULL_TEXTS = ("", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None", "nil", "NaN", "nan", "\\N", "-", "?")
_MISSING = ("NA", "N/A", "#N/A", "NULL", "\\N")  # in a column of texts these are likely, but not surely, null
_PLAIN_INTEGER = "-?(0|[1-9][0-9]*)"
WIDE = "decimal(38,0)"
_TIMES = ("timestamptz", "date", "timestamp")


class Texts:
    """A table of text columns, held in DuckDB."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: str) -> None:
        self._connection = connection
        self._table = table

    def null_texts(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The texts that stand for null: without them, some column that is not text otherwise is a number or a time."""
        found: set[str] = set()
        empty = False
        for column in columns:
            present = self._present(column)
            empty |= "" in present
            if present and self._type(column, ()) == "varchar" and self._type(column, present) not in ("varchar", None):
                found.update(present)
        if empty:
            found.add("")
        return tuple(text for text in NULL_TEXTS if text in found) or ("",)

    def guess(self, column: str, nulls: Sequence[str], *, numbers: bool) -> Guess:
        """The column's type; ``numbers`` False: texts of a format that has numbers of its own, so only times are looked for."""
        total, present = self._row(
            f"SELECT count(*), count(*) FILTER (NOT list_contains({_list(nulls)}, {quoted(column)})) FROM {self._table}"
        )
        kind = self._type(column, nulls, numbers=numbers)
        if kind is None:
            return Guess("varchar", False, "always null")
        return Guess(kind, total == present, self._note(column, kind, nulls))

    def unique(self, columns: Sequence[str]) -> bool:
        """Whether no two rows agree in these columns."""
        names = ", ".join(map(quoted, columns))
        rows, distinct = self._row(f"SELECT count(*), count(DISTINCT ({names})) FROM {self._table}")
        return bool(rows) and rows == distinct

    def _present(self, column: str) -> tuple[str, ...]:
        sql = f"SELECT DISTINCT {quoted(column)} FROM {self._table} WHERE list_contains({_list(NULL_TEXTS)}, {quoted(column)})"
        return tuple(text for (text,) in self._connection.execute(sql).fetchall())

    def _type(self, column: str, nulls: Sequence[str], *, numbers: bool = True) -> str | None:
        """The type that takes every value; None when there are none."""
        values = f"(SELECT DISTINCT {quoted(column)} AS v FROM {self._table} WHERE NOT list_contains({_list(nulls)}, v))"
        tests = {
            "any": "true",
            "integer": f"regexp_full_match(v, '{_PLAIN_INTEGER}') AND TRY_CAST(v AS INTEGER) IS NOT NULL",
            "bigint": f"regexp_full_match(v, '{_PLAIN_INTEGER}') AND TRY_CAST(v AS BIGINT) IS NOT NULL",
            "whole": f"regexp_full_match(v, '{_PLAIN_INTEGER}')",
            "whole_38": f"regexp_full_match(v, '{_PLAIN_INTEGER}') AND length(ltrim(v, '-')) <= 38",
            "zeros": "regexp_full_match(v, '-?0[0-9]+')",
            "double": f"regexp_full_match(v, '{GRAMMAR['double']}') AND isfinite(TRY_CAST(v AS DOUBLE))",
            "boolean": "lower(v) IN ('true', 'false', 't', 'f')",
            **{kind: f"regexp_full_match(v, '{GRAMMAR[kind]}') AND TRY_CAST(v AS {kind}) IS NOT NULL" for kind in _TIMES},
        }
        counts = ", ".join(f"count(*) FILTER ({test})" for test in tests.values())
        found = dict(zip(tests, self._row(f"SELECT {counts} FROM {values}"), strict=True))
        if not found["any"]:
            return None
        if numbers and not found["zeros"]:
            for kind in ("integer", "bigint"):
                if found[kind] == found["any"]:
                    return kind
            if found["whole"] == found["any"]:
                return WIDE if found["whole_38"] == found["any"] else "varchar"
            if found["double"] == found["any"]:
                return self._decimal(values) or "double"
        kinds = ("boolean", *_TIMES) if numbers else _TIMES
        return next((kind for kind in kinds if found[kind] == found["any"]), "varchar")

    def _decimal(self, values: str) -> str | None:
        """A decimal when every number has the same few digits behind its point, as amounts of money have."""
        low, high, digits = self._row(
            f"SELECT min(len(split_part(v, '.', 2))), max(len(split_part(v, '.', 2))), max(len(v)) FROM {values} "
            f"WHERE regexp_full_match(v, '-?[0-9]+[.][0-9]+')"
        )
        (whole,) = self._row(f"SELECT count(*) FROM {values} WHERE NOT regexp_full_match(v, '-?[0-9]+[.][0-9]+')")
        return f"decimal(18,{low})" if not whole and low == high and 2 <= low <= 4 and digits <= 16 else None

    def _note(self, column: str, kind: str, nulls: Sequence[str]) -> str:
        if kind == WIDE:
            return "a guess: integers that bigint cannot hold"
        if kind.startswith("decimal"):
            return "a guess: always the same number of decimals; double for measurements"
        if kind == "varchar":
            (zeros,) = self._row(
                f"SELECT count(*) FROM {self._table} WHERE NOT list_contains({_list(nulls)}, {quoted(column)}) "
                f"AND NOT regexp_full_match({quoted(column)}, '{_PLAIN_INTEGER}|0[0-9]+')"
            )
            if not zeros:
                return "a guess: digits with leading zeros, so a code and not a number"
            missing = [text for text in self._present(column) if text in _MISSING and text not in nulls]
            return f"holds the text {missing[0]}: if that means null, add it to null under [csv]" if missing else ""
        return "a guess: a time without a zone" if kind == "timestamp" else ""

    def _row(self, sql: str) -> tuple[int, ...]:
        row = self._connection.execute(sql).fetchone()
        assert row is not None
        return row


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]::VARCHAR[]"
