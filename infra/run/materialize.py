"""Materialized tables: made by DuckDB from one cut, as a whole, when what they read has moved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from urllib.parse import unquote

import pyarrow as pa

from flows.batch import Failure
from flows.control import RunControl
from flows.errors import KappaError
from flows.faults import reach
from flows.ledger import LogIdentity, RunIdentity
from flows.materialized import Materialized
from flows.settings import MaintenanceSettings
from infra.run.selection import Target
from sinks.address import TableAddress
from sinks.catalog import CatalogState
from sinks.compaction import live_files
from sinks.cut import LeftOut
from sinks.files import FileWriter, OldFile, WrittenFile
from sinks.history import newest
from sinks.maintenance import Maintenance
from sinks.owner import CommitInfo, Owner
from sinks.record import CommitRecord, ReadVersion, same_cut
from sinks.sink import write_failure
from sinks.snapshot import Snapshot, take_snapshot
from sinks.table import open_table
from sinks.warehouse import Warehouse


class Materializer:
    """Makes materialized tables for one run. One thread at a time, but for ``interrupt``."""

    def __init__(
        self,
        root: str,
        settings: MaintenanceSettings,
        run: RunIdentity,
        control: RunControl,
        pool: Executor,
        duckdb_bytes: int,
        committed: Callable[[Target, CommitInfo], None],
    ) -> None:
        self._root = root
        self._settings = settings
        self._run = run
        self._control = control
        self._pool = pool
        self._duckdb_bytes = duckdb_bytes
        self._committed = committed
        self._owned: dict[TableAddress, tuple[Owner, Maintenance]] = {}
        self._waits: dict[str, str] = {}
        self._asking: Warehouse | None = None

    def refresh(self, target: Target, state: CatalogState) -> bool:
        """Make the table from the cut of ``state``, unless it holds these rows already. Returns whether it does now.

        It does not when a table that it reads is not there, or off the cut; then it stays as it is. An error is the table's failure, and
        goes to the control, or ends the run.
        """
        table = target.definition.materialized
        assert table is not None
        address = TableAddress(self._root, target.name, target.generation)
        owner: Owner | None = None
        try:
            snapshot = take_snapshot(self._root, state)
            if (why := _off(table, snapshot)) is not None:
                self._wait(target.name, why)
                return False
            cut = cut_of(table, snapshot)
            last = newest(address)
            if last is None or not _holds(last.record, cut):
                owner = self._owner(address, target)
                self._make(target, table, owner, snapshot, cut)
            self._waits.pop(target.name, None)
        except Exception as error:  # noqa: BLE001 - errors are data: the other tables go on
            self._fail(target.name, owner, error)
            return False
        return True

    def interrupt(self) -> None:
        """End the query that is at work, from another thread."""
        if (asking := self._asking) is not None:
            asking.interrupt()

    def finish(self) -> None:
        """Give maintenance its end."""
        for owner, maintenance in self._owned.values():
            try:
                maintenance.finish(owner)
            except KappaError as error:
                self._fail(owner.address.name, None, error)

    def _owner(self, address: TableAddress, target: Target) -> Owner:
        if address not in self._owned:
            owner = Owner.claim(
                address,
                target.definition.schema,
                target.definition.partition_by,
                self._run,
                LogIdentity("", {}),  # it reads tables, whose own commits know their log
                retention_s=self._settings.retention_s,
                durable=self._settings.durable,
            )
            self._owned[address] = owner, Maintenance(self._settings, self._pool, compacts=False)
        return self._owned[address][0]

    def _make(self, target: Target, table: Materialized, owner: Owner, snapshot: Snapshot, cut: Mapping[str, ReadVersion]) -> None:
        basis = owner.version
        replaced = [OldFile(file.path, dict(file.partition), file.nbytes) for file in live_files(open_table(owner.address, basis))]
        files = self._write(target, table, owner, snapshot)
        reach("before-materialized")
        info = owner.commit(files, {}, replaced=replaced, basis=basis, cut=cut)
        self._committed(target, info)
        self._owned[owner.address][1].after_commit(owner)

    def _write(self, target: Target, table: Materialized, owner: Owner, snapshot: Snapshot) -> list[WrittenFile]:
        draft = FileWriter(owner.address, target.definition.schema, table.partition_by, durable=self._settings.durable).draft()
        seen = replace(snapshot, views=table.views)  # of its definition, whatever the catalogue has by now
        try:
            with Warehouse(self._root, self._duckdb_bytes, snapshot=seen) as warehouse:
                self._asking = warehouse
                for batch in warehouse.sql(table.rows_sql):
                    draft.write(pa.Table.from_batches([batch]).cast(target.definition.schema))
        except BaseException:
            for file in draft.finish():
                (owner.address.folder / unquote(file.path)).unlink(missing_ok=True)
            raise
        finally:
            self._asking = None
        return draft.finish()

    def _wait(self, table: str, why: str) -> None:
        if self._waits.get(table) != why:
            self._waits[table] = why
            self._control.notify(f"{table} stays as it is: {why}")

    def _fail(self, table: str, owner: Owner | None, error: Exception) -> None:
        if isinstance(error, KappaError) and error.stops_run:
            self._control.abort(error)
            return
        if self._control.stopped:
            return  # interrupted: the next run makes it
        failure = Failure.of(table, error)
        self._control.fail(failure)
        if owner is not None:
            write_failure(owner, failure, self._control)


def cut_of(table: Materialized, snapshot: Snapshot) -> dict[str, ReadVersion]:
    """What the table is a function of, at a snapshot that has all that it reads."""
    return {name: _read(snapshot, name) for name in table.tables}


def _read(snapshot: Snapshot, name: str) -> ReadVersion:
    version = snapshot.cut.versions[name]
    record = snapshot.record(name)
    positions = {} if record is None else {f"{topic}/{p}": offset for (topic, p), offset in sorted(record.positions.items())}
    return ReadVersion(snapshot.tables[name].generation, version, positions, (record.cut if record is not None else None) or {})


def _holds(record: CommitRecord | None, cut: Mapping[str, ReadVersion]) -> bool:
    return record is not None and record.failure is None and record.cut is not None and same_cut(record.cut, cut)


def _off(table: Materialized, snapshot: Snapshot) -> str | None:
    """Why the table cannot be made from a snapshot; None when it can."""
    for name in table.tables:
        if name in snapshot.lost:
            return f"{name} cannot be read: {snapshot.lost[name].cause}"
        if name not in snapshot.tables:
            return f"{name}, which it reads, is not live yet"
    off: list[LeftOut] = [each for each in snapshot.cut.left_out if each.table in table.tables and not each.empty]
    return str(off[0]) if off else None
