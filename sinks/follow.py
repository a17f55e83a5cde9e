"""Keeping a summary right: after each commit of its upstream, the groups that it has touched are computed again from that version.

Touched are the groups of the rows that came since the summary's checkpoint, and of the rows that they replaced, as the checkpoint's version
of the upstream holds them. When that version is gone, all groups are computed again, which gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from flows.errors import KappaError
from flows.faults import reach
from flows.ledger import Span
from flows.partials import Partials
from flows.sql.rewrite import UPSTREAM
from flows.sql.tree import quoted
from flows.summary import TOUCHED, Summary
from flows.upsert import DELETED, Upsert
from sinks.address import TableAddress
from sinks.engine import message
from sinks.errors import LedgerBroken
from sinks.files import Pending
from sinks.landing import land
from sinks.owner import CommitInfo, Owner
from sinks.record import CommitRecord, Partition, UpstreamVersion
from sinks.versions import Versions

_LIVE = f"NOT {DELETED}"


class SummaryFailed(KappaError):
    """The SQL of a summary cannot be computed over its upstream."""

    def __init__(self, table: str, upstream: str, version: int, cause: str) -> None:
        super().__init__(
            f"the SQL of {table} failed over {upstream}, version {version}",
            cause=cause,
            next_step=f"correct the SQL of {table}, then kappa apply; or the rows of {upstream}, then kappa run",
        )


class UpstreamUnreadable(KappaError):
    """The files of a summary's upstream cannot be read."""

    def __init__(self, table: str, upstream: str, version: int, cause: str) -> None:
        super().__init__(
            f"{table} cannot read {upstream}, version {version}",
            cause=cause,
            next_step=f"see that the storage can be reached, then kappa run; a lost file: kappa replay {upstream}",
        )


