"""A small warehouse for tests that run the real ``kappa`` in processes of its own, and a check that shares no code with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

SOURCE = """
topic = "{topic}"
format = "json"
key = ["id"]
partitions = {partitions}
[columns]
id = "bigint not null"
kind = "varchar"
amount = "decimal(12,2)"
tags = "varchar[]"
[rules.small]
check = "amount < 1000000"
"""
EVENT = """/* kind = "append" */
SELECT id, upper(kind) AS kind, amount * 2 AS twice FROM staging.events WHERE id % 5 <> 0
"""
TAG = """/* kind = "append" */
SELECT id, unnest(tags) AS tag FROM staging.events
"""
SLOT = """/*
kind = "upsert"
key = ["slot", "kind"]
sequence = "amount"
delete_when = "id % 13 = 0"
*/
SELECT id % 20 AS slot, kind, id FROM staging.events
"""
CORNER = """/* kind = "summary" */
SELECT kind, slot % 4 AS corner, count(*) AS slots, sum(id) AS ids, max(id) AS top, avg(id) AS mean FROM core.slot GROUP BY kind, corner
"""
TALLY = """/* kind = "summary" */
SELECT kind, count(*) AS events, sum(twice) AS total, avg(id) AS mean, arg_max(id, twice) AS top FROM core.event GROUP BY kind
"""
VIEW = """/* kind = "view" */
SELECT kind, count(*) AS events, sum(twice) AS total FROM core.event GROUP BY kind
"""


def write_folder(folder: Path, topic: str, partitions: int = 2, settings: str = "") -> None:
    """The definitions alone."""
    for part in ("sources", "core", "analytics"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "warehouse.toml").write_text(f'name = "test"\n{settings}')
    (folder / "sources/events.toml").write_text(SOURCE.format(topic=topic, partitions=partitions))
    (folder / "core/event.sql").write_text(EVENT)
    (folder / "core/tag.sql").write_text(TAG)
    (folder / "core/slot.sql").write_text(SLOT)
    (folder / "analytics/corner.sql").write_text(CORNER)
    (folder / "analytics/tally.sql").write_text(TALLY)
    (folder / "analytics/by_kind.sql").write_text(VIEW)


@dataclass
class Warehouse:
    """The folder of a warehouse with one source ``events``, two append tables, an upsert table, and summaries of both kinds."""

    folder: Path
    bootstrap: str
    topic: str
    partitions: int

    @classmethod
    def make(cls, folder: Path, bootstrap: str, topic: str, partitions: int = 2, settings: str = "") -> Warehouse:
        """Write the folder and make the topic."""
        write_folder(folder, topic, partitions, settings)
        admin = AdminClient({"bootstrap.servers": bootstrap})  # kept: a collected client takes its answers with it
        admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
        return cls(folder, bootstrap, topic, partitions)

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "KAPPA_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, **more}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "infra.cli", "-C", str(self.folder), *arguments]

    def kappa(self, *arguments: str, status: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; fail the test when its exit status is another."""
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=240, check=False, env=self.environment(**environment)
        )
        assert status is None or done.returncode == status, f"kappa {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command; its output goes to one pipe."""
        return subprocess.Popen(
            self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(**environment)
        )

    def produce(self, first: int, count: int) -> None:
        """``count`` events from id ``first``; every 97th is broken, every 89th breaks the rule."""
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 5})
        for number in range(first, first + count):
            producer.produce(self.topic, event(number), key=b"%d" % number, partition=number % self.partitions)
            if number % 1000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0

    # --- the independent check: plain consumer, plain JSON, plain deltalake

    def records(self) -> dict[tuple[int, int], bytes | None]:
        """(partition, offset) -> value of every committed record."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "independent",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        partitions = len(consumer.list_topics(self.topic, 10).topics[self.topic].partitions)
        consumer.assign([TopicPartition(self.topic, p, 0) for p in range(partitions)])
        seen: dict[tuple[int, int], bytes | None] = {}
        open_partitions = set(range(partitions))
        while open_partitions:
            for message in consumer.consume(10_000, 0.2):
                if message.error() is None:
                    seen[message.partition(), message.offset()] = message.value()
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(message.partition())
                else:
                    raise AssertionError(message.error())
        consumer.close()
        return seen

    def catalogue(self) -> dict[str, Any]:
        newest = max((self.folder / "data/_kappa/catalog").glob("[0-9]*.json"))
        content: dict[str, Any] = json.loads(newest.read_text())
        return content

    def delta(self, path: str) -> DeltaTable:
        """The table at a path of the catalogue."""
        return DeltaTable(str(self.folder / "data" / path))

    def rows(self, table: str) -> list[dict[str, Any]]:
        """All rows of the live generation, by position."""
        rows: list[dict[str, Any]] = self.delta(self.catalogue()["tables"][table]["path"]).to_pyarrow_table().to_pylist()
        if table.startswith("analytics."):
            return sorted(rows, key=lambda row: (row["kind"] is not None, row["kind"] or "", row.get("corner", 0)))
        return sorted(rows, key=lambda row: (row["_partition"], row["_offset"], row.get("_row") or 0))

    def check_independently(self) -> None:
        """Every record is in every table exactly as often as it must be."""
        expect: dict[str, list[tuple[Any, ...]]] = {"raw": [], "staging": [], "rejected": [], "event": [], "tag": []}
        slots: dict[tuple[int, str], tuple[Any, ...]] = {}
        for (partition, offset), value in sorted(self.records().items()):
            at = (partition, offset)
            expect["raw"].append((*at, value))
            row = valid(value)
            if row is None:
                expect["rejected"].append((*at, value))
                continue
            expect["staging"].append((*at, row["id"], row["kind"], row["amount"], row["tags"]))
            if row["id"] % 5 != 0:
                twice = None if row["amount"] is None else row["amount"] * 2
                expect["event"].append((*at, row["id"], row["kind"].upper(), twice))
            expect["tag"] += [(*at, row["id"], tag) for tag in row["tags"] or []]
            key, deleted = (row["id"] % 20, row["kind"]), row["id"] % 13 == 0
            version = (row["amount"], *at, *key, None if deleted else row["id"], deleted)
            slots[key] = max(slots.get(key, version), version, key=lambda version: version[:3])
        same("raw.events", pick(self.rows("raw.events"), "value"), expect["raw"])
        same("staging.events", pick(self.rows("staging.events"), "id", "kind", "amount", "tags"), expect["staging"])
        same("staging.events__rejected", pick(self.rows("staging.events__rejected"), "value"), expect["rejected"])
        same("core.event", pick(self.rows("core.event"), "id", "kind", "twice"), expect["event"])
        same("core.tag", pick(self.rows("core.tag"), "id", "tag"), expect["tag"])
        expect["slot"] = sorted(version[1:] for version in slots.values())
        same("core.slot", pick(self.rows("core.slot"), "slot", "kind", "id", "_deleted"), expect["slot"])
        same("analytics.corner", [tuple(row.values()) for row in self.rows("analytics.corner")], corners(slots.values()))
        tallied = [tuple(value for name, value in row.items() if name[0] != "_") for row in self.rows("analytics.tally")]
        same("analytics.tally", tallied, tallies(expect["event"]))


@contextmanager
def at_work(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the test does something; it does not outlive the test."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def event(number: int) -> bytes:
    """The value of an event."""
    if number % 97 == 0:
        return b'{"id": %d, "kind": ' % number
    amount = 2_000_000 if number % 89 == 0 else number % 1000
    tags = ",".join(f'"t{i}"' for i in range(number % 3))
    return b'{"id": %d, "kind": "k%d", "amount": %d.%02d, "tags": [%s]}' % (number, number % 7, amount, number % 100, tags.encode())


def valid(value: bytes | None) -> dict[str, Any] | None:
    """The typed row of a value, by Python's json alone; None when the contract refuses it."""
    if value is None:
        return None
    try:
        row: dict[str, Any] = json.loads(value, parse_float=Decimal)
    except (ValueError, InvalidOperation):
        return None
    return None if row["amount"] is not None and row["amount"] >= 1_000_000 else row


