"""A new generation that begins with the rows of another one: the same files under names of its own, whatever columns it has besides."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import msgspec
import pyarrow.parquet as pq

from flows.faults import reach
from sinks.address import TableAddress
from sinks.files import WrittenFile
from sinks.history import commits
from sinks.log import Action, DeltaLog
from sinks.owner import CommitInfo, Owner
from sinks.record import Partition
from sinks.storage import link, readable


def adopt(owner: Owner, old: TableAddress, until: Mapping[Partition, int]) -> CommitInfo | None:
    """Commit the rows of ``old`` to a generation that has none, in one commit, with the ledger that they have there.

    Of ``old``, whose columns the new one has all, the newest version that ends at or below ``until``. None when no such version can be
    read any more: then nothing is done. Raises what ``Owner.commit`` raises.
    """
    assert not owner.totals, "only a generation without rows takes those of another one"
    for commit in commits(old):
        record = commit.record
        if record is None or any(end > until.get(place, 0) for place, end in record.positions.items()):
            continue
        if not commit.readable:
            return None
        adds = live_adds(DeltaLog(old.folder), commit.version)
        try:
            for add in adds:
                name = unquote(add["path"])
                link(old.folder / name, owner.address.folder / name)
        except FileNotFoundError:
            return None  # vacuum was first; the links that were made go with the next vacuum of the new generation
        reach("before-adopt")
        return owner.commit([_file(owner.address, add) for add in adds], record.totals, tombstones=record.tombstones)
    return None


def _file(address: TableAddress, add: Action) -> WrittenFile:
    stats = add.get("stats")
    if not stats:  # another program's
        footer = pq.read_metadata(readable(address.folder / unquote(add["path"])))
        stats = msgspec.json.encode({"numRecords": footer.num_rows}).decode()
    return WrittenFile(add["path"], add["partitionValues"], msgspec.json.decode(stats)["numRecords"], add["size"], stats)


def live_adds(log: DeltaLog, version: int) -> list[Action]:
    """Delta's ``add`` actions of the files that a version has, in the order of the log: as in the protocol, from the last checkpoint on."""
    checkpoint = max((number for number in log.checkpoints() if number <= version), default=-1)
    live: dict[str, Action] = {}
    if checkpoint >= 0:
        path = log.path / f"{checkpoint:020}.checkpoint.parquet"
        with pq.ParquetFile(readable(path), pre_buffer=False) as opened:
            for add in opened.read(columns=["add"]).column("add").to_pylist(maps_as_pydicts="strict"):
                if add is not None:
                    live[add["path"]] = add
    for number in range(checkpoint + 1, version + 1):
        for action in log.read(number) or ():
            if "add" in action:
                live[action["add"]["path"]] = action["add"]
            elif "remove" in action:
                live.pop(action["remove"]["path"], None)
    return sorted(live.values(), key=lambda add: int(add["modificationTime"]))
