"""Records to propose from: the rows of a file as ``kappa load`` would send them, or the events of a topic."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import msgspec
from duckdb.sqltypes import DuckDBPyType

from connectors.files.input import InputFile
from connectors.files.reading import read_rows
from connectors.files.sheet import SHEETS
from connectors.peek import peek
from flows.contract import Column, Dialect, Source
from flows.errors import KappaError
from flows.stage.buffers import is_utf8
from infra.infer.proposal import Format

SAMPLE_ROWS = 500_000
SAMPLE_BYTES = 256 * 1024 * 1024
TOPIC_EVENTS = 10_000
_SNIFFED_BYTES = 4 * 1024 * 1024
_ASCII = bytes(range(128)) + b"x" * 128  # what DuckDB sniffs must be UTF-8, and only the separators matter
_PARQUET = (".parquet", ".pq")
_FORMATS: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv"), "csv"),
    **dict.fromkeys((".ndjson", ".jsonl", ".json", *_PARQUET, *SHEETS), "json"),
}


class NothingToInfer(KappaError):
    """There are no records to propose a contract from."""


@dataclass(frozen=True, slots=True)
class Sample:
    """``values``: the records' values; of csv they are JSON objects of texts, nothing taken for null. ``whole``: there are no more.

    ``broken``: how many rows could not be read; ``types``: field -> DuckDB type, where the file names them.
    """

    format: Format
    values: list[bytes]
    dialect: Dialect
    whole: bool
    broken: int = 0
    types: Mapping[str, DuckDBPyType] = field(default_factory=dict)


def of_file(path: Path) -> Sample:
    """Rows from the beginning of a file. Raises FileUnreadable, HeaderInvalid, NothingToInfer."""
    with InputFile(path) as file:  # opened twice: reading a .zst to its end closes the file below it
        form = _FORMATS.get(file.format) or _format(file)
    with InputFile(path) as file:
        dialect, names = _delimited(file) if form == "csv" else (Dialect(), [])
    columns = {name: Column(text="varchar", not_null=False) for name in names}
    draft = Source(name="draft", topic="draft", format=form, columns=columns, csv=dialect)
    with InputFile(path) as file:
        values: list[bytes] = []
        size = broken = 0
        whole = True
        for chunk in read_rows(draft, file).chunks:
            values += [value for index, value in enumerate(chunk.values) if index not in chunk.broken]
            broken += len(chunk.broken)
            size += sum(map(len, chunk.values))
            if len(values) >= SAMPLE_ROWS or size >= SAMPLE_BYTES:
                whole = False
                break
    if not values:
        raise NothingToInfer(f"{path} has no rows that can be read", next_step="name a file with rows")
    return Sample(form, values, dialect, whole, broken, _parquet_types(path) if path.suffix.lower() in _PARQUET else {})


def of_topic(config: Mapping[str, str], topic: str) -> Sample:
    """The oldest committed events of a topic. Raises TopicUnknown, KafkaUnreachable, NothingToInfer."""
    events = peek(config, topic, TOPIC_EVENTS, "earliest")
    marked = [any(name == "kappa-broken" for name, _ in event.headers) for event in events]
    values = [event.value for event, broken in zip(events, marked, strict=True) if event.value is not None and not broken]
    if not values:
        raise NothingToInfer(f"the topic {topic} has no committed events with a value", next_step=f"kappa peek {topic}")
    return Sample(format_of(values), values, Dialect(null=()), len(events) < TOPIC_EVENTS, sum(marked))


def format_of(values: Iterable[bytes]) -> Format:
    """json when every value is a JSON object; csv when, besides, all members are texts or null; else text."""
    only_texts = True
    for value in values:
        try:
            document = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "text"
        if not isinstance(document, dict):
            return "text"
        only_texts &= all(member is None or isinstance(member, str) for member in document.values())
    return "csv" if only_texts else "json"


def _parquet_types(path: Path) -> dict[str, DuckDBPyType]:
    relation = duckdb.connect().read_parquet(str(path))
    return dict(zip(relation.columns, relation.types, strict=True))


def _format(file: InputFile) -> Format:
    """The format of a file whose name does not tell."""
    first = _first_line(file.content().read(_SNIFFED_BYTES))
    if first.lstrip().startswith("{"):
        return "json"
    return "csv" if any(delimiter in first for delimiter in ",;\t|") else "text"


def _first_line(sample: bytes, encoding: str = "utf-8") -> str:
    lines = sample.decode("utf-8-sig" if encoding == "utf-8" else encoding, "replace").splitlines()
    return next(filter(None, lines), "")


def _delimited(file: InputFile) -> tuple[Dialect, list[str]]:
    """The dialect and the columns' names; the first line is a header when it does not look like data."""
    sample = file.content().read(_SNIFFED_BYTES)
    sample = sample[: sample.rfind(b"\n") + 1] or sample  # the last line may be cut, also inside of a character
    encoding = _encoding(sample)
    first = _first_line(sample, encoding)
    delimiter, quote = _separators(sample) or ("", '"')
    if not delimiter or delimiter not in first:
        delimiter = "\t" if file.format == ".tsv" else ","
    cells = next(csv.reader([first], delimiter=delimiter, quotechar=quote), [])
    data = any(not cell or cell.lstrip("-")[:1].isdigit() for cell in cells) or len(set(cells)) < len(cells)
    names = [f"column_{number}" for number in range(1, len(cells) + 1)] if data else cells
    return Dialect(delimiter=delimiter, quote=quote, null=(), header=not data, encoding=encoding), names


def _separators(sample: bytes) -> tuple[str, str] | None:
    """Delimiter and quote as DuckDB sniffs them; None when it does not, then rows that are broken will be counted."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as ascii_only, duckdb.connect() as connection:
        ascii_only.write(sample.translate(_ASCII))
        ascii_only.flush()
        try:
            sniffed = connection.execute("SELECT Delimiter, Quote FROM sniff_csv(?)", [ascii_only.name]).fetchone()
        except duckdb.Error:
            return None
    return (sniffed[0], sniffed[1] if sniffed[1] in ('"', "'") else '"') if sniffed else None


def _encoding(sample: bytes) -> str:
    """``utf-8``, unless most lines with other characters than ASCII's are not. Then the Western code page, or Latin-1, which knows all
    bytes.
    """
    lines = [line for line in sample.splitlines() if not line.isascii()]
    if 2 * sum(map(is_utf8, lines)) >= len(lines):
        return "utf-8"
    try:
        b"\n".join(lines).decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"
