"""Merging the rows of a commit into an upsert table: copy-on-write of the files that their keys fall into.

For each file: which of its rows are outranked (a join on the key), the newer rows in their places, new keys in key order, and the file
written anew. Files are independent of one another and merged by several threads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.batch import fitted
from flows.database import Cursor, Database
from flows.upsert import DELETED
from sinks.deletes import refuse_moved, with_sequence, without_sequence
from sinks.errors import KeyMoved
from sinks.files import Change, FileWriter, OldFile, WrittenFile
from sinks.keys import Keys, Latest
from sinks.leaves import PREFIX, Leaf, Leaves, Values, route
from sinks.storage import readable

LEAF_ROWS = 131_072
SORT_APART_ROWS = 32_768
_FLAG = pa.field(DELETED, pa.bool_())
LEAF_BYTES = 64 * 1024 * 1024  # of Arrow


@dataclass(frozen=True, slots=True)
class _Merged:
    """What became of one leaf: new ones in its place. ``tombstones``: how many more they hold."""

    values: Values
    replaced: OldFile | None
    added: list[Leaf]
    files: list[WrittenFile]
    tombstones: int


class Merge:
    """Merges commit after commit into one table, whose files it remembers. ``version``: the owner's last; ``leaf_bytes``: of Arrow.

    The rows that are given have the table's columns and ``_deleted``. A table without that column keeps no tombstones: what is deleted is
    gone. ``tombstone_retention_s``: how long one with it does, None for ever. ``open_sequence``: the column of the sequence, when
    deletes may come without one (sinks.deletes). ``combine_sql``: what becomes of ``old`` and ``new`` rows of a key, instead of the new
    one alone (flows.partials).
    """

    def __init__(
        self,
        writer: FileWriter,
        keys: Keys,
        version: Callable[[], int],
        pool: Executor,
        *,
        tombstone_retention_s: float | None = None,
        open_sequence: str | None = None,
        combine_sql: str | None = None,
        leaf_rows: int = LEAF_ROWS,
        leaf_bytes: int = LEAF_BYTES,
        duckdb_bytes: int | None = None,
    ) -> None:
        self.writer = writer
        self.keys = keys
        self._forgets = DELETED not in writer.schema.names
        self._given = replace(writer, schema=writer.schema.append(_FLAG)) if self._forgets else writer
        self._retention_s = tombstone_retention_s
        self._open_sequence = open_sequence
        self._combine_sql = combine_sql
        self._version = version
        self._pool = pool
        self._leaf_rows = leaf_rows
        self._leaf_bytes = leaf_bytes
        self._database = Database(duckdb_bytes)
        self.cursor = self._database.cursor()
        self._leaves: Leaves | None = None
        self._unnamed: list[WrittenFile] = []

    def pending(self) -> PendingMerge:
        """The rows of the next commit."""
        return PendingMerge(self)

    def leaves(self) -> Leaves:
        """The table's files as of the owner's last version: read once, then kept up to date by what is committed."""
        if self._leaves is None:
            self._leaves = Leaves.read(self.writer.address, self._version(), self.keys, self.cursor)
        return self._leaves

    def forget(self) -> None:
        """The files are not what they were: read them again."""
        self._leaves = None

    def merge(self, rows: pa.Table) -> list[_Merged]:
        """Write the files that hold the table's rows and ``rows``, which no commit names yet."""
        leaves, horizon = self.leaves(), self._horizon(rows)
        given = {tuple(values.items()): part for values, part in self._given.split(rows)}
        jobs: list[Future[_Merged | None]] = []
        done: list[_Merged] = []
        for values in {**given, **leaves.others}:
            foreign = {old: self._read(old) for old in leaves.others.get(values, ())}
            part = given.get(values, self._given.stored.empty_table())
            own = leaves.leaves.get(values, ())
            part = self._with_sequence(part, own, foreign.values())
            for latest in self._latest(self._over(part, [*foreign.values()]), own):
                for leaf, start, end in route(own, latest.keys):
                    jobs.append(self._pool.submit(self._leaf, values, leaf, latest.slice(start, end), horizon))
            done += [_Merged(values, old, [], [], -_tombstones(its)) for old, its in foreign.items()]
        wait(jobs)
        return done + [merged for job in jobs if (merged := job.result()) is not None]

    def _over(self, part: pa.Table, foreign: list[pa.Table]) -> pa.Table:
        """``part`` and the rows of files that are no leaves: where no order says which row of a key is the later, that of ``part``."""
        if not foreign or self.keys.order or not part.num_rows:
            return pa.concat_tables([part, *foreign])
        old = pa.concat_tables(foreign)
        merged = self._merged(old, self.keys.latest(part, self.cursor), self.cursor)
        return old if merged is None else merged

    def _with_sequence(self, part: pa.Table, leaves: Sequence[Leaf], foreign: Iterable[pa.Table]) -> pa.Table:
        """``part`` with a sequence for each delete that has none. Raises KeyMoved."""
        sequence = self._open_sequence
        if sequence is None:
            return part
        refuse_moved(part, self.keys, self.writer.address.name, self.cursor)
        bare = part.filter(without_sequence(part, sequence))
        if not bare.num_rows:
            return part
        found = route(leaves, self.keys.latest(bare, self.cursor).keys)
        columns = self.keys.narrow(part).column_names[:-1]
        stored = [self._read(leaf.file).select(columns) for leaf, *_ in found if leaf is not None]
        given = [part.slice(0, 0).select(columns), *stored, *(table.select(columns) for table in foreign)]
        return with_sequence(part, pa.concat_tables(given), self.keys, sequence, self.cursor)

    def _latest(self, rows: pa.Table, leaves: Sequence[Leaf]) -> list[Latest]:
        """The latest row of each key: of many rows in two parts, cut between two leaves, by two threads."""
        lows = [leaf.low for leaf in leaves[1:]]
        if rows.num_rows < SORT_APART_ROWS or not lows:
            return [self.keys.latest(rows, self.cursor)]
        pivot = lows[max(0, bisect_right(lows, self.keys.middle(rows, self.cursor)) - 1)]
        bound = f"from_hex('{pivot.hex()}')"
        above = self._pool.submit(self.keys.latest, rows, self._database.cursor(), f"k >= {bound}")
        return [self.keys.latest(rows, self.cursor, f"k < {bound}"), above.result()]

    def _leaf(self, values: Values, leaf: Leaf | None, latest: Latest, horizon: datetime | None) -> _Merged | None:
        """Merge rows into one leaf, or into a partition that has none; None when the leaf stays as it is."""
        cursor = self._database.cursor()
        try:
            old = self._given.stored.empty_table() if leaf is None else self._read(leaf.file)
            rows = latest.rows if leaf is None else self._merged(old, latest, cursor)
            if rows is None:
                return None
            pieces = self._pieces(self._kept(rows, horizon))
            files = [self._write(values, piece) for piece in pieces]
            lows = self._lows(pieces, leaf, latest, cursor)
        finally:
            cursor.close()
        added = [Leaf(OldFile(file.path, dict(values), file.nbytes), low) for file, low in zip(files, lows, strict=True)]
        more = sum(map(_tombstones, pieces)) - _tombstones(old)
        return _Merged(values, None if leaf is None else leaf.file, added, files, more)

    def _lows(self, pieces: Sequence[pa.Table], leaf: Leaf | None, latest: Latest, cursor: Cursor) -> list[bytes]:
        """The sort key of the first row of each piece."""
        least = latest.keys[0].as_py() if leaf is None else min(leaf.low, latest.keys[0].as_py())
        if len(pieces) == 1 and self._retention_s is None and not self._forgets:
            return [least]
        return self.keys.of(pa.concat_tables([piece.slice(0, 1) for piece in pieces]), cursor) if pieces else []

    def _merged(self, old: pa.Table, latest: Latest, cursor: Cursor) -> pa.Table | None:
        """``old`` with what is newer in the places of what it outranks, and new keys in key order; None when nothing is newer."""
        keys, count = self.keys, old.num_rows
        newer = keys.newer_sql("part", "old")
        moved = "false AS moved" if self._open_sequence is None else "old._partition <> part._partition AS moved"
        sql = f"SELECT old._i AS i, part._i AS j, {newer} AS newer, {moved} FROM old JOIN part ON {keys.same_sql('old', 'part')}"
        found = cursor.query(sql, old=keys.narrow(old), part=keys.narrow(latest.rows).append_column("_o", latest.orders))
        i, j, newer = (found.column(name).to_numpy() for name in ("i", "j", "newer"))
        if (away := found.column("moved").to_numpy()).any():
            self._refuse_moved(old.slice(i[away][0], 1), latest.rows.slice(j[away][0], 1))
        new = np.ones(len(latest.keys), bool)
        new[j] = False
        inserted = np.flatnonzero(new)
        if not newer.any() and not len(inserted):
            return None
        places = np.arange(count)
        places[i[newer]] = count + j[newer]
        rows = latest.rows if self._combine_sql is None else self._combined(old.take(pa.array(i)), latest.rows, j, cursor)
        both = pa.concat_tables([old, rows])
        if len(inserted):
            places = self._in_order(both, np.concatenate([places, count + inserted]), len(inserted), cursor)
        return both.combine_chunks().take(pa.array(places))

    def _combined(self, old: pa.Table, new: pa.Table, places: Any, cursor: Cursor) -> pa.Table:
        """``new``, of which the rows at ``places`` are combined with those of ``old``, which has them in the same order."""
        assert self._combine_sql is not None
        chosen = new.take(pa.array(places))
        found = cursor.query(self._combine_sql, old=old, new=chosen) if len(places) else None
        if found is None:
            return new
        columns = [found.column(f.name).cast(f.type) if f.name in found.column_names else chosen.column(f.name) for f in new.schema]
        order = np.arange(new.num_rows)
        order[places] = new.num_rows + np.arange(len(places))
        return pa.concat_tables([new, pa.table(columns, schema=new.schema)]).take(pa.array(order))

    def _refuse_moved(self, *rows: pa.Table) -> None:
        """Raises KeyMoved for two rows of a key."""
        (one, other) = (row.to_pylist()[0] for row in rows)
        key = {name: one[name] for name in self.keys.columns}
        raise KeyMoved(self.writer.address.name, key, (one["_partition"], other["_partition"]))

    def _in_order(self, both: pa.Table, places: Any, inserted: int, cursor: Cursor) -> Any:
        """``places``, of which the last ``inserted`` are sorted apart, in key order as a whole."""
        rest = len(places) - inserted
        last, first = self.keys.of(both.take(pa.array(places[[rest - 1, rest]])), cursor)
        if last < first:
            return places
        narrow = self.keys.narrow(both).take(pa.array(places))
        found = cursor.query(f"SELECT _i FROM given ORDER BY {self.keys.key_sql('given')}", given=narrow)
        return found.column("_i").to_numpy()

    def _pieces(self, rows: pa.Table) -> list[pa.Table]:
        """Rows cut into leaves: one while it is less than half too large."""
        if not rows.num_rows:
            return []
        most = max(1, min(self._leaf_rows, int(self._leaf_bytes * rows.num_rows / max(1, rows.nbytes))))
        count = 1 if rows.num_rows <= most * 3 // 2 else -(-rows.num_rows // most)
        cuts = [number * rows.num_rows // count for number in range(count + 1)]
        return [rows.slice(start, end - start) for start, end in pairwise(cuts)]

    def _write(self, values: Values, rows: pa.Table) -> WrittenFile:
        with self.writer.open(dict(values), PREFIX) as file:
            file.write(rows)
        self._unnamed.append(file.written)
        return file.written

    def landed(self) -> None:
        """A commit names all that was written."""
        self._unnamed = []

    def abandon(self) -> None:
        """A commit may name what was written, or not: the table's files have to be read again."""
        self._unnamed = []
        self.forget()

    def discard(self) -> None:
        """Delete what no commit names."""
        for file in self._unnamed:
            (self.writer.address.folder / unquote(file.path)).unlink(missing_ok=True)
        self._unnamed = []

    def _read(self, file: OldFile) -> pa.Table:
        with pq.ParquetFile(readable(self.writer.address.folder / unquote(file.path)), pre_buffer=False) as opened:
            rows = fitted(opened.read(use_threads=False), self.writer.stored).cast(self.writer.stored)
        return rows.append_column(_FLAG, pa.repeat(pa.scalar(False), rows.num_rows)) if self._forgets else rows

    def _kept(self, rows: pa.Table, horizon: datetime | None) -> pa.Table:
        """Without the tombstones that the table does not keep."""
        if self._forgets:
            return rows.filter(pc.invert(rows.column(DELETED))).drop_columns([DELETED])
        if horizon is None:
            return rows
        old = pc.and_(rows.column(DELETED), pc.less(rows.column("_timestamp"), pa.scalar(horizon)))
        return rows.filter(pc.invert(pc.fill_null(old, False)))

    def _horizon(self, rows: pa.Table) -> datetime | None:
        """Tombstones whose records are older than this are forgotten: by the log's time, so that no clock decides."""
        if self._retention_s is None or not rows.num_rows:
            return None
        newest: datetime | None = pc.max(rows.column("_timestamp")).as_py()
        return None if newest is None else newest - timedelta(seconds=self._retention_s)


def _tombstones(rows: pa.Table) -> int:
    number: int = (pc.sum(rows.column(DELETED)).as_py() or 0) if DELETED in rows.column_names else 0
    return number


class PendingMerge:
    """The rows of one commit of an upsert table: gathered in memory, merged when they are committed."""

    def __init__(self, merge: Merge) -> None:
        self._merge = merge
        self._rows: list[pa.Table] = []
        self._merged: Sequence[_Merged] = ()
        self._changed = False

    def write(self, rows: pa.Table) -> None:
        """Take rows, which have exactly the table's schema."""
        self._rows.append(rows)

    def change(self) -> Change:
        """The leaves that the rows fall into, written anew. Raises what reading and writing the table's files raises."""
        if self._changed:
            self._merge.discard()
            self._merge.forget()
        self._changed = True
        if not self._rows:
            return Change([], 0, tombstones=0)
        rows = pa.concat_tables(self._rows)
        self._merged = self._merge.merge(rows)
        replaced = [merged.replaced for merged in self._merged if merged.replaced is not None]
        files = [file for merged in self._merged for file in merged.files]
        tombstones = sum(merged.tombstones for merged in self._merged)
        return Change(files, rows.num_rows, replaced, self._merge.leaves().version, tombstones)

    def landed(self, version: int) -> None:
        """The change was committed as this version."""
        self._merge.landed()
        if not self._rows:
            return
        added: dict[Values, list[Leaf]] = {}
        for merged in self._merged:
            added.setdefault(merged.values, []).extend(merged.added)
        replaced = [merged.replaced for merged in self._merged if merged.replaced is not None]
        self._merge.leaves().replace(version, replaced, added)

    def abandon(self) -> None:
        """Leave what was written where it is: a commit may name it."""
        self._merge.abandon()
        self._rows, self._merged = [], ()

    def discard(self) -> None:
        """Delete what was written: no commit will name it."""
        self._merge.discard()
        self._rows, self._merged = [], ()
