"""Cells of delimited records, and the JSON objects that are made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter

import msgspec

# Bytes that JSON does not take as they are.
_ESCAPED = re.compile(rb'["\\\x00-\x1f]')
# Stands before each value of a row under construction, so that null strings are found as whole values. No escaped cell holds it.
_VALUE = b"\x00"


def escape(cell: bytes) -> bytes:
    """UTF-8 text as the inside of a JSON string."""
    return _ESCAPED.sub(lambda match: msgspec.json.encode(match[0].decode())[1:-1], cell)


class TextAfterQuote(ValueError):
    """A cell goes on behind its closing quote."""

    def __init__(self) -> None:
        super().__init__("text after a closing quote")


class Splitter:
    """Splits a record into its cells."""

    def __init__(self, delimiter: bytes, quote: bytes) -> None:
        self._delimiter = delimiter
        self._quote = quote
        d, q = re.escape(delimiter), re.escape(quote)
        quoted = rb"%b([^%b]*+(?:%b%b[^%b]*+)*+)%b([^%b\r\n]*+)" % (q, q, q, q, q, q, d)
        plain = rb"[^%b%b\r\n][^%b\r\n]*+" % (d, q, d)
        self._pattern = re.compile(rb"(?:%b|(%b|))%b" % (quoted, plain, d)) if quote else None

    def __call__(self, record: bytes) -> list[bytes]:
        """The cells' text, quotes undone. Raises TextAfterQuote."""
        if self._pattern is None or self._quote not in record:
            return record.split(self._delimiter)
        found = self._pattern.findall(record + self._delimiter)
        if any(tail for _, tail, _ in found):
            raise TextAfterQuote
        return [plain or quoted.replace(self._quote * 2, self._quote) for quoted, _, plain in found]


class Objects:
    """Makes JSON objects with the members ``columns`` of rows whose cells are named ``names``."""

    def __init__(self, columns: Sequence[str], names: Sequence[str], nulls: Sequence[str]) -> None:
        members = [msgspec.json.encode(name).replace(b"%", b"%%") + b":" + _VALUE + b'"%b"' for name in columns]
        self._template = b"{" + b",".join(members) + b"}"
        self._cells = itemgetter(*[names.index(name) for name in columns]) if list(columns) != list(names) else tuple
        self._nulls = [_VALUE + b'"' + escape(null.encode()) + b'"' for null in nulls]

    def __call__(self, rows: Sequence[Sequence[bytes]]) -> list[bytes]:
        """One object a row of escaped cells; a cell that equals a null string is null."""
        if not rows:
            return []
        template, cells = self._template, self._cells
        text = b"\n".join([template % cells(row) for row in rows])  # no object holds an end of line: JSON escapes it
        for null in self._nulls:
            text = text.replace(null, b"null")
        return text.replace(_VALUE, b"").split(b"\n")
