"""The whole-batch path: pyarrow.json over the bytes of many records at once, exact or in doubt.

Why the rows are the records. Each value begins with ``{`` and ends with ``}`` (``buffers.bracketed``), and the reader, which takes
documents one after another, returned as many rows as there are values. (1) If there are as many ``}`` bytes as values, every object has
exactly the one at its value's end, so the values need not even be separated. (2) Otherwise a newline stands between them: a raw newline
is an error in a JSON string, and ``}`` newline ``{`` is an error inside an object or array, so every value holds at least one whole
document, hence exactly one. Since the first document is an object, the reader's crash on a leading ``null`` cannot happen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from flows.contract import EXTRA, Source
from flows.stage import buffers, columns
from flows.stage.buffers import Mask
from flows.stage.columns import Doubt, either
from flows.stage.document import MAX_DEPTH
from flows.stage.kinds import Kind, List, Scalar, Struct, field_names, is_escaped, is_left, kind_of
from flows.stage.raw import Originals, RawReader, json_texts
from flows.stage.record import RecordDecoder
from flows.stage.refusal import Refused
from flows.stage.suspects import Witness

_UNNAMED = "unexpected field"


class UnnamedMember(Doubt):
    """A record has a member that the contract does not name."""


@dataclass(slots=True)
class Block:
    """``columns``: the contract's, in order, then ``_extra`` with extra = keep; ``doubtful``: rows that the tolerant path must judge."""

    columns: list[pa.Array]
    doubtful: Mask | None


class BlockReader:
    """Reads groups of records of format json or csv. A reader belongs to one source."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._witness = Witness(source)
        self.suspects = self._witness.suspects
        self._kinds = {name: kind_of(column) for name, column in source.columns.items()}
        self._csv = source.format == "csv"
        self._record = RecordDecoder(source)
        originals = [] if self._csv else [name for name, kind in self._kinds.items() if is_left(kind)]
        self._raw = RawReader(frozenset(self._kinds), originals)
        read = {name: kind for name, kind in self._kinds.items() if name not in originals}
        self._schema = pa.schema([pa.field(name, pa.string() if self._csv else columns.json_type(kind)) for name, kind in read.items()])
        self._required = {name for name, column in source.columns.items() if column.not_null} | set(source.key)
        self._has_originals = bool(originals)
        self._has_structs = not self._csv and any(_holds_struct(kind) for kind in read.values())
        self._has_decimals = not self._csv and any(_holds(kind, "decimal") for kind in read.values())
        self._has_hugeints = not self._csv and any(_holds(kind, "hugeint") for kind in read.values())

    @staticmethod
    def possible(source: Source) -> bool:
        """Whether this path can read the source at all: not without a typed column.

        Nor with decimals in the JSON text of a csv cell, for which the reader would take a string, nor with a field's name that JSON
        escapes, which the witness does not take.
        """
        kinds = [kind_of(column) for column in source.columns.values()]
        nested = [kind for kind in kinds if not isinstance(kind, Scalar) and not is_left(kind)]
        if source.format == "csv" and any(_holds(kind, number) for kind in nested for number in ("decimal", "hugeint")):
            return False
        if any(is_escaped(name) for kind in nested for name in field_names(kind)):
            return False
        return not all(map(is_left, kinds)) and all(map(str.isidentifier, source.columns))

    def readable(self, values: pa.Array) -> Mask:
        """Which values may go to ``read``. ``values``: UTF-8."""
        mask = buffers.bracketed(values)
        # Arrow's decimals read past their table of powers of ten when they scale down that far, and may come out as zero.
        return mask & ~buffers.tiny_numbers(values) if self._has_decimals else mask

    def read(self, values: pa.Array) -> Block:
        """``values``: all of them ``readable``. Raises Doubt."""
        if not self._has_originals:
            try:
                return self._read(values, lenient=False)
            except UnnamedMember:
                if self._source.extra == "reject":
                    raise
        return self._read(values, lenient=True)

    def _read(self, values: pa.Array, lenient: bool) -> Block:
        """``lenient``: the reader passes over what the contract does not name, and the records are split for what it does not read."""
        flat = buffers.text_count(values, buffers.CLOSE) == len(values)
        data = buffers.content(values) if flat else buffers.lines(values)
        table = _parse(data, len(values), self._schema, lenient)
        arrays = dict(zip(table.column_names, map(_one_chunk, table.columns), strict=True))
        originals = Originals({}, pa.nulls(len(values), EXTRA.type), None)
        if lenient and (self._has_originals or self._source.extra == "keep"):
            originals = self._raw.read(values)
        self._confirm(values, data, arrays, originals, lenient)
        block = Block([], originals.doubtful)
        if lenient and self._source.extra == "ignore":
            block.doubtful = either(block.doubtful, self._unseen(values, flat))
        if self._source.extra == "reject" and originals.extra.null_count < len(values):
            block.doubtful = either(block.doubtful, np.asarray(originals.extra.is_valid()))
        arrays |= originals.columns
        for name, kind in self._kinds.items():
            column, wrong = self._finish(kind, arrays[name])
            block.doubtful = either(block.doubtful, wrong)
            if name in self._required and column.null_count:
                block.doubtful = either(block.doubtful, np.asarray(column.is_null()))
            block.columns.append(column)
        if self._source.extra == "keep":
            block.columns.append(originals.extra)
        return block

    def _finish(self, kind: Kind, array: pa.Array) -> tuple[pa.Array, Mask | None]:
        if not isinstance(kind, Scalar) and is_left(kind):
            return self._one_by_one(kind, array)
        if not self._csv:
            return columns.finish(kind, array)
        if not isinstance(kind, Scalar):
            return _nested_csv(kind, array)
        return json_texts(array) if kind.name == "json" else columns.from_text(kind, array)

    def _one_by_one(self, kind: Kind, texts: pa.Array) -> tuple[pa.Array, Mask | None]:
        """A column of JSON texts, with the meaning of the tolerant path."""
        values = []
        doubtful = np.zeros(len(texts), np.bool_)
        for index, text in enumerate(texts.to_pylist()):
            try:
                values.append(None if text is None else self._record.nested(kind, text))
            except Refused:
                values.append(None)
                doubtful[index] = True
        return pa.array(values, kind.arrow), doubtful if doubtful.any() else None

    def _confirm(self, values: pa.Array, data: pa.Buffer, arrays: dict[str, pa.Array], originals: Originals, lenient: bool) -> None:
        """Where the reader is lax: strings for decimals, ``1.0`` for hugeint; and what it passed over inside structs. Raises Doubt."""
        skipped = self._source.extra == "ignore" and lenient
        needed = self._has_hugeints or (lenient and self._has_structs and not skipped)
        if self._has_decimals and not needed:
            kept = [originals.extra, *originals.columns.values()]
            # Where msgspec may have merged a field, its bytes are not in ``kept`` and would spoil the count.
            needed = skipped or originals.doubtful is not None or not _no_quoted_number(data, list(arrays.values()), kept)
        if needed and not self._witness.confirms(values):
            raise Doubt("a field has another type")

    @staticmethod
    def _unseen(values: pa.Array, flat: bool) -> Mask | None:
        """With extra = ignore the reader skips what is unnamed: NaN there is still no JSON, and deep nesting is refused."""
        doubtful = buffers.containing(values, b"NaN") | buffers.containing(values, b"Inf")
        if not flat or buffers.text_count(values, buffers.BRACKET) >= MAX_DEPTH:
            doubtful |= buffers.nested(values, MAX_DEPTH)
        return doubtful if doubtful.any() else None


def _parse(data: pa.Buffer, rows: int, schema: pa.Schema, lenient: bool) -> pa.Table:
    try:
        table = pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(use_threads=False, block_size=data.size + 1),
            parse_options=pj.ParseOptions(
                explicit_schema=schema, unexpected_field_behavior="ignore" if lenient else "error", newlines_in_values=True
            ),
        )
    except pa.ArrowInvalid as error:
        raise (UnnamedMember if _UNNAMED in str(error) else Doubt)(str(error)) from None
    if table.num_rows != rows:
        raise Doubt(f"{rows} values hold {table.num_rows} documents")
    return table


def _nested_csv(kind: Kind, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Cells of struct and list columns hold JSON: each is read as the member of an object of its own."""
    nothing, texts = pa.scalar(b""), array.fill_null("null").cast(pa.binary())
    wrapped = pc.binary_join_element_wise(pa.scalar(b'{"c":'), texts, pa.scalar(b"}"), nothing)
    table = _parse(buffers.lines(wrapped), len(array), pa.schema([pa.field("c", columns.json_type(kind))]), lenient=False)
    return columns.finish(kind, _one_chunk(table.column(0)))


