"""A binary array as the bytes it is made of: what the whole-batch checks look at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

OPEN, CLOSE, BRACKET, QUOTE, COLON = b'{}[":'
_MINUS, _E, _ZERO = b"-e0"
_NUMBER_BYTES = b"0123456789.eE+-"
_BEFORE_NUMBER = b":[, \t\r\n"
_RUN_BYTES = 36
_WINDOW_BYTES = 9 * 32 * 1024  # a multiple of 9: see _exponents_and_runs
_NEWLINE = pa.scalar(b"\n")
_COMMA = pa.scalar(b",")
_NOTHING = pa.scalar(b"")


def offsets(values: pa.Array) -> npt.NDArray[np.int32]:
    """The n + 1 ends of the values within the data buffer."""
    return np.frombuffer(values.buffers()[1], np.int32, len(values) + 1, values.offset * 4)


def content(values: pa.Array) -> pa.Buffer:
    """The bytes of all values, one after another; no copy."""
    data = values.buffers()[2]
    ends = offsets(values)
    return data.slice(ends[0], ends[-1] - ends[0]) if data is not None else pa.py_buffer(b"")


def as_bytes(buffer: pa.Buffer) -> Bytes:
    """The buffer as numbers; no copy."""
    return np.frombuffer(buffer, np.uint8)


def windows(data: Bytes, overlap: int = 0) -> Iterator[tuple[int, Bytes]]:
    """The bytes in pieces with where each begins, so that what is made of them stays in the processor's cache."""
    for start in range(0, len(data), _WINDOW_BYTES):
        yield start, data[start : start + _WINDOW_BYTES + overlap]


def places(data: Bytes, pattern: bytes) -> Places:
    """Where the pattern begins, ascending: quick where its first byte is rare."""
    found = []
    for start, window in windows(data, len(pattern) - 1):
        here = np.flatnonzero(window[: max(0, len(window) - len(pattern) + 1)] == pattern[0])
        for distance, byte in enumerate(pattern[1:], start=1):
            here = here[window[here + distance] == byte]
        found.append(here + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)


def count(data: Bytes, byte: int) -> int:
    """How often a byte occurs."""
    return sum(int(np.count_nonzero(window == byte)) for _, window in windows(data))


def text_count(values: pa.Array, byte: int) -> int:
    """How often a byte occurs in the values of a string or binary array."""
    return count(as_bytes(content(values)), byte)


def bracketed(values: pa.Array) -> Mask:
    """Which values begin with ``{`` and end with ``}``."""
    ends = offsets(values)
    whole: Mask = ends[1:] - ends[:-1] >= 2
    if not whole.all():
        whole[whole] = bracketed(values.filter(pa.array(whole)))
    elif len(values):
        data = as_bytes(values.buffers()[2])
        whole &= (data[ends[:-1]] == OPEN) & (data[ends[1:] - 1] == CLOSE)
    return whole


def containing(values: pa.Array, pattern: bytes) -> Mask:
    """Which values hold the pattern."""
    return _at(values, places(as_bytes(content(values)), pattern))


def nested(values: pa.Array, limit: int) -> Mask:
    """Which values hold more than ``limit`` opening brackets, in strings or not: only these can nest deeper."""
    data = as_bytes(content(values))
    ends = offsets(values)
    if count(data, BRACKET) + count(data, OPEN) <= limit:
        return np.zeros(len(values), np.bool_)
    opened = np.sort(np.concatenate([places(data, b"["), places(data, b"{")]))
    mask: Mask = np.diff(np.searchsorted(opened, ends - ends[0])) > limit
    return mask


def _at(values: pa.Array, found: Places) -> Mask:
    """The values in whose bytes the places are. A pattern across two values marks the first, which does no harm."""
    mask = np.zeros(len(values), np.bool_)
    ends = offsets(values)
    mask[np.searchsorted(ends - ends[0], found, side="right") - 1] = True
    return mask


def tiny_numbers(values: pa.Array) -> Mask:
    """Which values may hold a number with a negative exponent or 36 decimals and more. A text may look like one, never the reverse."""
    buffer = content(values)
    found = [_exponents_and_runs(window) + start for start, window in windows(as_bytes(buffer), _RUN_BYTES)]
    suspected = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return _at(values, np.array(_in_numbers(memoryview(buffer), suspected.tolist()), np.int64))


def _exponents_and_runs(data: Bytes) -> Places:
    """Places of ``e-``, and within runs of digits, one in each run of 36: of every ninth byte, the first that 27 more digits follow."""
    minus = np.flatnonzero(data[1:] == _MINUS)
    exponents = minus[(data[minus] | 0x20) == _E]  # 0x20: lower case
    sampled = (data[::9] - _ZERO) < 10
    runs = np.flatnonzero(sampled[:-3] & sampled[1:-2] & sampled[2:-1] & sampled[3:]) * 9
    runs = runs[((data[runs[:, None] + np.arange(28)] - _ZERO) < 10).all(axis=1)]
    first = runs[np.diff(runs, prepend=-10) != 9]
    return np.concatenate([exponents, first])


def _in_numbers(text: memoryview, places: list[int]) -> list[int]:
    """Of ascending places among digits, signs and exponents those whose token begins where a JSON number can: not within a UUID."""
    found = []
    last, number = 0, False
    for place in places:
        start = place
        while start > last and text[start - 1] in _NUMBER_BYTES:  # never further back than the last place: linear in hostile data
            start -= 1
        if start > last or not last:
            number = not start or text[start - 1] in _BEFORE_NUMBER
        if number:
            found.append(place)
        last = place
    return found


def lines(values: pa.Array) -> pa.Buffer:
    """The values with a newline after each."""
    return content(pc.binary_join_element_wise(values, _NOTHING, _NEWLINE))


def array_text(values: pa.Array) -> bytes:
    """The values as the items of one JSON array."""
    items = content(pc.binary_join_element_wise(values, _NOTHING, _COMMA)).to_pybytes()
    return b"[%b]" % items[:-1]


def invalid_utf8(values: pa.Array) -> Mask:
    """Which values are not UTF-8."""
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers(), offset=values.offset)
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return np.fromiter((value is not None and not is_utf8(value) for value in values.to_pylist()), np.bool_, len(values))
    return np.zeros(len(values), np.bool_)


def is_utf8(value: bytes) -> bool:
    """Whether the bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
