"""Completion: commands, and the names of tables and columns where SQL can have them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from flows.errors import KappaError
from infra.shell.commands import COMMANDS, ON_SCREEN
from infra.shell.shell import Shell
from infra.shell.statements import is_open
from sinks.engine import SCHEMAS

KEYWORDS = (
    *("SELECT", "FROM", "WHERE", "GROUP", "BY", "ORDER", "HAVING", "LIMIT", "OFFSET", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS"),
    *("ON", "USING", "AS", "WITH", "UNION", "ALL", "DISTINCT", "AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "ILIKE", "BETWEEN", "CASE"),
    *("WHEN", "THEN", "ELSE", "END", "ASC", "DESC", "OVER", "PARTITION", "QUALIFY", "VALUES", "DESCRIBE", "SUMMARIZE", "EXPLAIN"),
    *("ANALYZE", "SHOW", "TABLES", "PIVOT", "UNPIVOT", "EXCLUDE", "REPLACE", "CAST", "EXISTS", "FILTER", "INTERVAL", "TRUE", "FALSE"),
)
_WORD = re.compile(r"[\w.]*$")
_WANTS_TABLE = re.compile(r"\b(?:from|join|describe|summarize|pivot)\s+$", re.IGNORECASE)
_NAMED = re.compile(r'\b((?:raw|staging|core|analytics)\s*\.\s*"?\w+"?)(?:\s+(?:as\s+)?(\w+))?', re.IGNORECASE)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
_FILES = (".read", ".once", ".output")


class Names(Completer):
    """Completes from the shell's cut. Columns are asked for once a cut, when they are first wanted."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._columns: dict[str, list[str]] = {}
        self._cut: object = None

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What the word before the cursor may become."""
        before = document.text_before_cursor
        if before.lstrip().startswith("."):
            return self._of_command(document, before.lstrip(), complete_event)
        if is_open(before):
            return ()  # within a quote or a comment
        word = match[0] if (match := _WORD.search(before)) else ""
        return self._of_sql(document.text, before[: len(before) - len(word)], word)

    def _of_command(self, document: Document, line: str, event: CompleteEvent) -> Iterator[Completion]:
        name, blank, argument = line.partition(" ")
        if not blank:
            yield from _matching(name, COMMANDS)
        elif name in _FILES:
            yield from PathCompleter(expanduser=True).get_completions(Document(argument.lstrip()), event)
        else:
            choices = {".mode": ON_SCREEN, ".timing": ("on", "off"), ".hold": ("on", "off")}.get(name)
            if name in (".schema", ".tables"):
                choices = tuple(self._shell.warehouse.tables())
            yield from _matching(argument.lstrip(), choices or ())

    def _of_sql(self, text: str, before: str, word: str) -> Iterator[Completion]:
        tables = self._shell.warehouse.tables()
        owner, dot, part = word.rpartition(".")
        if dot:
            if owner.lower() in SCHEMAS:
                yield from _matching(part, [name.partition(".")[2] for name in tables if name.startswith(f"{owner.lower()}.")])
            else:
                yield from _matching(part, map(_quoted, self._columns_of(_meant(owner.lower(), text, tables))))
            return
        near = [name for name in tables if word and name.partition(".")[2].startswith(word.lower())]
        if not _WANTS_TABLE.search(before):
            named = {name.lower() for name, _ in _mentions(text)}
            columns = {column: None for name in tables if name in named for column in self._columns_of(name)}
            yield from _matching(word, map(_quoted, columns))
        yield from _matching(word, tables)
        yield from (Completion(name, -len(word)) for name in near if not name.startswith(word.lower()))
        if not _WANTS_TABLE.search(before):
            yield from _matching(word, KEYWORDS if word != word.lower() or not word else map(str.lower, KEYWORDS))

    def _columns_of(self, table: str | None) -> list[str]:
        if self._cut is not self._shell.warehouse.snapshot.cut:
            self._cut, self._columns = self._shell.warehouse.snapshot.cut, {}
        if table is None:
            return []
        if table not in self._columns:
            try:
                self._columns[table] = self._shell.warehouse.sql(f"FROM {table}").columns
            except KappaError:  # the query itself will say it
                self._columns[table] = []
        return self._columns[table]


def _mentions(text: str) -> list[tuple[str, str]]:
    """(table, alias or nothing) of every table that SQL names."""
    return [(re.sub(r'[\s"]', "", name), alias) for name, alias in _NAMED.findall(text)]


def _meant(owner: str, text: str, tables: list[str]) -> str | None:
    """The table that ``owner``, before a dot, is: a full name, an alias, or the second part of a table that the text names."""
    if owner in tables:
        return owner
    for name, alias in _mentions(text):
        if owner in (alias.lower(), name.lower().partition(".")[2]):
            return name.lower()
    return None


def _quoted(column: str) -> str:
    """As SQL takes it."""
    return column if _PLAIN.match(column) else '"' + column.replace('"', '""') + '"'


def _matching(word: str, names: Iterable[str]) -> Iterator[Completion]:
    return (Completion(name, -len(word)) for name in names if name.lower().lstrip('"').startswith(word.lower()))
