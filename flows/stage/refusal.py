"""A refused record: its code, where and why; and the rows of a ``__rejected`` table."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from flows.batch import REJECTED, Batch
from flows.stage.codes import Code

_SHOWN = 80


class Refused(Exception):
    """One record breaks its contract. ``column``: the contract's column; ``rule``: the rule's name; ``reason``: a sentence."""

    def __init__(self, code: Code, reason: str, column: str | None = None, rule: str | None = None) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.column = column
        self.rule = rule

    def at(self, column: str | None) -> Refused:
        """The same refusal, of a column."""
        return Refused(self.code, self.reason, column, self.rule)


def shown(text: str) -> str:
    """A value as a reason quotes it: at most 80 characters, control characters escaped."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def rejected(batch: Batch, indices: Sequence[int], refusals: Sequence[Refused]) -> pa.Table:
    """REJECTED rows: the records of ``batch`` at ``indices`` (ascending), each with its refusal."""
    records = batch.records.take(pa.array(indices, pa.int64()))
    return pa.Table.from_arrays(
        [
            pa.array([batch.partition] * len(indices), pa.int32()),
            *records.columns,
            pa.array([str(refusal.code) for refusal in refusals], pa.string()),
            pa.array([refusal.rule for refusal in refusals], pa.string()),
            pa.array([refusal.column for refusal in refusals], pa.string()),
            pa.array([refusal.reason for refusal in refusals], pa.string()),
        ],
        schema=REJECTED,
    )
