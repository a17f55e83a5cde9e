"""``--full``: every table of a source made again from the log, and compared row by row with what is stored."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import RAW, RECORDS, Batch, fitted
from flows.conform import Conform
from flows.database import Database
from flows.ledger import Span
from flows.sql.tree import quoted
from flows.stage import Stage
from flows.stage.corrections import Stored
from flows.upsert import DELETED, Upsert
from infra.audit.compare import compare
from infra.audit.deletes import Tombstones
from infra.audit.findings import EXAMPLES, Proof
from infra.audit.forgotten import Forgotten
from infra.audit.log import TopicLog
from infra.audit.rows import Rows
from infra.run.eras import Eras, Makers
from sinks.keys import Keys

REJECTED = "__rejected"
Offsets = npt.NDArray[np.int64]
NONE: Offsets = np.array([], np.int64)
_NO_RECORDS = pa.RecordBatch.from_pylist([], schema=RECORDS)


@dataclass(frozen=True, slots=True)
class Made:
    """What one table should hold of a batch: its rows, and the offsets that were filtered and rejected, here or upstream.

    ``deletes``: of staging, the keys of records without a value.
    """

    rows: pa.Table
    filtered: Offsets
    rejected: Offsets
    deletes: pa.Table | None = None


@dataclass(slots=True)
class Check:
    """One table's proof of one partition, and what was counted while comparing. ``refusing``: the tables whose rows are its rejects;
    ``upsert``: how its rows replace one another, if they do; ``tombstones``: where deletes may come without a sequence; ``forgotten``:
    where tombstones are not kept for ever.
    """

    proof: Proof
    rows: Rows
    refusing: Sequence[str]
    upsert: Upsert | None = None
    tombstones: Tombstones | None = None
    forgotten: Forgotten | None = None
    span: Span | None = None
    problems: dict[str, list[int]] = field(default_factory=dict)

    def covers(self, start: int, end: int) -> bool:
        return self.proof.span.start <= start and end <= self.proof.span.end

    def note(self, problem: str, offsets: Sequence[int]) -> None:
        """Collect a few positions for each kind of problem; one finding is made of each at the end."""
        known = self.problems.setdefault(problem, [])
        known += offsets[: EXAMPLES - len(known)]


class _Line:
    """The code of a run for a stretch of positions that are made alike."""

    def __init__(self, makers: Makers, database: Database, stored: Stored | None) -> None:
        self.makers = makers
        self.stage = Stage(makers.source, database, stored=stored)
        self.conforms = {node.name: Conform(node, database) for node in makers.nodes}


class Recompute:
    """Makes the tables of one source again. ``stored``: what was rejected before the first record that is made again, for corrections of
    it.
    """

    def __init__(self, eras: Eras, stored: Stored | None = None) -> None:
        self._name = eras.now.source.name
        self._eras = eras
        self._stored = stored
        self._database = Database()
        self._nodes = {node.name: node for node in eras.now.nodes}
        self._lines: list[_Line] = []
        self._forgotten: dict[str, Forgotten] = {}

    def close(self) -> None:
        for line in self._lines:
            for conform in line.conforms.values():
                conform.close()

    def _line(self, batch: Batch) -> _Line:
        makers = self._eras.at(batch.partition, batch.start)
        found = next((line for line in self._lines if line.makers is makers), None)
        if found is None:
            found = _Line(makers, self._database, self._stored)
            self._lines.append(found)
        return found

    def chain(self, table: str) -> list[str]:
        """A table and what it derives from, down to staging; empty for raw."""
        if table.startswith("raw."):
            return []
        chain = [table.removesuffix(REJECTED)]
        while chain[-1] in self._nodes:
            chain.append(self._nodes[chain[-1]].upstream)
        return chain

    def make(self, batch: Batch, wanted: Collection[str]) -> dict[str, Made]:
        """The share of a batch of every table in ``wanted``, and of what they derive from. Raises what staging and the SQL raise.

        No edge of the eras lies within the batch.
        """
        line, schemas = self._line(batch), self._eras.schemas
        offsets = _offsets(batch.records)
        partition = pa.repeat(pa.scalar(batch.partition, pa.int32()), batch.records.num_rows)
        made = {f"raw.{self._name}": Made(pa.Table.from_arrays([partition, *batch.records.columns], schema=RAW), NONE, NONE)}
        needed = {name for table in wanted for name in self.chain(table)}
        staging = f"staging.{self._name}"
        if staging in needed:
            staged = line.stage.stage(batch)
            refused = _offsets(staged.rejects)
            made[staging] = Made(fitted(staged.rows, schemas[staging]), staged.filtered.to_numpy(), refused, staged.deletes)
            made[f"{staging}{REJECTED}"] = Made(staged.rejects, np.setdiff1d(offsets, refused), NONE)
        for name, node in self._nodes.items():
            if name in needed:
                upstream = made[node.upstream]
                done = line.conforms[name].conform(upstream.rows, batch, upstream.deletes)
                own = _offsets(done.rejects)
                filtered = np.concatenate([done.left_out(pa.array(upstream.filtered)).to_numpy(), done.filtered.to_numpy()])
                made[name] = Made(fitted(done.rows, schemas[name]), filtered, np.concatenate([upstream.rejected, own]))
                made[f"{name}{REJECTED}"] = Made(done.rejects, np.setdiff1d(offsets, own), NONE)
        return made

    def check(self, log: TopicLog, partition: int, tables: Mapping[str, tuple[Proof, Rows]]) -> None:
        """Compare one partition of ``tables`` with the log, as far as it can be read; findings go to the proofs."""
        checks = {}
        for name, (proof, rows) in tables.items():
            if log.reaches(partition) <= proof.span.start and proof.span.end <= log.extent.stable[partition]:
                refusing = [] if name.endswith(REJECTED) else [f"{of}{REJECTED}" for of in self.chain(name)]
                node = self._nodes.get(name)
                checks[name] = Check(proof, rows, refusing, node.upsert if node else None)
                if node is not None and node.upsert is not None and node.upsert.open_sequence is not None:
                    checks[name].tombstones = Tombstones(rows, node.upsert.key, node.upsert.open_sequence, partition)
                if node is not None and node.upsert is not None and node.upsert.tombstone_retention_s is not None:
                    checks[name].forgotten = self._forgotten.setdefault(name, Forgotten(rows, node.upsert, node.schema))
        # where a table begins or ends, all others are cut: a table is compared only where its ledger covers the whole batch
        edges = {edge for check in checks.values() for edge in (check.proof.span.start, check.proof.span.end)}
        least, most = min(edges, default=0), max(edges, default=0)
        edges |= {edge for edge in (log.extent.low[partition], *self._eras.edges(partition)) if least < edge < most}
        for start, end in pairwise(sorted(edges)):
            covering = {name: check for name, check in checks.items() if check.covers(start, end)}
            for batch in _batches(log, partition, start, end) if covering else ():
                made = self.make(batch, covering)
                stored = {name: check.rows.read(partition, batch.start, batch.end) for name, check in covering.items()}
                for name, check in covering.items():
                    _compare(check, made[name], stored[name], provable=start >= log.extent.low[partition])
                    _account(check, batch, made[name], stored)
        for check in checks.values():
            _conclude(check)

    def settle(self) -> dict[str, dict[str, list[tuple[int, int]]]]:
        """After all partitions were checked: table -> what is wrong with what it lacks -> (partition, offset) of the rows that show it."""
        return {name: found for name, forgotten in self._forgotten.items() if (found := forgotten.settle())}


def _batches(log: TopicLog, partition: int, start: int, end: int) -> Iterator[Batch]:
    """Batches whose ranges cover ``[start, end)`` without a gap, so that rows at positions without a record are seen as well."""
    held = _NO_RECORDS
    for records in log.records(partition, start, end):
        if held.num_rows:
            following = records.column(0)[0].as_py()
            yield Batch(log.topic, partition, start, following, held)
            start = following
        held = records
    yield Batch(log.topic, partition, start, end, held)


def _compare(check: Check, made: Made, stored: pa.Table, *, provable: bool) -> None:
    """Row by row. What the topic no longer holds comes from the raw table, which cannot prove itself."""
    proof = check.proof
    if proof.table.startswith("raw.") and not provable:
        note = "the topic no longer holds its first offsets: their bytes are not compared"
        proof.notes += [note] if note not in proof.notes else []
        return
    missing = [name for name in made.rows.schema.names if name not in stored.schema.names]
    if missing:
        check.note(f"columns are missing: {', '.join(missing)}", [])
        return
    if check.upsert is not None:
        made = replace(made, rows=_staying(check, check.upsert, made.rows, stored))
    difference = compare(made.rows, stored)
    proof.compared = (proof.compared or 0) + made.rows.num_rows
    if difference.missing:
        check.note("rows are missing that the log gives", difference.missing)
    if difference.extra:
        check.note("rows are there that the log does not give", difference.extra)
    if difference.changed:
        check.note(f"rows differ from what the log gives, in {', '.join(difference.columns)}", difference.changed)


def _staying(check: Check, upsert: Upsert, rows: pa.Table, stored: pa.Table) -> pa.Table:
    """Of the rows that the log gives those that should be in the table: all but those that a later row of their key has replaced."""
    bare = "false"
    if check.tombstones is not None:
        bare = f"given.{quoted(DELETED)} AND given.{quoted(upsert.sequence or '')} IS NULL"
        rows, alone = check.tombstones.fill(rows)
        if alone:
            check.note("tombstones have a sequence that no row before them has", alone)
    here = set(zip(*(stored.column(name).to_pylist() for name in _places(stored)), strict=True))
    places = zip(*(rows.column(name).to_pylist() for name in _places(rows)), strict=True)
    stays = np.fromiter((place in here for place in places), bool, rows.num_rows)
    gone = rows.filter(pa.array(~stays))
    if check.forgotten is not None:
        check.forgotten.see(rows)
        check.forgotten.add(gone, bare)
        return rows.filter(pa.array(stays))
    keys = Keys.of_upsert(upsert, rows.schema)
    missing = check.rows.not_outranked(gone, keys.order_sql, bare) if gone.num_rows else []
    return rows.filter(pc.or_(pa.array(stays), pc.is_in(rows.column("_offset"), pa.array(missing, pa.int64()))))


def _places(rows: pa.Table) -> list[str]:
    return [name for name in ("_offset", "_row") if name in rows.schema.names]


def _account(check: Check, batch: Batch, made: Made, stored: Mapping[str, pa.Table]) -> None:
    """Every offset of the log is in the table, in its rejects, or filtered: by set difference over what is stored, and by count."""
    read, written = _offsets(batch.records), np.unique(_offsets(made.rows))
    span = Span(batch.start, batch.end, len(read), len(written), len(made.filtered), len(made.rejected))
    check.span = span if check.span is None else check.span.then(span)
    if not all(name in stored for name in check.refusing):
        return  # its rejects have not come equally far: they are compared row by row, elsewhere
    own = _offsets(stored[check.proof.table]) if check.upsert is None else written
    there = [own, *(_offsets(stored[name]) for name in check.refusing)]
    left_out = np.setdiff1d(read, np.concatenate(there))
    wrong = np.setxor1d(left_out, made.filtered)
    if len(wrong):
        check.note("records are not in exactly one of table, rejects and filtered", wrong[:EXAMPLES].tolist())


def _conclude(check: Check) -> None:
    proof = check.proof
    for problem, offsets in check.problems.items():
        proof.find(problem, offsets)
    if check.span is not None and check.span != proof.span:
        proof.find(f"the log gives {_counts(check.span)}, and the ledger says {_counts(proof.span)}")


def _counts(span: Span) -> str:
    return f"read {span.read}, written {span.written}, filtered {span.filtered}, rejected {span.rejected}"


def _offsets(rows: pa.Table | pa.RecordBatch) -> Offsets:
    column: Offsets = rows.column("_offset").to_numpy()
    return column
