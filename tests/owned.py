"""A small table with an owner, for the tests of sinks/. Rows are read back by plain pyarrow, which shares no code with kappa."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow.fs import S3FileSystem

from flows.batch import SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.owner import CommitInfo, Owner

TOPIC = "flights"
SCHEMA = pa.schema([pa.field("text", pa.string()), *SYSTEM])
LOG = LogIdentity("cluster-1", {TOPIC: "topic-1"})


def address(root: Path | str, name: str = "core.flight") -> TableAddress:
    return TableAddress(str(root), name, "3f9a0c12b7de-1")


def run(pid: int = 1) -> RunIdentity:
    return RunIdentity("host", pid, f"2026-11-22T18:00:{pid % 60:02}.000000Z")


def claim(table: TableAddress, pid: int = 1, log: LogIdentity = LOG, **settings: object) -> Owner:
    return Owner.claim(table, SCHEMA, [], run(pid), log, **settings)


def rows(partition: int, offsets: range) -> pa.Table:
    return pa.table(
        {
            "text": [f"{partition}/{o}" for o in offsets],
            "_partition": [partition] * len(offsets),
            "_offset": list(offsets),
            "_timestamp": [None] * len(offsets),
        },
        schema=SCHEMA,
    )


def span(offsets: range, rejected: int = 0) -> Span:
    return Span(offsets.start, offsets.stop, len(offsets), len(offsets) - rejected, 0, rejected)


def commit(owner: Owner, offsets: range, partition: int = 0) -> CommitInfo:
    """Commit one row an offset."""
    files = FileWriter(owner.address, SCHEMA).write(rows(partition, offsets))
    return owner.commit(files, {(TOPIC, partition): span(offsets)})


def stored(table: TableAddress) -> Counter[tuple[int, int]]:
    """How often the table holds each (partition, offset)."""
    found: Counter[tuple[int, int]] = Counter()
    folder, filesystem = table.uri, None
    if options := table.storage_options:
        folder, filesystem = (
            table.uri.removeprefix("s3://"),
            S3FileSystem(
                access_key=options["AWS_ACCESS_KEY_ID"],
                secret_key=options["AWS_SECRET_ACCESS_KEY"],
                endpoint_override=options["AWS_ENDPOINT_URL"],
            ),
        )
    for uri in opened(table).file_uris():
        path = folder + uri.partition(table.path)[2]
        part = pq.read_table(path, columns=["_partition", "_offset"], partitioning=None, filesystem=filesystem).to_pydict()
        found.update(zip(part["_partition"], part["_offset"], strict=True))
    return found


def opened(table: TableAddress) -> DeltaTable:
    """The table as deltalake opens it."""
    return DeltaTable(table.uri, storage_options=table.storage_options)


def txns(table: TableAddress, partitions: int = 1) -> dict[int, int | None]:
    """Partition -> position in Delta's own transactions."""
    delta = opened(table)
    return {p: delta.transaction_version(f"kappa/{table.name}/{table.generation}/{TOPIC}/{p}") for p in range(partitions)}
