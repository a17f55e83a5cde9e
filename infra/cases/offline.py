"""A session without Kafka: real tables in a temporary storage root, made of records at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from connectors.extent import Extent
from connectors.guard import Log
from connectors.memory import RecordsSource
from flows.batch import Position
from flows.contract import Source
from flows.control import RunControl
from flows.ledger import LogIdentity
from flows.project import Project
from infra.metadata import Mirror
from infra.run.feed import Feed
from infra.run.selection import Target
from infra.run.session import Session


class AtHand:
    """Stands for a topic of one partition that nobody else writes to."""

    def __init__(self, topic: str) -> None:
        self.identity = LogIdentity("test", {topic: topic})
        self.partitions = frozenset({0})
        self.held: Callable[[], Iterable[Position]] = tuple

    def consumed(self) -> None:
        """Nobody asks."""

    def verify(self) -> None:
        """It is what it was."""


@dataclass(slots=True)
class OfflineFeed(Feed):
    """Feeds tables from ``records``."""

    records: pa.RecordBatch = field(kw_only=True)

    def read(self, starts: Mapping[int, int], until: Mapping[int, int] | None) -> RecordsSource:
        """All records: the tables are new."""
        return RecordsSource(self.source.topic, self.records)


class Offline(Session):
    """Makes every table of a project from ``records`` (source -> RECORDS)."""

    def __init__(self, project: Project, control: RunControl, records: Mapping[str, pa.RecordBatch]) -> None:
        super().__init__(project, control, Mirror(None, warehouse=project.settings.name), config={})
        self._records = records

    def make(self) -> None:
        """Errors go to ``control``."""
        self.recorded(self._make)

    def _make(self) -> None:
        self.use_live()
        with ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            self.open_live(list(self.definitions), pool)
            with self.refreshing(list(self.definitions), pool):
                for feed in self.feeds:
                    feed.run(until=None)

    def log(self, source: Source, targets: list[Target]) -> tuple[Log, Extent]:
        """The records at hand."""
        end = {0: self._records[source.name].num_rows}
        return AtHand(source.topic), Extent({0: 0}, end, end)

    def feed(self, **parts: Any) -> Feed:
        """Over the records at hand."""
        return OfflineFeed(**parts, records=self._records[parts["source"].name])
