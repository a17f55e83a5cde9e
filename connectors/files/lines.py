"""Files of which each line is an event: newline-delimited JSON (or one JSON array), and text. The bytes of a line go as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from connectors.files.array import array_chunks, is_array
from connectors.files.chunk import Broken, Chunk, Rows, cut, too_long
from connectors.files.encoding import UTF8_BOM
from connectors.files.input import InputFile
from flows.contract import Source

_BLOCK_BYTES = 1024 * 1024


def read_text(source: Source, file: InputFile) -> Rows:
    """One event a line, empty lines too, without a key. Raises FileUnreadable while reading."""
    return Rows([], _chunks(_lines(file, b"", source.max_record_bytes), source.max_record_bytes, lambda line: None))


def read_json(source: Source, file: InputFile) -> Rows:
    """One event a line that is not blank, or a member of the array that a ``.json`` file is; what is no object goes as it is, and ends
    as a reject.

    The key holds the original bytes of the key columns' members; it is null when one is missing. Raises FileUnreadable while reading.
    """
    if is_array(file):
        return Rows([], array_chunks(file, source.max_record_bytes, key_reader(source.key)))
    lines = _lines(file, UTF8_BOM, source.max_record_bytes)
    return Rows([], _chunks(lines, source.max_record_bytes, key_reader(source.key), blank=b" \t"))


def key_reader(columns: tuple[str, ...]) -> Callable[[bytes], bytes | None]:
    """Makes the key of a JSON object: the members ``columns``, in this order, with their bytes. None when one is missing."""
    if not columns:
        return lambda value: None
    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
    names = [(name, msgspec.json.encode(name) + b":") for name in columns]

    def key(value: bytes) -> bytes | None:
        try:
            members = decoder.decode(value)
            return b"{" + b",".join([prefix + bytes(members[name]) for name, prefix in names]) + b"}"
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            return None

    return key


def _chunks(
    blocks: Iterator[list[bytes]], max_bytes: int, key: Callable[[bytes], bytes | None], blank: bytes | None = None
) -> Iterator[Chunk]:
    """``blank``: lines of these bytes alone are no rows."""
    number = 1
    for block in blocks:
        values: list[bytes] = []
        broken: dict[int, Broken] = {}
        for line, ended in enumerate(block, number):
            value = ended[:-1] if ended.endswith(b"\r") else ended
            if len(value) > max_bytes:
                broken[len(values)] = Broken(cut(too_long(max_bytes)), line)
                values.append(value[:max_bytes])
            elif blank is None or value.strip(blank):
                values.append(value)
        number += len(block)
        if values:
            yield Chunk([None if index in broken else key(value) for index, value in enumerate(values)], values, broken)


def _lines(file: InputFile, prefix: bytes, max_bytes: int) -> Iterator[list[bytes]]:
    """Lines without their ``\\n``, a block of them at a time, without ``prefix`` at the file's beginning.

    Of a line that is longer than ``max_bytes``, little more than that many bytes are held and given.
    """
    stream = file.content()
    rest = stream.read(_BLOCK_BYTES).removeprefix(prefix)
    while block := stream.read(_BLOCK_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        rest = rest[: max_bytes + 2]
        if lines:
            yield lines
    *lines, last = rest.split(b"\n")
    if lines or last:
        yield [*lines, last] if last else lines
