"""The given events of a test as records of a topic."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from connectors.files.input import InputFile
from connectors.files.reading import read_rows
from connectors.producer import marks
from flows.batch import RECORDS
from flows.contract import Source
from infra.cases.case import CaseFile, CaseInvalid, Given

_SUFFIX = {"csv": ".csv", "json": ".ndjson", "text": ".txt"}
LOAD = b"test"


def records_of(case: CaseFile, source: Source, given: Given) -> pa.RecordBatch:
    """RECORDS at offsets from 0 on, without times. Raises CaseInvalid, and what reading the files raises."""
    rows: list[dict[str, Any]] = []
    for file in given.files:
        rows += _of_file(source, case.path.parent / file)
    if given.text:
        with tempfile.TemporaryDirectory(prefix="kappa-test-") as folder:
            path = Path(folder) / f"text{_SUFFIX[source.format]}"
            path.write_text(given.text, encoding=source.csv.encoding if source.format == "csv" else "utf-8")
            rows += _of_file(source, path)
    rows += _of_lines(case, source.name, given.records)
    for offset, row in enumerate(rows):
        row["_offset"] = offset
    return pa.RecordBatch.from_pylist(rows, schema=RECORDS)


def _of_file(source: Source, path: Path) -> Iterator[dict[str, Any]]:
    with InputFile(path) as file:
        number = 0
        for chunk in read_rows(source, file).chunks:
            for index, (key, value) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
                number += 1
                headers = [("kappa-load", LOAD), ("kappa-row", b"%d" % number)]
                if index in chunk.broken:
                    headers += marks(chunk.broken[index])
                yield {"key": key, "value": value, "headers": [{"name": name, "value": content} for name, content in headers]}


def _of_lines(case: CaseFile, source: str, lines: str) -> Iterator[dict[str, Any]]:
    for line in filter(str.strip, lines.splitlines()):
        try:
            record = json.loads(line)
            unknown = record.keys() - {"key", "value"}
        except (ValueError, AttributeError) as error:
            raise CaseInvalid(case.path, f"given.{source}.records: {line!r} is no JSON object: {error}") from error
        if unknown:
            raise CaseInvalid(case.path, f"given.{source}.records: a record has key and value, not {', '.join(sorted(unknown))}")
        yield {"key": _bytes(record.get("key")), "value": _bytes(record.get("value"))}


def _bytes(content: object) -> bytes | None:
    if content is None:
        return None
    return content.encode() if isinstance(content, str) else json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
