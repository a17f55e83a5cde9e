"""One consistent look at a whole storage root: the catalogue, and the cut of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa

from flows.errors import KappaError
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry
from sinks.cut import Cut, Held, Undecided, Vector, compute_cut
from sinks.errors import TableLost, TableUnreadable
from sinks.history import commits
from sinks.log import DeltaLog
from sinks.record import CommitRecord
from sinks.storage import all_exist
from sinks.table import open_table

_FEW = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``n``: the catalogue's number; ``tables``: live generations by name; ``views``: name -> SQL; ``cut``: what to read of each table;
    ``lost``: the tables that cannot be read, and why. They are not in ``tables``.
    """

    root: str
    n: int
    tables: Mapping[str, TableEntry]
    views: Mapping[str, str]
    cut: Cut
    lost: Mapping[str, KappaError]

    def address(self, table: str) -> TableAddress:
        return TableAddress(self.root, table, self.tables[table].generation)

    def record(self, table: str) -> CommitRecord | None:
        """The newest ledger at or before the table's version; None when there is none. Raises TableUnreadable."""
        for commit in commits(self.address(table)):
            if commit.version <= self.cut.versions[table] and commit.record is not None:
                return commit.record
        return None


def take_snapshot(root: str, state: CatalogState | None = None) -> Snapshot:
    """Read the catalogue and compute the cut, which tables that cannot be read have no part in. ``state``: another one in its place."""
    state = state or Catalog(root).read()
    addresses = {name: TableAddress(root, name, entry.generation) for name, entry in state.tables.items()}
    unreadable: dict[str, int] = {}
    lost: dict[str, KappaError] = {}
    while True:
        try:
            cut = _cut(list(addresses.values()), unreadable)
            gone = {name: version for name, version in cut.versions.items() if not is_readable(addresses[name], version)}
        except TableUnreadable as error:
            lost[error.table] = error
            del addresses[error.table]
            continue
        if not gone:
            return Snapshot(root, state.n, {name: state.tables[name] for name in addresses}, state.views, cut, lost)
        unreadable |= gone


def _cut(addresses: list[TableAddress], unreadable: Mapping[str, int]) -> Cut:
    """From the newest versions of every table when they decide, else from all that the logs hold."""
    try:
        return compute_cut([held(address, _FEW, unreadable.get(address.name, -1)) for address in addresses])
    except Undecided:
        return compute_cut([held(address, None, unreadable.get(address.name, -1)) for address in addresses])


def held(address: TableAddress, limit: int | None = None, after: int = -1) -> Held:
    """About ``limit`` of the newest readable versions above ``after``, with their positions.

    A commit of another program has the positions of the one before it. Raises TableUnreadable.
    """
    newest: CommitRecord | None = None
    versions: list[tuple[int, Vector]] = []
    foreign: list[int] = []
    complete = True
    for commit in commits(address):
        if versions and (commit.version <= after or not commit.readable):
            break
        if limit is not None and len(versions) >= limit:
            complete = False
            break
        foreign.append(commit.version)
        if commit.record is not None:
            newest = newest or commit.record
            versions += [(version, _covered(commit.record)) for version in foreign]
            foreign = []
    if not versions and not foreign:
        raise TableLost(address.name, address.folder)
    failure = newest.failure if newest else None
    apart = newest is not None and newest.cut is not None
    return Held(address.name, versions[::-1] or [(foreign[0], {})], failure.cause if failure else None, complete, apart)


def _covered(record: CommitRecord) -> Vector:
    return {place: span.end for place, span in record.totals.items() if span.end > span.start}


def is_readable(address: TableAddress, version: int) -> bool:
    """Whether a version still has all of its files: vacuum removes those of versions older than the retention, never the newest's.

    Raises TableUnreadable.
    """
    if DeltaLog(address.folder).versions()[-1:] == [version]:
        return True
    adds = pa.table(open_table(address, version).get_add_actions())
    return all_exist(address.folder, map(unquote, adds.column("path").to_pylist()))
