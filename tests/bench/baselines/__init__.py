"""What kappa is compared with: small programs, each run as a process of its own, which print their result as a line of JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, TopicPartition

# Measured: with librdkafka's defaults a full prefetch queue backs off for a second, 0.2 against 1.3 M messages/s.
GOOD_SETTINGS: Mapping[str, object] = {"fetch.queue.backoff.ms": 10, "queued.min.messages": 20_000}
CONSUME_MESSAGES = 10_000
COMMIT_ROWS = 200_000


def program(read: Callable[[], int]) -> None:
    """Run ``read`` and print the records it read with its seconds, imports not included."""
    started = time.monotonic()
    records = read()
    print(json.dumps({"event": "end", "records": records, "seconds": time.monotonic() - started}))


def arguments() -> tuple[str, str, str]:
    """Bootstrap servers, topic, and the folder of the table to write."""
    bootstrap, topic, folder = sys.argv[1:4]
    return bootstrap, topic, folder


def open_consumer(bootstrap: str, topic: str) -> tuple[Consumer, int]:
    """A consumer at the beginning of every partition of ``topic``, and how many records there are."""
    consumer = Consumer({**GOOD_SETTINGS, "bootstrap.servers": bootstrap, "group.id": "bench", "enable.auto.commit": False})
    partitions = [TopicPartition(topic, number, 0) for number in consumer.list_topics(topic, 10).topics[topic].partitions]
    extents = [consumer.get_watermark_offsets(partition, 10) for partition in partitions]
    consumer.assign(partitions)
    return consumer, sum(high - low for low, high in extents)
