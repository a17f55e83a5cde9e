"""Original text, many records at a time: the columns of type json, and ``_extra``.

msgspec splits each record into its members' bytes. It merges a field that is named twice without a word, so a record in which that may
be so is left to the tolerant path.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stage.buffers import Mask, array_text, nested
from flows.stage.columns import Doubt
from flows.stage.document import MAX_DEPTH

_KEY_WITH_ESCAPE = r'\\(?:[^"\\]|\\.)*"[ \t\r\n]*:'
_SHAPES = 1000  # sets of names that are remembered
_MEMBERS = 500  # more than these are looked for twice by the tolerant path, which is linear in them
_split = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_any = msgspec.json.Decoder(msgspec.Raw)


@dataclass(frozen=True, slots=True)
class Originals:
    """``columns``: json column -> its texts; ``extra``: the unnamed members as JSON objects, null without any."""

    columns: dict[str, pa.Array]
    extra: pa.Array
    doubtful: Mask | None


class RawReader:
    """Reads the original text of records. ``named``: the contract's columns; ``columns``: those of type json."""

    def __init__(self, named: frozenset[str], columns: list[str]) -> None:
        self._named = named
        self._columns = columns
        self._unnamed: dict[tuple[str, ...], list[tuple[str, bytes, bytes]]] = {}

    def read(self, values: pa.Array) -> Originals:
        """``values``: each exactly one object. Raises Doubt."""
        try:
            records = _split.decode(array_text(values))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Doubt(str(error)) from None
        raws = values.to_pylist()
        doubtful = np.array(pc.match_substring_regex(values, _KEY_WITH_ESCAPE), np.bool_)
        extra = self._extra(raws, records, doubtful)
        doubtful |= nested(extra, MAX_DEPTH)
        columns = {}
        for name in self._columns:
            quoted = _quote(name)
            texts = pa.array([_text(fields.get(name)) for fields in records], pa.binary())
            doubtful |= nested(texts, MAX_DEPTH)
            doubtful |= np.fromiter((raw.count(quoted) > 1 for raw in raws), np.bool_, len(raws))
            columns[name] = texts.cast(pa.string())
        return Originals(columns, extra.cast(pa.string()), doubtful if doubtful.any() else None)

    def _extra(self, raws: list[bytes], records: list[dict[str, msgspec.Raw]], doubtful: Mask) -> pa.Array:
        """The unnamed members of each record; marks as doubtful where one of them may be there twice."""
        extras: list[bytes | None] = [None] * len(records)
        for index, fields in enumerate(records):
            if len(fields) > _MEMBERS:
                doubtful[index] = True
                continue
            names = tuple(fields)
            unnamed = self._unnamed.get(names)
            if unnamed is None:
                unnamed = self._find_unnamed(names)
            if unnamed:
                extras[index] = b"{%b}" % b",".join([prefix + bytes(fields[name]) for name, _, prefix in unnamed])
                raw = raws[index]
                for _, quoted, _ in unnamed:
                    if raw.count(quoted) > 1:
                        doubtful[index] = True
        return pa.array(extras, pa.binary())

    def _find_unnamed(self, names: tuple[str, ...]) -> list[tuple[str, bytes, bytes]]:
        """Of a record's names those that are not columns, sorted: name, quoted name, and with a colon. Most records have the same names."""
        unnamed = [(name, _quote(name), _quote(name) + b":") for name in sorted(set(names) - self._named)]
        if len(self._unnamed) >= _SHAPES:  # names can be data
            self._unnamed.clear()
        self._unnamed[names] = unnamed
        return unnamed


def _quote(name: str) -> bytes:
    """A name as it stands in JSON without escapes that it does not need."""
    return json.dumps(name, ensure_ascii=False).encode()


def json_texts(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """csv cells of json columns: each must be one JSON document, and stays as it is."""
    doubtful = np.fromiter((text is not None and not _is_json(text) for text in array.to_pylist()), np.bool_, len(array))
    doubtful |= nested(array, MAX_DEPTH)
    return array, doubtful if doubtful.any() else None


def _is_json(text: str) -> bool:
    try:
        _any.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _text(raw: msgspec.Raw | None) -> bytes | None:
    text = None if raw is None else bytes(raw)
    return None if text == b"null" else text
