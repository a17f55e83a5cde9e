"""What a user writes to name a row, as a condition in SQL."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from flows.errors import UsageError
from flows.sql.tree import quoted

NULL = "NULL"
_NAMED = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.DOTALL)


class KeyWrong(UsageError):
    """The values do not name a row of the table."""


def pairs(table: str, values: Sequence[str], key: Sequence[str], columns: Sequence[str]) -> list[tuple[str, str | None]]:
    """(column, text or None for null) of what ``values`` name: in the order of ``key``, or ``column=value`` of any of ``columns``.

    ``NULL`` is null, and ``'NULL'`` the text. Raises KeyWrong.
    """
    names = {name.lower(): name for name in columns}
    named = [match for value in values if (match := _NAMED.match(value)) and match[1].lower() in names]
    if len(named) == len(values) and values:
        return [(names[match[1].lower()], _text(match[2])) for match in named]
    if len(values) == len(key) or (tuple(key) == ("_partition", "_offset", "_row") and len(values) == 2):
        return [(name, _text(value)) for name, value in zip(key, values, strict=False)]
    raise KeyWrong(
        f"{len(values)} value{'s' if len(values) != 1 else ''} name no row of {table}",
        cause=f"its key has {len(key)}: {', '.join(key)}",
        next_step=f"kappa explain-row {table} {' '.join(name.strip('_').upper() for name in key)}; or column=value",
    )


def condition(named: Sequence[tuple[str, str | None]], types: Mapping[str, str]) -> str:
    """SQL that is true of the rows that have these values. ``types``: column -> DuckDB's name of its type."""
    return " AND ".join(f"{quoted(name)} IS NOT DISTINCT FROM {_cast(text, types[name])}" for name, text in named)


def uncastable(named: Sequence[tuple[str, str | None]], types: Mapping[str, str]) -> str:
    """SQL that gives the numbers (from 0) of the values that are none of their column's type."""
    each = (
        f"SELECT {number} AS n WHERE TRY_CAST({literal(text)} AS {types[name]}) IS NULL"
        for number, (name, text) in enumerate(named)
        if text is not None
    )
    return " UNION ALL ".join(each) or "SELECT 0 AS n WHERE false"


def literal(text: str | None) -> str:
    """A text, or NULL, as SQL writes it."""
    return "NULL" if text is None else "'" + text.replace("'", "''") + "'"


def written(text: str | None) -> str:
    """A value as a user would write it on the command line, in quotes where a shell needs them. Undoes ``pairs``."""
    if text is None:
        return NULL
    text = f"'{text}'" if text == NULL or (len(text) > 1 and text[0] == text[-1] == "'") else text
    return shlex.quote(text)


def _cast(text: str | None, kind: str) -> str:
    return f"CAST({literal(text)} AS {kind})"


def _text(value: str) -> str | None:
    if value == NULL:
        return None
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == "'" else value
