"""Stage a sample with what is proposed for it, and loosen what refuses a record."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from flows.batch import RECORDS, Batch
from flows.stage import Code, Stage
from infra.infer.proposal import Guess, Proposal
from infra.infer.sample import Sample

_STAGE_ROWS = 50_000


def record_batch(values: Sequence[bytes], start: int) -> pa.RecordBatch:
    """Values as records (schema RECORDS) at consecutive offsets from ``start``, without keys and headers."""
    count = len(values)
    columns = [
        pa.array(range(start, start + count), pa.int64()),
        pa.repeat(pa.scalar(0, RECORDS.field("_timestamp").type), count),
        pa.nulls(count, pa.binary()),
        pa.array(values, pa.binary()),
        pa.nulls(count, RECORDS.field("headers").type),
    ]
    return pa.record_batch(columns, schema=RECORDS)


def verify(sample: Sample, proposal: Proposal) -> None:
    """Stage the sample with what is proposed; a column that refuses a record becomes one that takes it."""
    for _ in range(2 * len(proposal.columns) + 1):
        refusing = _refusing(sample, proposal)
        if not refusing:
            return
        for name, code in refusing.items():
            guess = proposal.columns[name]
            if code in (Code.NULL_FIELD, Code.MISSING_FIELD, Code.NULL_KEY):
                proposal.columns[name] = Guess(guess.type, False, guess.note)
            elif guess.type == "json" or (guess.type == "varchar" and proposal.format == "csv"):
                del proposal.columns[name]
                proposal.left_out[name] = f"not every value could be read ({code}); the values are kept in _extra"
            else:
                loose = "varchar" if proposal.format == "csv" else "json"
                proposal.columns[name] = Guess(loose, guess.not_null, f"a guess: not every value is a {guess.type} ({code})")


def _refusing(sample: Sample, proposal: Proposal) -> dict[str, str]:
    """column -> code of the first record that is refused because of it."""
    stage = Stage(proposal.source())
    found: dict[str, str] = {}
    nulls = proposal.dialect.null if proposal.format == "csv" else ()
    for start in range(0, len(sample.values), _STAGE_ROWS):
        values = sample.values[start : start + _STAGE_ROWS]
        if nulls:
            values = [_with_nulls(value, nulls) for value in values]
        records = record_batch(values, start)
        batch = Batch(proposal.topic, 0, start, start + len(values), records)
        rejects = stage.stage(batch).rejects
        for column, code in zip(rejects.column("column").to_pylist(), rejects.column("code").to_pylist(), strict=True):
            if column in proposal.columns:
                found.setdefault(column, code)
    return found


def _with_nulls(value: bytes, nulls: tuple[str, ...]) -> bytes:
    """What ``kappa load`` would send: the texts that stand for null are null."""
    document = json.loads(value)
    return json.dumps({name: None if text in nulls else text for name, text in document.items()}).encode()