def _no_quoted_number(data: pa.Buffer, arrays: list[pa.Array], kept: list[pa.Array]) -> bool:
    """Whether surely no number of these records stands in quotes: by counting. All members are in ``arrays`` or, as JSON, in ``kept``.

    Two quotes belong to each name and to each string, and a colon that is not in a string follows a name: so quotes = 2 * names +
    2 * strings. A number in quotes makes the left side greater; so does an escape, by a quote or by a colon that only the decoded
    text has. Nothing makes it smaller.
    """
    content = buffers.as_bytes(data)
    texts = [text for array in arrays for text in _texts(array)]
    names = buffers.count(content, buffers.COLON) - sum(buffers.text_count(array, buffers.COLON) for array in (*texts, *kept))
    strings = sum(len(array) - array.null_count for array in texts)
    quotes = buffers.count(content, buffers.QUOTE) - sum(buffers.text_count(array, buffers.QUOTE) for array in kept)
    return bool(quotes == 2 * (names + strings))


def _texts(array: pa.Array) -> list[pa.Array]:
    """The string arrays within an array."""
    if pa.types.is_list(array.type):
        return _texts(array.values)
    if pa.types.is_struct(array.type):
        return [text for index in range(array.type.num_fields) for text in _texts(array.field(index))]
    return [array] if pa.types.is_string(array.type) else []


def _holds(kind: Kind, name: str) -> bool:
    if isinstance(kind, Struct):
        return any(_holds(field, name) for field in kind.fields.values())
    return kind.name == name if isinstance(kind, Scalar) else _holds(kind.item, name)


def _holds_struct(kind: Kind) -> bool:
    return _holds_struct(kind.item) if isinstance(kind, List) else isinstance(kind, Struct)


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
