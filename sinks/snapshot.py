"""One consistent look at a whole storage root: the catalogue, and the cut of its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from sinks.address import TableAddress
from sinks.catalog import Catalog, TableEntry
from sinks.cut import Cut, Held, Undecided, Vector, compute_cut
from sinks.history import commits
from sinks.log import DeltaLog
from sinks.record import CommitRecord
from sinks.table import open_table

_FEW = 8


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``n``: the catalogue's number; ``tables``: live generations by name; ``views``: name -> SQL; ``cut``: what to read of each table."""

    root: str
    n: int
    tables: Mapping[str, TableEntry]
    views: Mapping[str, str]
    cut: Cut

    def address(self, table: str) -> TableAddress:
        return TableAddress(self.root, table, self.tables[table].generation)


def take_snapshot(root: str) -> Snapshot:
    """Read the catalogue and compute the cut. Tables that are in the catalogue and not made yet are left out."""
    state = Catalog(root).read()
    addresses = [TableAddress(root, name, entry.generation) for name, entry in state.tables.items()]
    addresses = [address for address in addresses if (address.folder / "_delta_log").is_dir()]
    unreadable: dict[str, int] = {}
    while True:
        cut = _cut(addresses, unreadable)
        gone = {
            address.name: version
            for address in addresses
            if (version := cut.versions[address.name]) != DeltaLog(address.folder).versions()[-1] and not _readable(address, version)
        }
        if not gone:
            tables = {address.name: state.tables[address.name] for address in addresses}
            return Snapshot(root, state.n, tables, state.views, cut)
        unreadable |= gone


def _cut(addresses: list[TableAddress], unreadable: Mapping[str, int]) -> Cut:
    """From the newest versions of every table when they decide, else from all that the logs hold."""
    try:
        return compute_cut([held(address, _FEW, unreadable.get(address.name, -1)) for address in addresses])
    except Undecided:
        return compute_cut([held(address, None, unreadable.get(address.name, -1)) for address in addresses])


def held(address: TableAddress, limit: int | None = None, after: int = -1) -> Held:
    """About ``limit`` of the newest readable versions above ``after``, with their positions.

    A commit of another program has the positions of the one before it.
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
    failure = newest.failure if newest else None
    return Held(address.name, versions[::-1] or [(foreign[0], {})], failure.cause if failure else None, complete)


def _covered(record: CommitRecord) -> Vector:
    return {place: span.end for place, span in record.totals.items() if span.end > span.start}


def _readable(address: TableAddress, version: int) -> bool:
    """Whether a version that is not the newest still has all of its files: vacuum removes those of versions older than the retention."""
    table = open_table(address, version)
    return all((Path(address.folder) / unquote(uri.removeprefix(address.uri).lstrip("/"))).exists() for uri in table.file_uris())
