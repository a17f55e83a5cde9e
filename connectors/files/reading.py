"""Which reader a file gets, and which of the reader's options decide its rows."""

from __future__ import annotations

from typing import Any

from connectors.files.chunk import Rows
from connectors.files.csv import read_csv
from connectors.files.documents import read_document
from connectors.files.errors import FormatMismatch
from connectors.files.input import InputFile
from connectors.files.lines import read_json, read_text
from connectors.files.media import without_rows
from connectors.files.parquet import read_parquet
from connectors.files.sheet import SHEETS, read_sheet
from flows.contract import Dialect, Source

_PARQUET = (".parquet", ".pq")
_OF_ANOTHER_FORMAT = {"csv": (".ndjson", ".jsonl", ".json"), "json": (".csv", ".tsv"), "text": (*_PARQUET, *SHEETS)}
_INSTEAD = {
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "json",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "json",
    ".pq": "json",
} | dict.fromkeys(SHEETS, "csv")


def read_rows(source: Source, file: InputFile) -> Rows:
    """The rows of a file as events of ``source``: the source's format, or Parquet or a spreadsheet by the file's name; with ``[documents]``
    the file itself.

    Raises FormatMismatch, HeaderInvalid or FileUnreadable; all three name the file.
    """
    if source.documents is not None:
        return read_document(source, file)
    if file.format in _OF_ANOTHER_FORMAT[source.format]:
        raise FormatMismatch(
            file.path,
            f'source {source.name} has format = "{source.format}", and the file is {file.format[1:]}',
            f'load it into a source with format = "{_INSTEAD[file.format]}", or name the file for what it holds',
        )
    if file.format in _PARQUET:
        return read_parquet(source, file)
    if file.format in SHEETS:
        return read_sheet(source, file)
    if kind := without_rows(file.path.name):
        raise FormatMismatch(
            file.path,
            f"by its name it is {kind}, from which no rows are read",
            "unpack or convert it; a source with [documents] takes any file as it is",
        )
    return {"csv": read_csv, "json": read_json, "text": read_text}[source.format](source, file)


def reader_options(source: Source, file: InputFile) -> dict[str, Any]:
    """What, apart from the file's bytes, decides which rows it has: a part of the identity of a load (docs/formats.md).

    For delimited files: ``delimiter`` and ``null`` always, the others where they are not the default.
    """
    options: dict[str, Any] = {}
    if source.documents is not None:  # the same content elsewhere is another document
        return {"uri": file.uri, "content": source.documents.content, "max_bytes": source.documents.max_bytes}
    if file.format in _PARQUET:
        return options
    if file.format in SHEETS:
        options = {} if source.sheet.name is None else {"sheet": source.sheet.name}
    elif source.format == "csv":
        dialect, default = source.csv, Dialect()
        options = {"delimiter": dialect.delimiter, "null": list(dialect.null)}
        for name in ("quote", "header", "encoding"):
            if getattr(dialect, name) != getattr(default, name):
                options[name] = getattr(dialect, name)
        if not dialect.header:
            options["columns"] = list(source.columns)
    if source.max_record_bytes != Source.model_fields["max_record_bytes"].default:
        options["max_record_bytes"] = source.max_record_bytes
    return options
