"""Tables in a storage root, committed by the real owner, without Kafka."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from flows.batch import SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry
from sinks.files import FileWriter
from sinks.owner import CommitInfo, Owner

TOPIC = "t"
LOG = LogIdentity("cluster-1", {TOPIC: "topic-1"})
RUN = RunIdentity("host", 1, "2026-01-01T00:00:00.000000Z")
SCHEMA = pa.schema([pa.field("n", pa.int64()), *SYSTEM])
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Table:
    """A table and its owner."""

    owner: Owner
    schema: pa.Schema
    partition_by: Sequence[str] = ()

    def rows(self, partition: int, offsets: Sequence[int]) -> pa.Table:
        """One row a position: integers hold the offset, texts the column's name and the offset, all other columns null."""
        columns = []
        for column in self.schema:
            if column.name in SYSTEM.names:
                values: list[object] = {"_partition": [partition], "_offset": [], "_timestamp": [AT]}[column.name] * len(offsets) or list(
                    offsets
                )
            elif pa.types.is_integer(column.type):
                values = list(offsets)
            elif pa.types.is_string(column.type):
                values = [f"{column.name} {offset}" for offset in offsets]
            else:
                values = [None] * len(offsets)
            columns.append(pa.array(values, column.type))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def commit(
        self,
        parts: Mapping[int, tuple[int, int, Sequence[int]]],
        filtered: int = 0,
        rejected: int = 0,
        warned: Mapping[str, int] | None = None,
    ) -> CommitInfo:
        """``parts``: partition -> (start, end, offsets written); ``filtered`` and ``rejected`` are counted in each."""
        spans = {}
        files = []
        for partition, (start, end, offsets) in parts.items():
            written = len(set(offsets))
            spans[TOPIC, partition] = Span(start, end, written + filtered + rejected, written, filtered, rejected)
            files += FileWriter(self.owner.address, self.schema, self.partition_by).write(self.rows(partition, offsets)) if offsets else []
        return self.owner.commit(files, spans, warned)


@dataclass
class Root:
    """A storage root with a catalogue. ``log``: what tables that are made next are read from."""

    path: Path | str
    tables: dict[str, Table] = field(default_factory=dict)
    log: LogIdentity = LOG

    def __post_init__(self) -> None:
        self.catalog = Catalog(str(self.path))
        self.catalog.create("test")

    def table(
        self,
        name: str,
        schema: pa.Schema = SCHEMA,
        partition_by: Sequence[str] = (),
        fingerprint: str = "0123456789ab",
        definition: Mapping[str, object] | None = None,
    ) -> Table:
        """Make, claim and publish a table."""
        generation = self.catalog.new_generation(name, fingerprint, definition or {"name": name})
        address = TableAddress(str(self.path), name, generation)
        self.tables[name] = Table(Owner.claim(address, schema, partition_by, RUN, self.log), schema, partition_by)
        entry = TableEntry("append", generation, address.path)
        self.catalog.publish(lambda state: state.replace(tables={**state.tables, name: entry}), "test")
        return self.tables[name]

    def view(self, name: str, sql: str) -> None:
        self.catalog.publish(lambda state: with_view(state, name, sql), "test")


def with_view(state: CatalogState, name: str, sql: str) -> CatalogState:
    return state.replace(views={**state.views, name: sql})
