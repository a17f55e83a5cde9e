"""A topic whose early segments Kafka's retention has really deleted replays to the same tables as one that still has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType
from deltalake import DeltaTable

import infra.stack.kafka
from infra.stack.local import LocalStack
from tests.conftest import HEAP_MB
from tests.inprocess import audit, kappa, wait_until
from tests.warehouse import Warehouse, event, write_folder

pytestmark = pytest.mark.slow
SETTINGS = "[run]\ncommit_rows = 50\n[maintenance]\nretention_s = 0\ncompact_files = 2\n"
TABLES = (
    "raw.events",
    "staging.events",
    "staging.events__rejected",
    "core.event",
    "core.tag",
    "core.slot",
    "analytics.corner",
    "analytics.tally",
)
OLD_S, NEW_S, RETENTION_S = (
    -600.0,
    1800.0,
    1.0,
)  # of records, from now on; transactions' markers are of now


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One of this module's own, which looks for what retention takes twice a second instead of every five minutes."""
    properties = infra.stack.kafka._PROPERTIES
    infra.stack.kafka._PROPERTIES = f"{properties.rstrip()}\nlog.retention.check.interval.ms=500\nlog.initial.task.delay.ms=500\n"
    stack = LocalStack(tmp_path_factory.mktemp("retention"), kafka_heap_mb=HEAP_MB)
    try:
        stack.up(postgres=False)
        assert stack.kafka.bootstrap_servers is not None
        yield stack.kafka.bootstrap_servers
    finally:
        stack.down()
        infra.stack.kafka._PROPERTIES = properties


class Twins:
    """Two warehouses whose topics get the same records at the same offsets; of the first, retention takes some."""

    def __init__(self, root: Path, broker: str, name: str) -> None:
        self.admin = AdminClient({"bootstrap.servers": broker})
        self.both = [Warehouse(root / which, broker, f"{name}-{which}", 2) for which in ("short", "long")]
        for warehouse in self.both:
            settings = SETTINGS + f'[kafka]\nbootstrap_servers = "{broker}"\n'
            write_folder(warehouse.folder, warehouse.topic, settings=settings)
            config = {"segment.ms": "1000", "retention.ms": "-1"}
            self.admin.create_topics([NewTopic(warehouse.topic, 2, 1, config=config)])[warehouse.topic].result(30)
        self.short, self.long = self.both

    def send(self, first: int, count: int, age_s: float) -> None:
        """Events in two transactions with an aborted one between them, all with the same time in both topics."""
        at_ms = round((time.time() + age_s) * 1000)
        for warehouse in self.both:
            producer = Producer({"bootstrap.servers": warehouse.bootstrap, "transactional.id": warehouse.topic, "linger.ms": 0})
            producer.init_transactions()
            half = first + count // 2
            for numbers, keep in ((range(first, half), True), (range(10_000, 10_040), False), (range(half, first + count), True)):
                producer.begin_transaction()
                for number in numbers:
                    value, key = event(number), b"%d" % number
                    producer.produce(warehouse.topic, value, key=key, partition=number % 2, timestamp=at_ms + number)
                producer.flush(30)
                producer.commit_transaction() if keep else producer.abort_transaction()

    def run(self, *command: str) -> None:
        for warehouse in self.both:
            kappa(warehouse.folder, *(command or ("run", "--until-caught-up")))

    def raw(self, on: bool) -> None:
        for warehouse in self.both:
            path = warehouse.folder / "sources/events.toml"
            text = path.read_text().removeprefix("raw = false\n")
            path.write_text(text if on else f"raw = false\n{text}")

    def expire(self, above: int = 0) -> None:
        """Let retention take the old segments of the first topic, and wait until both partitions begin above an offset."""
        self._retain(str(round(RETENTION_S * 1000)))
        wait_until(lambda: min(self.low()) > above, 60)
        self._retain("-1")

    def low(self) -> list[int]:
        """Where the partitions of the first topic begin."""
        consumer = Consumer({"bootstrap.servers": self.short.bootstrap, "group.id": "low"})
        try:
            return [consumer.get_watermark_offsets(TopicPartition(self.short.topic, p), 10)[0] for p in range(2)]
        finally:
            consumer.close()

    def _retain(self, ms: str) -> None:
        entry = ConfigEntry("retention.ms", ms, incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, self.short.topic, incremental_configs=[entry])
        self.admin.incremental_alter_configs([resource])[resource].result(30)

    def check(self) -> None:
        """All tables hold the same rows, at the same positions."""
        for table in TABLES:
            one, other = (rows(warehouse, table) for warehouse in self.both)
            assert one == other, table
        assert rows(self.short, "core.event")


