"""Which tables a run asks about positions that were rejected before it began."""

from __future__ import annotations

from collections.abc import Mapping

from flows.fingerprint import Definition
from infra.run.feed import Feed
from infra.run.selection import REJECTED
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.rejects import StoredRejects


def stored_rejects(feed: Feed, root: str, definitions: Mapping[str, Definition], catalog: Catalog) -> StoredRejects:
    """The generations of staging.<source> and its rejects that this run feeds; those that are live, with the same definition, otherwise."""
    own = {fed.target.name: fed.owner.address for fed in feed.fed}
    live = catalog.read().tables

    def address(name: str) -> TableAddress | None:
        entry = live.get(name)
        same = entry is not None and entry.generation.partition("-")[0] == definitions[name].fingerprint
        return own.get(name, TableAddress(root, name, entry.generation) if entry is not None and same else None)

    staging = f"staging.{feed.source.name}"
    return StoredRejects(feed.source.topic, address(staging), address(f"{staging}{REJECTED}"), feed.extent.low)
