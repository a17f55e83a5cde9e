"""Decodes conformance cases and prints one JSON line a step, so that a crash names its case.

Usage: conformance_runner.py PATH < ids, one a line. PATH: fast (the case among good neighbours), tolerant.
"""

from __future__ import annotations

import json
import sys
from functools import lru_cache
from typing import Any

import pyarrow as pa
from conformance_cases import CASES, Case

from flows.batch import RECORDS, Batch
from flows.contract import Source
from flows.stage import Stage


def batch(values: list[bytes | None]) -> Batch:
    """Records with these values at offsets 0, 1, ..."""
    count = len(values)
    columns = [
        pa.array(range(count), pa.int64()),
        pa.array([0] * count, RECORDS.field("_timestamp").type),
        pa.nulls(count, pa.binary()),
        pa.array(values, pa.binary()),
        pa.array([[]] * count, RECORDS.field("headers").type),
    ]
    return Batch("t", 0, 0, count, pa.RecordBatch.from_arrays(columns, schema=RECORDS))


@lru_cache
def stage(source: str, fast: bool) -> Stage:
    """A stage of the source that the JSON describes."""
    return Stage(Source(**({"name": "t", "topic": "t"} | json.loads(source))), fast=fast)


def decode(case: Case, fast: bool) -> tuple[str, int]:
    """What became of the case (repr of the row, the code, or "filtered"), and how many of its neighbours were lost or changed."""
    neighbours = _neighbours(case) if fast else []
    staged = stage(json.dumps(case.source), fast).stage(batch([*neighbours, case.value, *neighbours]))
    position = len(neighbours)
    rows = {row.pop("_offset"): row for row in staged.rows.to_pylist()}
    harmed = 0
    for offset in [*range(position), *range(position + 1, 2 * position + 1)]:
        harmed += offset not in rows
    if position in rows:
        return _shown(rows[position]), harmed
    if position in staged.filtered.to_pylist():
        return "filtered", harmed
    codes = {reject["_offset"]: reject["code"] for reject in staged.rejects.to_pylist()}
    return codes[position], harmed


def _neighbours(case: Case) -> list[bytes | None]:
    """Twenty good records of the case's own source: the case's value itself when it is good, else one that the format takes."""
    if case.id.startswith("record"):
        return [case.value] * 20 if isinstance(case.result, dict) else []
    number = b'"7"' if case.source["format"] == "csv" else b"7"
    return [b'{"l":"x","r":' + number + b"}"] * 20


def _shown(row: dict[str, Any]) -> str:
    for name in ("_partition", "_timestamp"):
        row.pop(name)
    if row.get("_extra", "") is None:
        row.pop("_extra")
    return repr(row).replace("zoneinfo.ZoneInfo(key='UTC')", "datetime.timezone.utc")


def main() -> None:
    """Read ids, print what becomes of each."""
    for line in sys.stdin.read().splitlines():
        print(json.dumps({"start": line}), flush=True)
        try:
            result, harmed = decode(CASES[line], fast=sys.argv[1] == "fast")
        except Exception as error:
            result, harmed = f"raised {type(error).__name__}: {error}", 0
        print(json.dumps({"id": line, "result": result, "harmed": harmed}), flush=True)


if __name__ == "__main__":
    main()
