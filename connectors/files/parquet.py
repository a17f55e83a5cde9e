"""Parquet rows as JSON objects that lose nothing: decimals keep all digits, times are ISO 8601, binary is base64.

Done by column in Arrow: each type becomes JSON text, and a row joins the texts of its columns.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.files.chunk import Broken, Chunk, Rows
from connectors.files.errors import FormatMismatch
from connectors.files.input import InputFile, reading
from connectors.files.names import check_names, missing_columns
from flows.contract import Source

_BATCH_ROWS = 10_000
_BATCH_BYTES = 16 * 1024 * 1024


def read_parquet(source: Source, file: InputFile) -> Rows:
    """The rows of a Parquet file. For a csv source every value is a string. Raises FileUnreadable or FormatMismatch."""
    if file.compression:
        raise FormatMismatch(file.path, "Parquet is compressed inside", f"unpack {file.path}")
    with reading(file.path, pa.ArrowException):
        parquet = pq.ParquetFile(file.file)
    unknown = [f"{field.name} ({field.type})" for field in parquet.schema_arrow if not _known(field.type)]
    if unknown:
        raise FormatMismatch(file.path, f"types that JSON cannot hold: {', '.join(unknown)}", "write these columns with another type")
    names = parquet.schema_arrow.names
    check_names(source, file, names, f"correct [columns] in sources/{source.name}.toml, or load the file into its own source")
    return Rows(missing_columns(source, file, names), _chunks(source, file, parquet))


def _chunks(source: Source, file: InputFile, parquet: pq.ParquetFile) -> Iterator[Chunk]:
    names = parquet.schema_arrow.names
    keyed = bool(source.key) and set(source.key) <= set(names)
    with reading(file.path, pa.ArrowException, UnicodeDecodeError):
        for batch in parquet.iter_batches(_batch_rows(parquet.metadata)):
            if batch.num_rows:
                columns, broken = _decodable(batch)
                texts = [json_text(column) for column in columns]
                if source.format == "csv":
                    texts = [_cells(text) for text in texts]
                keys = _objects(source.key, [texts[names.index(name)] for name in source.key]) if keyed else [None] * batch.num_rows
                yield Chunk([None if index in broken else key for index, key in enumerate(keys)], _objects(names, texts), broken)


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """So many that a batch of the widest row group is about _BATCH_BYTES."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _decodable(batch: pa.RecordBatch) -> tuple[list[pa.Array], dict[int, Broken]]:
    """The columns with U+FFFD for what is not UTF-8 in a text, and which rows had it: Parquet does not check what writers put there."""
    columns = list(batch.columns)
    broken: dict[int, Broken] = {}
    for index, column in enumerate(columns):
        if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            values = column.cast(pa.large_binary()).to_pylist()
            texts = [None if value is None else value.decode(errors="replace") for value in values]
            wrong = [
                row for row, (value, text) in enumerate(zip(values, texts, strict=True)) if text is not None and text.encode() != value
            ]
            broken |= {row: Broken(f"column {batch.schema.names[index]} is not UTF-8", None) for row in wrong}
            columns[index] = pa.array(texts, pa.string())
    return columns, broken


def _objects(names: Sequence[str], texts: Sequence[pa.Array]) -> list[bytes]:
    return [text.encode() for text in _joined(names, texts).to_pylist()]


def _joined(names: Sequence[str], texts: Sequence[pa.Array]) -> pa.Array:
    """JSON objects, never null: a member without a value is null."""
    parts: list[object] = []
    for index, (name, text) in enumerate(zip(names, texts, strict=True)):
        parts += [("{" if index == 0 else ",") + msgspec.json.encode(name).decode() + ":", text]
    return pc.binary_join_element_wise(*parts, "}", "", null_handling="replace", null_replacement="null")


def _known(kind: pa.DataType) -> bool:
    if pa.types.is_nested(kind):
        return not pa.types.is_union(kind) and all(_known(kind.field(index).type) for index in range(kind.num_fields))
    if isinstance(kind, pa.BaseExtensionType):
        return _known(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _known(kind.value_type)
    return not (pa.types.is_duration(kind) or pa.types.is_interval(kind))


def json_text(values: pa.Array) -> pa.Array:  # noqa: PLR0911 - one return a type
    """Each value as JSON text (string array); null stays null. A NaN or an infinity is written as such, and ends as a reject."""
    kind = values.type
    if isinstance(kind, pa.BaseExtensionType):
        return json_text(values.storage)
    if pa.types.is_dictionary(kind):
        return json_text(values.dictionary_decode())
    if pa.types.is_struct(kind):
        return _nulled(_joined([field.name for field in kind], [json_text(child) for child in values.flatten()]), values)
    if pa.types.is_nested(kind):
        return _list_text(values)
    if pa.types.is_floating(kind):
        return pa.array([None if value is None else _float(value) for value in values.cast(pa.float64()).to_pylist()], pa.string())
    if pa.types.is_decimal(kind):
        return pa.array([None if value is None else format(value, "f") for value in values.to_pylist()], pa.string())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind):
        return values.cast(pa.string())
    return _quoted(_text(values))


def _text(values: pa.Array) -> pa.Array:
    kind = values.type
    if pa.types.is_timestamp(kind):
        return _timestamp(values)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return pa.array([None if value is None else base64.b64encode(value).decode() for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())  # strings, dates, times


def _timestamp(values: pa.Array) -> pa.Array:
    """ISO 8601 with microseconds, or with nanoseconds in the values that have any; with a zone: in UTC, marked Z."""
    kind = values.type
    instants = values.view(pa.timestamp(kind.unit))
    with contextlib.suppress(pa.ArrowInvalid):  # it would lose nanoseconds
        instants = instants.cast(pa.timestamp("us"))
    texts = pc.strftime(instants, "%Y-%m-%dT%H:%M:%S" + ("Z" if kind.tz else ""))
    return pc.replace_substring_regex(texts, r"(\.\d{6})000(Z?)$", r"\1\2")


def _list_text(values: pa.Array) -> pa.Array:
    """Lists; a map whose keys are texts is an object, any other a list of its entries."""
    kind = values.type
    named = pa.types.is_map(kind) and (pa.types.is_string(kind.key_type) or pa.types.is_large_string(kind.key_type))
    if pa.types.is_map(kind):
        values = values.cast(pa.list_(pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])))
    elif not pa.types.is_list(kind):
        values = values.cast(pa.list_(kind.value_type))
    if named:
        names, items = map(json_text, values.flatten().flatten())
        texts = pc.binary_join_element_wise(names, items.fill_null("null"), ":")
    else:
        texts = json_text(values.flatten()).fill_null("null")
    lengths = pc.list_value_length(values).fill_null(0).cast(pa.int64())
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)]).cast(pa.int32())
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), ",")
    return _nulled(pc.binary_join_element_wise(*(("{", joined, "}") if named else ("[", joined, "]")), ""), values)


def _float(value: float) -> str:
    if value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def _quoted(texts: pa.Array) -> pa.Array:
    return pa.array([None if text is None else msgspec.json.encode(text).decode() for text in texts.to_pylist()], pa.string())


def _cells(texts: pa.Array) -> pa.Array:
    """JSON texts as JSON strings, as the cells of a csv source: a number's text in quotes, a string as it is."""
    strings = pc.starts_with(texts, '"')
    return pc.if_else(strings, texts, _quoted(texts))


def _nulled(texts: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(values.is_valid(), texts, None)
