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

from flows.stage.buffers import Mask, array_text
from flows.stage.columns import Doubt, either
from flows.stage.document import MAX_DEPTH

_KEY_WITH_ESCAPE = r'\\(?:[^"\\]|\\.)*"[ \t\r\n]*:'
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
        self._quoted: dict[str, bytes] = {}

    def read(self, values: pa.Array) -> Originals:
        """``values``: each exactly one object. Raises Doubt."""
        try:
            records = _split.decode(array_text(values))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Doubt(str(error)) from None
        doubtful = np.asarray(pc.match_substring_regex(values, _KEY_WITH_ESCAPE))
        if not doubtful.flags.writeable:
            doubtful = doubtful.copy()
        extras: list[bytes | None] = [None] * len(records)
        named = self._named
        for index, (value, fields) in enumerate(zip(values.to_pylist(), records, strict=True)):
            if not fields.keys() <= named:
                unnamed = [(self._quote(name), bytes(raw)) for name, raw in fields.items() if name not in named]
                extras[index] = b"{%b}" % b",".join([name + b":" + raw for name, raw in unnamed])
                doubtful[index] |= any(value.count(name) > 1 for name, _ in unnamed)
        texts = {name: [_text(fields.get(name)) for fields in records] for name in self._columns}
        columns = {name: pa.array(column, pa.binary()).cast(pa.string()) for name, column in texts.items()}
        for name in columns:
            doubtful |= np.asarray(pc.greater(pc.count_substring(values, self._quote(name)), 1))
        extra = pa.array(extras, pa.binary()).cast(pa.string())
        deep = None
        for array in (extra, *columns.values()):
            deep = either(deep, too_deep(array))
        doubtful = doubtful if deep is None else doubtful | deep
        return Originals(columns, extra, doubtful if doubtful.any() else None)

    def _quote(self, name: str) -> bytes:
        """A name as it stands in JSON without escapes that it does not need."""
        quoted = self._quoted.get(name)
        if quoted is None:
            quoted = json.dumps(name, ensure_ascii=False).encode()
            if len(self._quoted) < 10_000:  # names can be data
                self._quoted[name] = quoted
        return quoted


def too_deep(texts: pa.Array) -> Mask | None:
    """Texts that may nest deeper than a document may."""
    deep = np.asarray(pc.greater(pc.count_substring_regex(texts, r"[\[{]"), MAX_DEPTH).fill_null(False))
    return deep if deep.any() else None


def json_texts(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """csv cells of json columns: each must be one JSON document, and stays as it is."""
    doubtful = np.fromiter((text is not None and not _is_json(text) for text in array.to_pylist()), np.bool_, len(array))
    return array, either(doubtful if doubtful.any() else None, too_deep(array))


def _is_json(text: str) -> bool:
    try:
        _any.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _text(raw: msgspec.Raw | None) -> bytes | None:
    text = None if raw is None else bytes(raw)
    return None if text == b"null" else text
