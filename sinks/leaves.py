"""The files of an upsert table: each holds the keys of one range, sorted, so that a key can lie in one file only.

Like the leaves of a B-tree: a commit rewrites the leaves that its keys fall into, and a leaf that has grown too large becomes several.
What another program has written is no leaf, because nothing says that it is sorted or in a range of its own: its rows are merged anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from flows.batch import fitted
from flows.database import Cursor
from sinks.address import TableAddress
from sinks.compaction import LiveFile, live_files
from sinks.files import OldFile
from sinks.keys import Keys
from sinks.storage import readable
from sinks.table import open_table

PREFIX = "leaf"
Values = tuple[tuple[str, str | None], ...]  # of the partition columns


@dataclass(frozen=True, slots=True)
class Leaf:
    """A file with the keys from ``low``, its first, up to the next leaf's."""

    file: OldFile
    low: bytes


@dataclass(slots=True)
class Leaves:
    """The files of a table's ``version``: ``leaves`` of each partition by their lower bounds; ``others``, which kappa has not sorted."""

    version: int
    leaves: dict[Values, list[Leaf]] = field(default_factory=dict)
    others: dict[Values, list[OldFile]] = field(default_factory=dict)

    @classmethod
    def read(cls, address: TableAddress, version: int, keys: Keys, cursor: Cursor) -> Leaves:
        """Look at the first row of each file. Raises TableUnreadable."""
        found = cls(version)
        first: list[tuple[Values, OldFile, pa.Table]] = []
        table = open_table(address, version)
        schema = pa.schema(table.schema().to_arrow())
        for file in live_files(table):
            old = OldFile(file.path, dict(file.partition), file.nbytes)
            if not PurePosixPath(file.path).name.startswith(f"{PREFIX}-"):
                found.others.setdefault(file.partition, []).append(old)
            elif file.rows:
                first.append((file.partition, old, _first_row(address, file, schema)))
        lows = keys.of(pa.concat_tables([row for *_, row in first]), cursor) if first else []
        for (values, old, _), low in zip(first, lows, strict=True):
            found.leaves.setdefault(values, []).append(Leaf(old, low))
        for leaves in found.leaves.values():
            leaves.sort(key=lambda leaf: leaf.low)
        return found

    def replace(self, version: int, replaced: Sequence[OldFile], added: Mapping[Values, Sequence[Leaf]]) -> None:
        """What a commit has done to them."""
        gone = {old.path for old in replaced}
        self.version = version
        self.others = {values: kept for values, files in self.others.items() if (kept := [each for each in files if each.path not in gone])}
        for values in {*self.leaves, *added}:
            stay = [leaf for leaf in self.leaves.get(values, ()) if leaf.file.path not in gone]
            self.leaves[values] = sorted([*stay, *added.get(values, ())], key=lambda leaf: leaf.low)


def _first_row(address: TableAddress, file: LiveFile, schema: pa.Schema) -> pa.Table:
    stored = pa.schema([field for field in schema if field.name not in dict(file.partition)])
    with pq.ParquetFile(readable(address.folder / unquote(file.path)), pre_buffer=False) as opened:
        row = pa.Table.from_batches([next(opened.iter_batches(batch_size=1, use_threads=False))])
    return fitted(row, stored).cast(stored)


def route(leaves: Sequence[Leaf], keys: pa.BinaryArray) -> list[tuple[Leaf | None, int, int]]:
    """(leaf, start, end) of the leaves that ``keys``, sorted, fall into; no leaf for the keys of a partition that has none.

    What is below the first leaf belongs to it.
    """
    if not leaves:
        return [(None, 0, len(keys))]
    cuts = [0, *(bisect_left(range(len(keys)), leaf.low, key=lambda i: keys[i].as_py()) for leaf in leaves[1:]), len(keys)]
    return [(leaf, start, end) for leaf, (start, end) in zip(leaves, pairwise(cuts), strict=True) if end > start]