def corners(slots: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """analytics.corner of the latest row of each slot: (amount, partition, offset, slot, kind, id, deleted)."""
    groups: dict[tuple[str, int], list[int]] = {}
    for *_, slot, kind, number, deleted in slots:
        if not deleted:
            groups.setdefault((kind, slot % 4), []).append(number)
    return sorted((*group, len(ids), sum(ids), max(ids), sum(ids) / len(ids)) for group, ids in groups.items())


def tallies(events: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """analytics.tally of the rows of core.event: (partition, offset, id, kind, twice)."""
    groups: dict[str, list[tuple[Any, ...]]] = {}
    for row in events:
        groups.setdefault(row[3], []).append(row)
    return sorted(
        (
            kind,
            len(rows),
            sum(twice for *_, twice in rows),
            sum(row[2] for row in rows) / len(rows),
            max(rows, key=lambda row: (row[4], -row[0], -row[1]))[2],
        )
        for kind, rows in groups.items()
    )


def pick(rows: Iterable[dict[str, Any]], *columns: str) -> list[tuple[Any, ...]]:
    return [(row["_partition"], row["_offset"], *(row[column] for column in columns)) for row in rows]


def same(table: str, got: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    """Equal, with a message that shows the first difference instead of all rows."""
    if got == expected:
        return
    first = next((pair for pair in zip(got, expected, strict=False) if pair[0] != pair[1]), None)
    doubled = len(got) - len({row[:2] for row in got})
    raise AssertionError(f"{table}: {len(got)} rows, expected {len(expected)}; repeated positions: {doubled}; first difference: {first}")
