"""Why a table has no row of a position: what became of the record there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from infra.trace.tables import Tables

REJECTED = "__rejected"


@dataclass(frozen=True, slots=True)
class Absence:
    """A sentence, and the next command."""

    cause: str
    next_step: str


def absence(chain: Sequence[str], partition: str, offset: str, topic: str, tables: Tables) -> Absence:
    """``chain``: the table without the row, and what it derives from. The values were found to be integers before. Raises QueryFailed."""
    where = f"_partition = {int(partition)} AND _offset = {int(offset)}"
    for table in chain:
        rejects = table.removesuffix(REJECTED) + REJECTED
        if rejects in tables.names and rejects != chain[0]:
            for row in tables.ask(f"SELECT code, reason FROM {rejects} WHERE {where}"):
                return Absence(f"its record was rejected: {row['code']}, {row['reason']}", _explain(rejects, partition, offset))
    for below, table in pairwise(chain):
        if tables.ask(f"SELECT 1 AS there FROM {table} WHERE {where} LIMIT 1"):
            what = "no reject is there" if below.endswith(REJECTED) else f"the SQL of {below} leaves it out"
            return Absence(f"{table} has a row of it: {what}", _explain(table, partition, offset))
    raw = f"raw.{chain[-1].partition('.')[2].removesuffix(REJECTED)}"
    if raw in tables.names and raw != chain[0] and tables.ask(f"SELECT 1 AS there FROM {raw} WHERE {where} LIMIT 1"):
        return Absence(f"{raw} has its record: it gave no row", _explain(raw, partition, offset))
    return Absence(f"no table between it and topic {topic} has that position at this cut", f"kappa peek {topic} shows the newest records")


def _explain(table: str, partition: str, offset: str) -> str:
    return f"kappa explain-row {table} {int(partition)} {int(offset)}"
