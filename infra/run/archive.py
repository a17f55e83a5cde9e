"""Which generations of a source's raw table stand for what its topic no longer holds."""

from __future__ import annotations

from collections.abc import Mapping

from flows.ledger import LogIdentity
from sinks.address import TableAddress
from sinks.archive import RawArchive
from sinks.catalog import Catalog

BATCH_BYTES = 16 * 1024 * 1024
MEMORY_BYTES = 256 * 1024 * 1024


def archive_of(catalog: Catalog, source: str, topic: str, identity: LogIdentity, low: Mapping[int, int]) -> RawArchive | None:
    """The archive of a topic whose partitions begin at ``low``; None when they begin at 0, or nothing is kept of what was before.

    Raises TableUnreadable.
    """
    if not any(low.values()):
        return None
    table = f"raw.{source}"
    generations = [TableAddress(catalog.root, table, generation) for generation in catalog.generations(table)]
    return RawArchive.open(generations, topic, identity, low, BATCH_BYTES, MEMORY_BYTES)