def rows(warehouse: Warehouse, table: str) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "_timestamp"} for row in warehouse.rows(table)]


def archived(warehouse: Warehouse) -> DeltaTable:
    """The generation of the raw table that reaches back furthest."""
    tables = [DeltaTable(path) for path in (warehouse.folder / "data/raw/events").iterdir()]
    return min(tables, key=lambda table: min(offsets(table)))


def offsets(table: DeltaTable) -> list[int]:
    found: list[int] = table.to_pyarrow_table().column("_offset").to_pylist()
    return found


def generations(warehouse: Warehouse) -> set[str]:
    return {entry["generation"] for entry in warehouse.catalogue()["tables"].values()}


@pytest.fixture
def twins(broker: str, tmp_path: Path, topic_name: str) -> Twins:
    return Twins(tmp_path, broker, topic_name)


def test_a_replay_over_what_retention_has_deleted_gives_the_same_tables(twins: Twins) -> None:
    """Also with raw switched off and on again, a compacted raw table, aborted transactions, and cleaned-up Delta logs."""
    twins.send(1, 300, OLD_S)
    twins.run()
    twins.raw(on=False)
    twins.run("apply", "--yes")
    twins.send(301, 100, NEW_S)
    twins.run()
    twins.expire()
    twins.raw(on=True)
    twins.run()
    twins.send(401, 100, NEW_S + 10)
    twins.run()
    twins.run("maintain")
    before = generations(twins.short)
    raw = archived(twins.short)
    assert raw.version() > len(raw.file_uris()), "it was not compacted"
    assert not (Path(raw.table_uri) / f"_delta_log/{0:020}.json").exists(), "its log was not cleaned up"
    first, last = min(offsets(raw)), max(offsets(raw))
    assert first == 0
    assert last >= max(twins.low()), "the topic and the archive have to meet"
    said = [kappa(warehouse.folder, "replay", "events") for warehouse in twins.both]
    for partition, low in enumerate(twins.low()):
        kept = f"{twins.short.topic}/{partition} begins at offset {low}: what was before, from 0, is read from raw.events"
        assert kept in said[0]
    assert "is read from raw" not in said[1]
    assert not generations(twins.short) & before
    twins.check()
    assert not audit(twins.short.folder, "--full")
    twins.send(501, 50, NEW_S + 20)
    twins.run()
    twins.check()
    path = "core/event.sql"
    for warehouse in twins.both:
        (warehouse.folder / path).write_text((warehouse.folder / path).read_text().replace("amount * 2", "amount * 3"))
    twins.run("apply", "--yes")
    twins.check()


def test_a_gap_that_nothing_covers_is_named_and_refused(twins: Twins) -> None:
    """raw was off when its part of the log was written, and when retention took that."""
    twins.send(1, 100, OLD_S)
    twins.run()
    twins.raw(on=False)
    twins.run("apply", "--yes")
    twins.send(101, 100, OLD_S)
    twins.run()
    (generation,) = (twins.short.folder / "data/raw/events").iterdir()
    covered = DeltaTable(generation).to_pyarrow_table().column("_offset").to_pylist()
    twins.send(201, 50, NEW_S)
    twins.run()
    twins.expire(above=max(covered) + 1)
    twins.raw(on=True)
    twins.run()  # raw begins anew: nothing of it was live
    assert len(list((twins.short.folder / "data/raw/events").iterdir())) == 2
    before = twins.short.catalogue()
    said = kappa(twins.short.folder, "replay", "core.event", status=1)
    low = twins.low()
    assert "would lose records" in said
    assert f"{twins.short.topic}/0/0..{low[0]}" in said
    assert "--accept-lost" in said
    assert twins.short.catalogue() == before
    kappa(twins.long.folder, "replay", "core.event")
