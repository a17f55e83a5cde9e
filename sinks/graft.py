"""Replacing the rows of ranges of positions in an append table by those of another build, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.batch import fitted
from sinks.address import TableAddress
from sinks.compaction import LiveFile, live_files
from sinks.files import FileWriter, OldFile, WrittenFile
from sinks.owner import CommitInfo, Owner
from sinks.record import Partition
from sinks.storage import readable
from sinks.table import open_table

Ranges = Mapping[Partition, tuple[int, int]]


def graft(owner: Owner, built: TableAddress, ranges: Ranges, *, durable: bool) -> CommitInfo:
    """Commit to the owner's table: its rows at positions in ``ranges``, half-open, go; those of ``built`` come. A file is held at a time.

    ``built`` has rows at these positions alone. Raises what ``Owner.commit`` raises; files that no commit names are deleted then.
    """
    version = owner.version
    table = open_table(owner.address, version)
    writer = FileWriter(owner.address, pa.schema(table.schema().to_arrow()), table.metadata().partition_columns, durable=durable)
    written: list[WrittenFile] = []
    replaced: list[OldFile] = []
    try:
        for file in live_files(table):
            if (left := _outside(owner.address, file, ranges, writer.stored)) is not None:
                replaced.append(OldFile(file.path, dict(file.partition), file.nbytes))
                written += _written(writer, file, left)
        for file in live_files(open_table(built)):
            written += _written(writer, file, _read(built, file))
        return owner.commit(written, {}, replaced=replaced, basis=version, replaces=ranges)
    except BaseException:
        for each in written:
            (owner.address.folder / unquote(each.path)).unlink(missing_ok=True)
        raise


def _outside(address: TableAddress, file: LiveFile, ranges: Ranges, schema: pa.Schema) -> pa.Table | None:
    """The rows of a file that lie outside of ``ranges``; None when all of them do. ``schema``: of the files."""
    columns = ["_offset"] if "_partition" in dict(file.partition) else ["_partition", "_offset"]
    places = _read(address, file, columns)
    offsets = places.column("_offset").to_numpy()
    named = dict(file.partition).get("_partition")
    partitions = np.full(len(offsets), int(named)) if named is not None else places.column("_partition").to_numpy()
    inside = np.zeros(len(offsets), dtype=bool)
    for (_, partition), (start, end) in ranges.items():
        inside |= (partitions == partition) & (offsets >= start) & (offsets < end)
    if not inside.any():
        return None
    rows = _read(address, file)
    return fitted(rows, schema).cast(schema).filter(pc.invert(pa.array(inside)))  # views of text cannot be filtered


def _read(address: TableAddress, file: LiveFile, columns: list[str] | None = None) -> pa.Table:
    return pq.ParquetFile(readable(address.folder / unquote(file.path))).read(columns=columns)


def _written(writer: FileWriter, file: LiveFile, rows: pa.Table) -> list[WrittenFile]:
    if not rows.num_rows:
        return []
    with writer.open(dict(file.partition)) as made:
        made.write(fitted(rows, made.schema).cast(made.schema))
    return [made.written]
