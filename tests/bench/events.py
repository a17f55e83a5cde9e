"""The events that every benchmark reads: a web shop's clicks as JSON, the same for the same seed, and their contract."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from flows.contract import Source

CHUNK_EVENTS = 10_000
QUEUED_EVENTS = 100_000
BARE_BYTES = 229  # an event whose note is empty
NOTES = "".join(random.Random(1).choices(string.ascii_letters + string.digits + "     ", k=1_000_000))

COLUMNS = {
    "event_id": "bigint not null",
    "at": "timestamptz not null",
    "user_id": "integer",
    "session": "varchar",
    "kind": "varchar",
    "page": "varchar",
    "country": "varchar",
    "price": "decimal(12,2)",
    "quantity": "integer",
    "score": "double",
    "ok": "boolean",
    "note": "varchar",
}
KINDS = ("view", "search", "basket", "order", "return")
COUNTRIES = ("DE", "FR", "US", "JP", "BR", "IN", "ZA", "NZ")


@dataclass(frozen=True, slots=True)
class Topic:
    """A filled topic: ``events`` records with ``nbytes`` of values in all."""

    name: str
    partitions: int
    events: int
    nbytes: int


def schema() -> pa.Schema:
    """The contract's columns as Arrow fields: every contestant decodes into exactly these types."""
    return Source(name="events", topic="events", format="json", columns=COLUMNS).contract_schema


def values(count: int, event_bytes: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """``count`` events as (key, JSON value) with ids from ``first``; a value has about ``event_bytes`` bytes."""
    draw = np.random.default_rng(first)
    note_chars = max(0, event_bytes - BARE_BYTES)
    seconds = draw.integers(0, 86_400, count)
    columns = zip(
        range(first, first + count),
        (seconds // 3600).tolist(),
        (seconds // 60 % 60).tolist(),
        (seconds % 60).tolist(),
        draw.integers(0, 1_000_000, count).tolist(),
        draw.integers(1, 2_000_000, count).tolist(),
        draw.integers(0, 1 << 62, count).tolist(),
        draw.random(count).tolist(),
        draw.integers(0, len(NOTES) - note_chars, count).tolist(),
        strict=True,
    )
    for event_id, hour, minute, second, micros, user, bits, score, at in columns:
        value = (
            f'{{"event_id":{event_id},"at":"2024-05-01T{hour:02}:{minute:02}:{second:02}.{micros:06}Z","user_id":{user},'
            f'"session":"{bits:016x}",'
            f'"kind":"{KINDS[bits % 5]}","page":"/products/{user % 9973}","country":"{COUNTRIES[bits % 8]}",'
            f'"price":{user % 99_991 / 100:.2f},"quantity":{bits % 10},"score":{score},'
            f'"ok":{"true" if bits & 1 else "false"},"note":"{NOTES[at : at + note_chars]}"}}'
        )
        yield str(user), value.encode()


def fill(bootstrap: str, name: str, events: int, *, partitions: int, event_bytes: int, busy: int | None = None) -> Topic:
    """Make a topic of ``events`` events, sent in turn to all partitions, or all to the partition ``busy``. All are acknowledged."""
    make_topic(bootstrap, name, partitions)
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": QUEUED_EVENTS + CHUNK_EVENTS,
            "queue.buffering.max.kbytes": 1_000_000,
            "log_level": 3,
        }
    )
    refused: list[str] = []
    nbytes = 0
    for number, first in enumerate(range(0, events, CHUNK_EVENTS)):
        chunk = [{"key": key, "value": value} for key, value in values(min(CHUNK_EVENTS, events - first), event_bytes, first)]
        nbytes += sum(len(message["value"]) for message in chunk)
        while len(producer) > QUEUED_EVENTS:
            producer.poll(0.05)
        partition = number % partitions if busy is None else busy
        queued = producer.produce_batch(name, chunk, partition=partition, on_delivery=lambda e, _: refused.append(str(e)) if e else None)
        assert queued == len(chunk), (queued, len(chunk))
    left = producer.flush(120)
    assert left == 0, left
    assert not refused, refused[:3]
    return Topic(name, partitions, events, nbytes)


def make_topic(bootstrap: str, name: str, partitions: int) -> None:
    """A topic that keeps everything, on one broker."""
    topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config={"retention.ms": "-1"})
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([topic])[name].result(30)


def delete_topic(bootstrap: str, name: str) -> None:
    """Give the disk space back."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.delete_topics([name])[name].result(30)