@dataclass(slots=True)
class Follower:
    """Keeps one summary as its upstream's versions give it. For one thread at a time.

    ``address`` and ``upsert``: of the upstream, None for an append table; ``pending`` makes what gathers the summary's new rows.
    """

    summary: Summary
    owner: Owner
    address: TableAddress
    upsert: Upsert | None
    pending: Callable[[], Pending]
    versions: Versions

    def follow(self, version: int, record: CommitRecord) -> CommitInfo | None:
        """Bring the summary to a version of its upstream, whose ledger is ``record``; None when it is there already.

        Raises SummaryFailed, and what committing raises.
        """
        spans = self._spans(record)
        if not spans:
            return None
        try:
            rows = self._changed(version, spans)
            self.versions.keep(self.address, version)
        except duckdb.IOException as error:
            raise UpstreamUnreadable(self.summary.name, self.summary.upstream, version, message(error)) from error
        except duckdb.Error as error:
            raise SummaryFailed(self.summary.name, self.summary.upstream, version, message(error)) from error
        reach("before-summary")
        pending = self.pending()
        try:
            if rows.num_rows:
                pending.write(rows)
            return land(pending, self.owner, spans, upstream=UpstreamVersion(self.address.generation, version))
        except BaseException:
            pending.discard()
            raise

    def _spans(self, record: CommitRecord) -> dict[Partition, Span]:
        """What of the log has come to the upstream since the summary's checkpoint: the summary's ledger counts what its upstream's does."""
        mine, spans = self.owner.totals, {}
        for place, total in record.totals.items():
            before = mine.get(place)
            if before is not None and (before.start != total.start or before.end > total.end):
                raise LedgerBroken(self.summary.name, f"{place[0]}/{place[1]}: it stands at {before.end}, and its upstream at {total.end}")
            if before is None or total.end > before.end:
                spans[place] = total if before is None else total.since(before)
        return spans

    def _changed(self, version: int, spans: Mapping[Partition, Span]) -> pa.Table:
        """The summary's columns and ``_deleted`` for the groups that have changed; only their names of those that are gone.

        Over an append table: what the new rows give, which is combined with what is stored where it is written.
        """
        if self.summary.partials is not None:
            return self._partial(self.summary.partials, self.versions.table(self.address, version), spans)
        checkpoint = self.owner.record.upstream
        if checkpoint is not None and checkpoint.generation in (None, self.address.generation):  # versions of another mean other rows
            try:
                before = self.versions.table(self.address, checkpoint.version)
                return self._touched(before, self.versions.table(self.address, version), spans)
            except duckdb.IOException:  # the checkpoint's files are gone; when it is the new version's, this will say so
                pass
        return self._all(self.versions.table(self.address, version))

    def _partial(self, partials: Partials, after: str, spans: Mapping[Partition, Span]) -> pa.Table:
        """By position: whatever compaction has done to the files meanwhile, each row is new once."""
        came = " UNION ALL ".join(
            f"SELECT * FROM {after} WHERE _partition = {p} AND _offset >= {span.start} AND _offset < {span.end}"
            for (_, p), span in spans.items()
        )
        self.versions.run(f"CREATE OR REPLACE TEMP VIEW {UPSTREAM} AS {came}")
        rows = self._stored(self.versions.ask(partials.partial_sql))
        return rows.append_column(pa.field(DELETED, pa.bool_()), pa.repeat(pa.scalar(False), rows.num_rows))

    def _touched(self, before: str, after: str, spans: Mapping[Partition, Span]) -> pa.Table:
        assert self.upsert is not None
        wanted = {*self.summary.touched_reads, *self.upsert.key, DELETED}
        columns = ", ".join(quoted(name) for name in sorted(wanted))
        came = " OR ".join(f"(_partition = {p} AND _offset >= {span.start} AND _offset < {span.end})" for (_, p), span in spans.items())
        run = self.versions.run
        run(f"CREATE OR REPLACE TEMP TABLE _came AS SELECT {columns} FROM {after} WHERE {came}")
        replaced = f"SELECT {columns} FROM {before} AS old {self._replaced(after)} WHERE {_LIVE}"
        run(f"CREATE OR REPLACE TEMP TABLE _changed AS SELECT {columns} FROM _came WHERE {_LIVE} UNION ALL {replaced}")
        run(f"CREATE OR REPLACE TEMP VIEW {UPSTREAM} AS FROM _changed")
        run(f"CREATE OR REPLACE TEMP TABLE {TOUCHED} AS {self.summary.touched_sql}")
        run(f"CREATE OR REPLACE TEMP VIEW {UPSTREAM} AS SELECT * FROM {after} WHERE {_LIVE}")
        rows = self._stored(self.versions.ask(self.summary.rows_sql))
        names = [f"g{number}" for number in range(len(self.summary.group))]
        return self._with_gone(rows, f"SELECT {', '.join(names)} FROM {TOUCHED}", names)

    def _columns(self, table: str) -> list[str]:
        names: list[str] = self.versions.ask(f"DESCRIBE FROM {table}").column("column_name").to_pylist()
        return names

    def _replaced(self, after: str) -> str:
        """SQL: the join that leaves of the checkpoint's rows, ``old``, those that are others now, or none."""
        assert self.upsert is not None
        if self.upsert.tombstone_retention_s is not None:  # the tombstone may be gone as well
            place = [name for name in ("_partition", "_offset", "_row") if name in self._columns(after)]
            same = " AND ".join(f"new.{name} = old.{name}" for name in place)
            return f"ANTI JOIN {after} AS new ON {same}"
        return f"SEMI JOIN _came ON {' AND '.join(f'_came.{name} = old.{name}' for name in map(quoted, self.upsert.key))}"

    def _all(self, after: str) -> pa.Table:
        self.versions.run(f"CREATE OR REPLACE TEMP VIEW {UPSTREAM} AS SELECT * FROM {after} WHERE {_LIVE}")
        rows = self._stored(self.versions.ask(self.summary.all_sql))
        names = list(self.summary.group)
        own = self.versions.table(self.owner.address, self.owner.version)
        made = self._with_gone(rows, f"SELECT {', '.join(map(quoted, names))} FROM {own}", names)
        self.versions.keep(self.owner.address, self.owner.version)
        return made

    def _stored(self, rows: pa.Table) -> pa.Table:
        """As the table stores them. Raises SummaryFailed for what Delta would alter."""
        stored = rows.select(self.summary.schema.names).cast(self.summary.schema)
        for name in self.summary.partition_by:
            column = stored.column(name)
            if pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py():
                cause = f"the partition column {name} is '', which Delta stores as NULL; NULLIF({name}, '') says so in the SQL"
                raise SummaryFailed(self.summary.name, self.summary.upstream, self.owner.version, cause)
        return stored

    def _with_gone(self, rows: pa.Table, groups: str, names: list[str]) -> pa.Table:
        """``rows``, and of ``groups``, SQL that gives ``names``, those that have no row any more."""
        same = " AND ".join(
            f"made.{quoted(column)} IS NOT DISTINCT FROM known.{name}"
            for column, name in zip(self.summary.group, map(quoted, names), strict=True)
        )
        gone = self.versions.ask(f"SELECT * FROM ({groups}) AS known WHERE NOT EXISTS (SELECT 1 FROM made WHERE {same})", made=rows)
        kept = dict(zip(self.summary.group, gone.columns, strict=True))
        nothing = [kept[f.name].cast(f.type) if f.name in kept else pa.nulls(gone.num_rows, f.type) for f in self.summary.schema]
        both = pa.concat_tables([rows, pa.table(nothing, schema=self.summary.schema)])
        flags = pa.concat_arrays([pa.repeat(pa.scalar(False), rows.num_rows), pa.repeat(pa.scalar(True), gone.num_rows)])
        return both.append_column(pa.field(DELETED, pa.bool_()), flags)
