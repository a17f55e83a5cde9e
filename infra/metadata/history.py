"""The history of a warehouse: its catalogue files, its tables' Delta logs, and the topic ``kappa.loads``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from connectors.loads import TOPIC, Identity, read_loads
from connectors.topics import Admin, TopicMissing
from infra.metadata.records import Catalogue, Commit, Load
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.log import DeltaLog, info_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class GenerationLog:
    """The Delta log of a table generation (infra.metadata.TableLog)."""

    address: TableAddress

    @property
    def table(self) -> str:
        return self.address.name

    @property
    def generation(self) -> str:
        return self.address.generation

    def versions(self) -> list[int]:
        """Ascending; none for a generation that was never begun, or is deleted."""
        try:
            return self._log.versions()
        except FileNotFoundError:
            return []

    def read(self, version: int) -> Commit | None:
        """One version, also one that another program wrote; None when log cleanup was quicker."""
        actions = self._log.read(version)
        if actions is None:
            return None
        info = info_of(actions)
        adds = [action["add"] for action in actions if "add" in action]
        return Commit(
            self.table,
            self.generation,
            version,
            info.get("kappa"),
            files=len(adds),
            rows=sum(msgspec.json.decode(add["stats"]).get("numRecords", 0) for add in adds if add.get("stats")),
            bytes=sum(add["size"] for add in adds),
            at=_EPOCH + timedelta(milliseconds=info.get("timestamp", 0)),
        )

    @property
    def _log(self) -> DeltaLog:
        return DeltaLog(self.address.folder)


@dataclass(frozen=True, slots=True)
class WarehouseHistory:
    """Implements infra.metadata.History. ``kafka`` gives librdkafka's configuration when the loads are asked for."""

    root: str
    kafka: Callable[[], Mapping[str, str]]

    def catalogues(self) -> list[int]:
        """The numbers of the catalogue files, ascending."""
        return Catalog(self.root).numbers()

    def catalogue(self, n: int) -> Catalogue:
        """One catalogue file."""
        return Catalogue(n, Catalog(self.root).read(n).to_json())

    def logs(self) -> Iterator[GenerationLog]:
        """Every generation that has a definition, live or not."""
        catalog = Catalog(self.root)
        for table in catalog.defined():
            for generation in catalog.generations(table):
                yield GenerationLog(TableAddress(self.root, table, generation))

    def loads(self) -> Iterator[Load]:
        """What is committed to ``kappa.loads`` now; waits for no open transaction. Raises what connectors.loads.read_loads raises."""
        config = self.kafka()
        admin = Admin(config)
        try:
            admin.describe([TOPIC])
        except TopicMissing:  # nothing was ever loaded
            return
        found = read_loads(config, admin, wait=False)
        newest = set()
        for key, state in found.states.items():
            newest.add(state.load)
            yield Load.of(Identity(**msgspec.json.decode(key)), state)
        for load, (source, uri) in found.files.items():
            if load not in newest:
                yield Load(load, source, uri)
