"""What may be asked of a warehouse: one statement that only reads."""

from __future__ import annotations

import re

import duckdb

from flows.errors import UsageError

READING = "SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, EXPLAIN, SUMMARIZE, PIVOT, UNPIVOT"
_EXPLAIN = re.compile(r"\A(?:\s|--[^\n]*\n|/\*.*?\*/)*explain\s*(?:analyze\b)?\s*(?:\([^()]*\))?", re.IGNORECASE | re.DOTALL)


class StatementRefused(UsageError):
    """The SQL is empty, or more than one statement, or a statement that writes."""


class SqlInvalid(UsageError):
    """DuckDB cannot parse the SQL."""

    exit_status = 1


def check_statement(query: str) -> None:
    """Accept exactly one reading statement. Raises StatementRefused, or SqlInvalid when it does not parse."""
    try:
        statements = duckdb.extract_statements(query)
    except duckdb.Error as error:
        raise SqlInvalid("this is not SQL", cause=str(error)) from None
    match [statement.type for statement in statements]:
        case []:
            raise StatementRefused("no SQL", cause="the query is empty", next_step='kappa query "SHOW ALL TABLES"')
        case [duckdb.StatementType.SELECT]:
            return
        case [duckdb.StatementType.CREATE, duckdb.StatementType.SELECT] if not any(statement.query for statement in statements):
            return  # PIVOT: DuckDB makes a type of the pivoted values, then selects; only such rewrites have no text
        case [duckdb.StatementType.EXPLAIN]:
            check_statement(_explained(query))
        case [kind]:
            raise StatementRefused(
                f"{kind.name} is not a query", cause="a warehouse is read only here", next_step=f"write one of {READING}"
            )
        case _:
            raise StatementRefused(
                f"{len(statements)} statements at once",
                cause="each answer belongs to one statement",
                next_step="ask them one after the other",
            )


def _explained(query: str) -> str:
    """What EXPLAIN explains: EXPLAIN ANALYZE runs it, so that it must be a reading statement itself."""
    stripped = _EXPLAIN.sub("", query, count=1)
    if stripped == query:
        raise StatementRefused("this EXPLAIN cannot be read", cause=query, next_step="write EXPLAIN [ANALYZE] SELECT ...")
    return stripped
