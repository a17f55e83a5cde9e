"""A file of corrected rejects: what ``kappa rejects --export`` wrote, with values that were edited."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from flows.errors import KappaError, UsageError
from flows.stage.corrections import HEADER

SUFFIXES = (".ndjson", ".jsonl", ".json", ".csv", ".parquet", ".arrow")
_CSV_BLOCK_BYTES = 64 * 1024 * 1024  # no record may be longer
_FIELDS = ("position", "table", "key", "key_base64", "value", "value_base64")


class CorrectionsUnreadable(KappaError):
    """The file is not what an export was. ``where``: the record at fault, if it is one."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(
            f"{path} cannot be sent",
            cause=cause,
            next_step="mend the file; nothing was sent (kappa rejects SOURCE --export FILE writes one)",
        )


@dataclass(frozen=True, slots=True)
class Correction:
    """A record of the file: its number from 1, the position that it corrects, the table that refused that, and what is to be sent."""

    number: int
    topic: str
    partition: int
    offset: int
    table: str
    key: bytes | None
    value: bytes | None

    @property
    def position(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @property
    def header(self) -> tuple[str, bytes]:
        """The header that makes a record its correction."""
        return HEADER, self.position.encode()


def read_corrections(path: Path) -> list[Correction]:
    """Every record of the file. Raises CorrectionsUnreadable, and UsageError for a suffix that is none of SUFFIXES."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has no known suffix", next_step=f"name it {', '.join(SUFFIXES)}: as it was exported")
    try:
        rows = list(_rows(path))
    except (OSError, pa.ArrowException, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorrectionsUnreadable(path, str(error)) from error
    made = []
    for number, row in enumerate(rows, 1):
        try:
            made.append(_correction(number, row))
        except (ValueError, msgspec.MsgspecError) as error:
            raise CorrectionsUnreadable(path, f"record {number}: {error}") from error
    return made


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    match path.suffix.lower():
        case ".ndjson" | ".jsonl":
            for line in path.read_bytes().splitlines():
                if line.strip():
                    yield _object(line)
        case ".json":
            yield from map(_object, msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw]))
        case ".csv":
            texts = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(_FIELDS, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            )
            parsing, reading = pa.csv.ParseOptions(newlines_in_values=True), pa.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
            yield from _of_table(pa.csv.read_csv(path, reading, parsing, texts))
        case ".parquet":
            yield from _of_table(pa.parquet.read_table(path))
        case _:
            with pa.OSFile(str(path)) as file:
                yield from _of_table(pa.ipc.open_stream(file).read_all())


def _object(text: bytes | msgspec.Raw) -> dict[str, Any]:
    """A record of JSON; a value that is an object instead of a text stands for its bytes as they are."""
    row = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    members = {name: bytes(raw) for name, raw in row.items() if name in _FIELDS}
    return {
        name: raw.decode() if name in ("key", "value") and raw[:1] == b"{" else msgspec.json.decode(raw, type=str | None)
        for name, raw in members.items()
    }


def _of_table(table: pa.Table) -> Iterable[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.select([name for name in _FIELDS if name in table.column_names]).to_pylist()
    return rows


def _correction(number: int, row: dict[str, Any]) -> Correction:
    """Raises ValueError."""
    position = row.get("position")
    topic, partition, offset = (position or "").rsplit("/", 2) if (position or "").count("/") >= 2 else ("", "", "")
    if not (partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()):
        raise ValueError(f"its position is {json.dumps(position)}, and not topic/partition/offset")
    table = row.get("table") or ""
    return Correction(number, topic, int(partition), int(offset), table, _bytes(row, "key"), _bytes(row, "value"))


def _bytes(row: dict[str, Any], name: str) -> bytes | None:
    """The text, or the bytes that ``<name>_base64`` holds; not both. Raises ValueError."""
    text, encoded = row.get(name), row.get(f"{name}_base64")
    if text is not None and encoded is not None:
        raise ValueError(f"it has both {name} and {name}_base64: leave one of them empty")
    if encoded is None:
        return None if text is None else str(text).encode()
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{name}_base64 is no base64: {error}") from None
