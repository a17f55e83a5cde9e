"""A query's answer as a table for people, or as JSON, CSV, Arrow or Parquet for programs. All but the table stream."""

from __future__ import annotations

import io
import itertools
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from duckdb.sqltypes import DuckDBPyType

from flows.errors import KappaError
from sinks import Result
from sinks.texts import children

FORMATS = ("table", "json", "ndjson", "csv", "arrow", "parquet")
# what Arrow would hold with other values (uint128 wraps, an offset of time is lost, bits are DuckDB's own bytes), or not at all
_NOT_IN_ARROW = frozenset({"uhugeint", "time with time zone", "bit", "variant"})
_NOT_IN = {"arrow": _NOT_IN_ARROW, "parquet": _NOT_IN_ARROW | {"interval", "union"}}
_ENCODER = msgspec.json.Encoder(decimal_format="number", enc_hook=str)


class FormatUnfit(KappaError):
    """A format that cannot hold the answer. ``column``: the first that does not fit, empty when a value is at fault."""

    def __init__(self, form: str, cause: str, column: str = "", kind: str = "") -> None:
        name = column or "COLUMN"
        super().__init__(
            f"{form} cannot hold column {column!r} of type {kind}" if column else f"{form} cannot hold the answer",
            cause=cause,
            next_step=f'write CAST("{name}" AS VARCHAR) AS "{name}", or take another format: --format csv',
        )
        self.form = form
        self.column = column


def write_answer(answer: Result, form: str, out: BinaryIO, rows: int) -> None:
    """Write ``answer`` in one of FORMATS; ``rows``: how many a table shows. Raises FormatUnfit, or QueryFailed on the way."""
    for name, kind in zip(answer.columns, answer.relation.types, strict=True):
        if unfit := _unfit(kind, _NOT_IN.get(form, frozenset())):
            raise FormatUnfit(form, f"it has no type for {unfit}", name, str(kind))
    try:
        _write(answer, form, out, rows)
    except pa.ArrowException as error:
        raise FormatUnfit(form, str(error)) from None


def _unfit(kind: DuckDBPyType, without: frozenset[str]) -> DuckDBPyType | None:
    """The first part of a type that is one of ``without``."""
    if kind.id in without:
        return kind
    return next((unfit for _, child in children(kind) if (unfit := _unfit(child, without))), None)


def _write(answer: Result, form: str, out: BinaryIO, rows: int) -> None:
    match form:
        case "table":
            out.write(as_table(answer, rows).encode())
        case "json":
            start = b"[\n"
            for line in _objects(answer):
                out.write(start + line)
                start = b",\n"
            out.write(b"[]\n" if start == b"[\n" else b"\n]\n")
        case "ndjson":
            for line in _objects(answer):
                out.write(line + b"\n")
        case "csv":
            _csv(answer, out)
        case "arrow":
            with pa.ipc.new_stream(out, answer.schema) as writer:
                for batch in answer:
                    writer.write_batch(batch)
        case "parquet":
            with pyarrow.parquet.ParquetWriter(out, answer.schema, compression="zstd") as writer:
                for batch in answer:
                    writer.write_batch(batch)


def as_table(answer: Result, rows: int) -> str:
    """DuckDB's own box, sized to the terminal; everything when the output is not a terminal. A plan is shown as it is."""
    if answer.columns == ["explain_key", "explain_value"]:
        return "\n".join(str(row["explain_value"]) for row in answer.arrow().to_pylist())
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    shown = io.StringIO()
    with redirect_stdout(shown):
        answer.show(width, rows)
    return shown.getvalue()


def _objects(answer: Result) -> Iterator[bytes]:
    """Each row as an object; times, intervals and such as texts, NaN and infinity as null (docs/json.md)."""
    names = _distinct(answer.columns)
    for batch in answer.readable():
        columns = [column.to_pylist() for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield _ENCODER.encode(dict(zip(names, row, strict=True)))


def _csv(answer: Result, out: BinaryIO) -> None:
    """Texts, times and nested values are quoted, in DuckDB's text form; NULL is empty, an empty text is ``""``."""
    flat = answer.flat()
    with pyarrow.csv.CSVWriter(out, flat.schema) as writer:
        for batch in flat:
            writer.write_batch(batch)


def _distinct(names: list[str]) -> list[str]:
    """A JSON object cannot repeat a name: ``n``, ``n_1``, ``n_2``."""
    distinct: list[str] = []
    for name in names:
        candidates = (name if n == 0 else f"{name}_{n}" for n in itertools.count())
        distinct.append(next(candidate for candidate in candidates if candidate not in distinct))
    return distinct
