"""The rules of a contract, evaluated by DuckDB over typed rows."""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import Batch, Position
from flows.contract import Source
from flows.database import Database
from flows.errors import KappaError
from flows.stage.buffers import Mask
from flows.stage.codes import Code
from flows.stage.refusal import Refused, shown


class RuleFailed(KappaError):
    """A row breaks a rule with on_failure = "fail". ``rule``: its name; ``position``: the first such record, its value shortened."""

    def __init__(self, source: str, rule: str, verdict: str, position: Position, value: str) -> None:
        super().__init__(
            f"the record {position} breaks the rule {rule} of source {source}",
            cause=f'{verdict}, and the rule says on_failure = "fail"; the value is {value}',
            next_step=f'in sources/{source}.toml, correct the rule, or say on_failure = "warn" to let such records in, then: kappa run; '
            'or say "reject" to keep them out, then: kappa apply',
        )
        self.rule = rule
        self.position = position


_Flags = dict[str, Mask]


@dataclass(frozen=True, slots=True)
class Judged:
    """``refused``: row index -> refusal. ``broken``: rule -> which rows break it; ``raised``: on which of them its check raises."""

    refused: dict[int, Refused] = field(default_factory=dict)
    broken: _Flags = field(default_factory=dict)
    raised: _Flags = field(default_factory=dict)


class Rules:
    """Evaluates a source's rules. A row breaks a rule when the check is FALSE or raises (an overflow); NULL passes, as in SQL's CHECK.

    Only rules that reject decide which rows there are: the others may change at any time, and are not part of a fingerprint.
    """

    def __init__(self, source: Source, database: Database) -> None:
        self._source = source
        self._cursor = database.cursor() if source.rules else None

    def judge(self, rows: pa.Table) -> Judged:
        """Find the rows that rules refuse. What warns or fails is judged by ``warn``, over the rows that stay."""
        if not self._source.rules or not rows.num_rows:
            return Judged()
        broken, raised = self._evaluate(rows)
        refused: dict[int, Refused] = {}
        for name, rule in self._source.rules.items():
            for index in np.flatnonzero(broken[name]).tolist() if rule.on_failure == "reject" else ():
                refused.setdefault(index, Refused(Code.RULE, _verdict(rule.check, raised[name][index]), rule=name))
        return Judged(refused, broken, raised)

    def warn(self, judged: Judged, stays: Mask, batch: Batch, offsets: pa.ChunkedArray) -> dict[str, pa.Int64Array]:
        """Rule -> offsets of the rows that break it and stay. ``offsets``: of all judged rows. Raises RuleFailed."""
        warned = {}
        for name, broken in judged.broken.items():
            rule, breaking = self._source.rules[name], broken & stays
            if rule.on_failure == "reject" or not breaking.any():
                continue
            found = pc.filter(offsets, pa.array(breaking)).combine_chunks()
            if rule.on_failure == "fail":
                verdict = _verdict(rule.check, judged.raised[name][np.flatnonzero(breaking)[0]])
                raise RuleFailed(self._source.name, name, verdict, *_record(batch, found[0].as_py()))
            warned[name] = found
        return warned

    def _evaluate(self, rows: pa.Table) -> tuple[_Flags, _Flags]:
        """Rule -> which rows break it, and rule -> on which of them its check raises. Rows that DuckDB cannot hold at once are halved."""
        try:
            return self._flags(rows)
        except duckdb.OutOfMemoryException:
            middle = rows.num_rows // 2
            if not middle:
                raise
            halves = zip(self._evaluate(rows.slice(0, middle)), self._evaluate(rows.slice(middle)), strict=True)
        broken, raised = ({name: np.concatenate([one[name], two[name]]) for name in one} for one, two in halves)
        return broken, raised

    def _flags(self, rows: pa.Table) -> tuple[_Flags, _Flags]:
        try:
            broken = self._query(rows, "(({}) IS FALSE)")
        except duckdb.Error:
            # IS FALSE is never NULL, so TRY gives NULL exactly where the expression raises.
            tried = self._query(rows, "TRY(({}) IS FALSE)")
            raised = {name: np.asarray(column.is_null()) for name, column in tried.items()}
            return {name: np.asarray(column.fill_null(True)) for name, column in tried.items()}, raised
        return {name: np.asarray(column) for name, column in broken.items()}, dict.fromkeys(broken, np.zeros(rows.num_rows, np.bool_))

    def _query(self, rows: pa.Table, form: str) -> dict[str, pa.ChunkedArray]:
        assert self._cursor is not None
        checks = ", ".join(form.format(rule.check) for rule in self._source.rules.values())
        result = self._cursor.query(f"SELECT {checks} FROM typed", typed=rows)
        return dict(zip(self._source.rules, result.columns, strict=True))


def _record(batch: Batch, offset: int) -> tuple[Position, str]:
    """A record's position, and its value for people."""
    value = batch.records.column("value")[pc.index(batch.records.column("_offset"), offset).as_py()].as_py()
    return Position(batch.topic, batch.partition, offset), "null" if value is None else shown(value.decode("utf-8", "replace"))


def _verdict(check: str, raised: bool) -> str:
    return f"{check} cannot be evaluated on this row" if raised else f"{check} is false"
