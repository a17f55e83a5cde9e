"""A binary array as the bytes it is made of: what the whole-batch checks look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]

OPEN, CLOSE, BRACKET, QUOTE, COLON, BACKSLASH = b'{}[":\\'
_MINUS, _DOT, _E, _ZERO, _NINE = b"-.e09"
_NEWLINE = pa.scalar(b"\n")
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


def count(data: Bytes, byte: int) -> int:
    """How often a byte occurs."""
    return int(np.count_nonzero(data == byte))


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


def maybe_tiny_number(data: Bytes) -> bool:
    """Whether a number may have a negative exponent or more than 36 decimals. False is certain; texts may cause a True."""
    minus = np.flatnonzero(data == _MINUS)
    before = data[minus[minus > 1] - 1] | 0x20  # lower case
    if (before == _E).any():
        return True
    dots = np.flatnonzero(data == _DOT)
    for distance in range(1, 37, 5):
        dots = dots[dots + distance < len(data)]
        following = data[dots + distance]
        dots = dots[(following >= _ZERO) & (following <= _NINE)]
    return len(dots) > 0


def lines(values: pa.Array) -> pa.Buffer:
    """The values with a newline after each."""
    return content(pc.binary_join_element_wise(values, _NOTHING, _NEWLINE))


def array_text(values: pa.Array) -> bytes:
    """The values as the items of one JSON array."""
    return b"[%b]" % b",".join(values.to_pylist())


def invalid_utf8(values: pa.Array) -> Mask:
    """Which values are not UTF-8."""
    text = pa.Array.from_buffers(pa.string(), len(values), values.buffers(), offset=values.offset)
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return np.fromiter((value is not None and not _is_utf8(value) for value in values.to_pylist()), np.bool_, len(values))
    return np.zeros(len(values), np.bool_)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
