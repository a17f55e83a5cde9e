"""Where the records of delimited text begin and end. docs/loading.md has the rules; ends of lines are ``\\n``, ``\\r\\n`` and ``\\r``."""

from __future__ import annotations

import re
from typing import NamedTuple

from connectors.files.chunk import cut, too_long
from connectors.files.input import Stream

_BLOCK_BYTES = 1024 * 1024
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Run(NamedTuple):
    """Whole lines without a quote, the last end of line perhaps missing; each line is a record. ``line``: 1-based, of the first."""

    raw: bytes
    line: int


class Record(NamedTuple):
    """One record without its end of line. When it is broken, ``cause`` says why and ``raw`` is its first physical line."""

    raw: bytes
    line: int
    cause: str = ""


class Records:
    """Reads runs and records from a stream, holding no more than two of the longest record or two blocks of it.

    ``fast=False`` gives no runs, so that tests can compare the two ways.
    """

    def __init__(self, stream: Stream, delimiter: bytes, quote: bytes, max_bytes: int, *, fast: bool = True) -> None:
        self._stream = stream
        self._quote = quote
        self._pattern = _pattern(delimiter, quote)
        self._max_bytes = max_bytes
        self._fast = fast
        self._data = b""
        self._at = 0
        self._ended = False
        self._line = 1

    def fill(self) -> bool:
        """Read on until a record of the longest size, and the end of its line, is held. Returns whether anything is left."""
        wanted = self._max_bytes + 2
        if not self._ended and len(self._data) - self._at < wanted:
            blocks = [self._data[self._at :]]
            held = len(blocks[0])
            while held < wanted + max(_BLOCK_BYTES, self._max_bytes):
                block = self._stream.read(_BLOCK_BYTES)
                if not block:
                    self._ended = True
                    break
                blocks.append(block)
                held += len(block)
            self._data, self._at = b"".join(blocks), 0
        return self._at < len(self._data)

    @property
    def held(self) -> bool:
        """Whether another record can be read without ``fill``."""
        left = len(self._data) - self._at
        return left > 0 if self._ended else left >= self._max_bytes + 2

    def skip_prefix(self, prefix: bytes) -> None:
        """Leave out ``prefix``, when it comes next."""
        if self._data.startswith(prefix, self._at):
            self._at += len(prefix)

    def run(self) -> Run | None:
        """The run that comes next, if one does."""
        end = self._run_end()
        if end == self._at:
            return None
        run = Run(self._data[self._at : end], self._line)
        self._at = end
        return run

    def passed(self, lines: int) -> None:
        """Count the lines of a run."""
        self._line += lines

    def record(self) -> Record:
        """The record that comes next."""
        start, line, data = self._at, self._line, self._data
        limit = start + self._max_bytes
        match = self._pattern.match(data, start, min(limit, len(data)))
        assert match is not None
        end = match.end()
        if end == len(data) or data[end] in b"\r\n":
            self._pass(end)
            return Record(data[start:end], line)
        cause = too_long(self._max_bytes)
        if end < limit:  # the pattern stops before a quote that is not closed
            cause = f"a quote is not closed within {self._max_bytes} bytes or before the end of the file"
        found = _LINE_END.search(data, start, limit + 2)
        line_end = found.start() if found else min(len(data), limit + 1)
        if line_end <= limit:
            self._pass(line_end)
            return Record(data[start:line_end], line, cause)
        self._skip_line()
        return Record(data[start:limit], line, cut(cause))

    def _run_end(self) -> int:
        if not self._fast:
            return self._at
        stop = len(self._data)
        quote = self._data.find(self._quote, self._at) if self._quote else -1
        if quote >= 0:
            stop = quote
        elif self._ended:
            return stop
        elif self._data.endswith(b"\r"):
            stop -= 1  # it may be half of \r\n
        return max(self._data.rfind(b"\n", self._at, stop), self._data.rfind(b"\r", self._at, stop), self._at - 1) + 1

    def _pass(self, end: int) -> None:
        """Move behind the end of the line at ``end``."""
        self._line += max(1, len(self._data[self._at : end].splitlines()))
        self._at = end + 2 if self._data.startswith(b"\r\n", end) else min(end + 1, len(self._data))

    def _skip_line(self) -> None:
        while True:
            found = _LINE_END.search(self._data, self._at, len(self._data) - (not self._ended))
            if found or self._ended:
                self._pass(found.start() if found else len(self._data))
                return
            self._at = len(self._data) - 1
            self.fill()


def _pattern(delimiter: bytes, quote: bytes) -> re.Pattern[bytes]:
    """A record up to the end of its line; it stops before a quote that is not closed. Text behind a closing quote belongs to the cell."""
    if not quote:
        return re.compile(rb"[^\r\n]*+")
    d, q = re.escape(delimiter), re.escape(quote)
    quoted = rb"%b[^%b]*+(?:%b%b[^%b]*+)*+%b[^%b\r\n]*+" % (q, q, q, q, q, q, d)
    plain = rb"[^%b%b\r\n][^%b\r\n]*+" % (d, q, d)
    cell = rb"(?:%b|%b|)" % (quoted, plain)
    return re.compile(rb"%b(?:%b%b)*+" % (cell, d, cell))
