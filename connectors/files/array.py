"""A file that is one JSON array: each of its members is an event, with its text as it stands there.

The array is split by its brackets, commas and strings alone, a block at a time: no parser of JSON in streams keeps the text of what it
reads (``1.10``, escapes, blanks). Whether a member is right is the decoder's to judge, so a wrong one costs no neighbour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from connectors.files.chunk import Broken, Chunk, cut, too_long
from connectors.files.encoding import UTF8_BOM
from connectors.files.errors import FileUnreadable
from connectors.files.input import InputFile

_BLOCK_BYTES = 1024 * 1024
_BLANKS = b" \t\r\n"
_QUOTE, _OPEN, _BRACE, _CLOSE, _BRACE_CLOSE, _COMMA, _BACKSLASH = b'"[{]},\\'
_BLANK = re.compile(rb"[ \t\r\n]*+")
_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # the rest of a string, without its closing quote
_BETWEEN = re.compile(rb'(?:[^"{}\[\],]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)  # up to what matters among the members
_WITHIN = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)  # up to what matters within a member


def is_array(file: InputFile) -> bool:
    """Whether a file named ``.json`` begins as an array; other names mean one object a line. Raises FileUnreadable."""
    return file.format == ".json" and file.content().read(4096).removeprefix(UTF8_BOM).lstrip(_BLANKS).startswith(b"[")


def array_chunks(file: InputFile, max_bytes: int, key: Callable[[bytes], bytes | None]) -> Iterator[Chunk]:
    """The members in order. Raises FileUnreadable, after those before it, where the array breaks off or something follows it."""
    stream = file.content()
    members = _Members(max_bytes)
    block = stream.read(max(_BLOCK_BYTES, len(UTF8_BOM) + 1)).removeprefix(UTF8_BOM)
    while block:
        members.feed(block)
        if members.values:
            yield members.take(key)
        block = b"" if members.cause else stream.read(_BLOCK_BYTES)
    cause = members.cause or members.unfinished()
    if cause:
        raise FileUnreadable(file.path, f"{cause}, behind {members.count} whole records")


class _Members:
    """Splits an array that comes in blocks. Holds one block and, of the member that it stands in, little more than ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self.values: list[bytes] = []
        self.broken: dict[int, Broken] = {}
        self.count = 0
        self.cause: str | None = None  # why the rest of the file cannot be read
        self._max_bytes = max_bytes
        self._data = b""
        self._at = 0  # up to here the data is understood
        self._start = 0  # of the member, in the data
        self._head: bytes | None = None  # the beginning of a member that is too long to be held
        self._depth = 0  # 0: before or behind the array, 1: among its members
        self._in_string = self._closed = self._after_comma = False
        self._line, self._counted = 1, 0  # lines are counted up to a place in the data
        self._member_line = 1

    def feed(self, block: bytes) -> None:
        """Add to ``values`` the members that end in the block."""
        self._data, self._at = self._data[self._start :] + block, self._at - self._start
        self._counted, self._start = self._counted - self._start, 0
        while self.cause is None and self._step():
            pass
        self._count_lines(self._at)
        if self._head is not None:
            self._start = self._at
        elif self._at - self._start > self._max_bytes:
            self._head = self._data[self._start : self._start + self._max_bytes]
            self._start = self._at

    def take(self, key: Callable[[bytes], bytes | None]) -> Chunk:
        """The members since the last call."""
        values, broken = self.values, self.broken
        self.values, self.broken = [], {}
        return Chunk([None if index in broken else key(value) for index, value in enumerate(values)], values, broken)

    def unfinished(self) -> str | None:
        """Why the file may not end here."""
        where = f"in record {self.count + 1}, which begins in line {self._member_line}"
        return None if self._closed else f"the JSON array is not closed: the file ends {where}"

    def _step(self) -> bool:
        """Go on to the next bracket, comma or quote that matters; False when the block ends before it."""
        if self._depth == 0:
            return self._outside()
        if self._in_string:
            self._at = _match(_STRING, self._data, self._at)
            if self._at == len(self._data) or self._data[self._at] == _BACKSLASH:
                return False
            self._at += 1
            self._in_string = False
        if self._depth == 1 and self._at == self._start and self._head is None:
            self._at = self._start = _match(_BLANK, self._data, self._at)
            self._count_lines(self._at)
            self._member_line = self._line
        self._at = _match(_BETWEEN if self._depth == 1 else _WITHIN, self._data, self._at)
        if self._at == len(self._data):
            return False
        self._pass(self._data[self._at])
        return True

    def _outside(self) -> bool:
        self._at = self._start = _match(_BLANK, self._data, self._at)
        self._count_lines(self._at)
        if self._at == len(self._data):
            return False
        if self._closed:
            self.cause = f"text behind the end of the JSON array, in line {self._line}"
        else:
            self._depth = 1  # the bracket that is_array has seen
            self._at += 1
            self._start = self._at
        return True

    def _pass(self, byte: int) -> None:
        end = self._at
        self._at += 1
        if byte == _QUOTE:  # of a string that goes on in the next block
            self._in_string = True
        elif byte in (_OPEN, _BRACE):
            self._depth += 1
        elif byte == _COMMA:
            self._end_member(end)
            self._after_comma = True
        elif self._depth > 1:
            self._depth -= 1
        elif byte == _BRACE_CLOSE:
            self._count_lines(end)
            self.cause = f"a brace closes the JSON array, in line {self._line}"
        else:
            if self._after_comma or self._head is not None or self._data[self._start : end].strip(_BLANKS):
                self._end_member(end)
            self._depth, self._closed = 0, True

    def _end_member(self, end: int) -> None:
        value = self._data[self._start : end].strip(_BLANKS) if self._head is None else self._head
        if self._head is not None or len(value) > self._max_bytes:
            self.broken[len(self.values)] = Broken(cut(too_long(self._max_bytes)), self._member_line)
            value = value[: self._max_bytes]
        elif not value:
            self.broken[len(self.values)] = Broken("no value beside a comma", self._member_line)
        self.values.append(value)
        self.count += 1
        self._head, self._start = None, self._at

    def _count_lines(self, place: int) -> None:
        if place > self._counted:
            self._line += self._data.count(b"\n", self._counted, place)
            self._counted = place


def _match(pattern: re.Pattern[bytes], data: bytes, place: int) -> int:
    found = pattern.match(data, place)
    assert found is not None  # each of them matches nothing, too
    return found.end()
