"""A look at a topic: its oldest or newest committed events, without leaving a trace there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.clients import reader
from connectors.errors import KafkaFailed
from connectors.extent import extent
from connectors.topics import TopicMissing, partitions
from flows.batch import Position
from flows.errors import UsageError

SILENCE_TIMEOUT_S = 15.0
_WAIT_S = 0.1
_NEAR = 500  # offsets


class TopicUnknown(UsageError):
    """Someone names a topic that does not exist."""


@dataclass(frozen=True, slots=True)
class Event:
    """A record as it lies in the topic. ``timestamp_ms``: since 1970, None when it has none."""

    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def peek(config: Mapping[str, str], topic: str, count: int, start: Literal["earliest", "latest"]) -> list[Event]:
    """Up to ``count`` events over all partitions, the oldest or the newest, in order of time, partition and offset.

    Raises TopicUnknown, TopicRefused, KafkaUnreachable, KafkaFailed.
    """
    try:
        held = extent(config, topic, partitions(config, topic))
    except TopicMissing as error:
        raise TopicUnknown(error.what, cause=error.cause, next_step=error.next_step) from None
    read = _earliest if start == "earliest" else _latest
    events: list[Event] = []
    for partition, low in held.low.items():
        events += read(config, topic, partition, low, held.stable[partition], count)
    events.sort(key=lambda event: (event.timestamp_ms or 0, event.partition, event.offset))
    return events[:count] if start == "earliest" else events[-count:]


def at(config: Mapping[str, str], positions: Iterable[Position]) -> dict[Position, Event | None]:
    """The committed events at positions of topics that are there; None for one that the topic does not hold, or no longer.

    Raises TopicMissing, TopicRefused, KafkaUnreachable, KafkaFailed.
    """
    found: dict[Position, Event | None] = dict.fromkeys(positions)
    for topic in sorted({place.topic for place in found}):
        held = extent(config, topic, partitions(config, topic))
        with closing(reader({**config, "auto.offset.reset": "earliest"}, "kappa-peek")) as consumer:
            for partition, low in held.low.items():
                those = [p.offset for p in found if p[:2] == (topic, partition) and low <= p.offset < held.stable[partition]]
                for near in _runs(sorted(those)):
                    for event in _read(consumer, topic, partition, near[0], near[-1] + 1):
                        place = Position(topic, partition, event.offset)
                        if place in found:
                            found[place] = event
    return found


def _runs(offsets: Sequence[int]) -> Iterator[list[int]]:
    """Sorted offsets in groups that are so near to each other that reading through is quicker than asking anew."""
    run: list[int] = []
    for offset in offsets:
        if run and offset - run[-1] > _NEAR:
            yield run
            run = []
        run.append(offset)
    if run:
        yield run


def _latest(config: Mapping[str, str], topic: str, partition: int, low: int, high: int, count: int) -> list[Event]:
    """Offsets are not dense (transactions, compaction), so it looks further back until it has enough."""
    reach = count + 8
    while True:
        start = max(low, high - reach)
        found = _earliest(config, topic, partition, start, high, reach)
        if len(found) >= count or start == low:
            return found[-count:]
        reach *= 4


def _earliest(config: Mapping[str, str], topic: str, partition: int, start: int, end: int, count: int) -> list[Event]:
    with closing(reader({**config, "auto.offset.reset": "earliest"}, "kappa-peek")) as consumer:
        return list(islice(_read(consumer, topic, partition, start, end, count), count))


def _read(consumer: Consumer, topic: str, partition: int, start: int, end: int, most: int = 1000) -> Iterator[Event]:
    """The committed events of ``[start, end)``, ``most`` at a time. Raises KafkaFailed."""
    silent_s = 0.0
    try:
        if start < end:
            consumer.assign([TopicPartition(topic, partition, start)])
        while start < end:
            messages = consumer.consume(min(most, 1000), _WAIT_S)
            silent_s = 0.0 if messages else silent_s + _WAIT_S
            if silent_s > SILENCE_TIMEOUT_S:
                raise KafkaFailed(f"reading {topic}/{partition} failed", f"nothing came for {SILENCE_TIMEOUT_S:.0f} s")
            for message in messages:
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaFailed(f"reading {topic}/{partition} failed", error.str())
                if error is not None or message.offset() >= end:
                    return
                start = message.offset() + 1
                yield _event(message)
    except KafkaException as error:
        raise KafkaFailed(f"reading {topic}/{partition} failed", str(error.args[0])) from error


def _event(message: Message) -> Event:
    stamp = message.timestamp()[1]
    headers = tuple((name, value) for name, value in message.headers() or ())
    return Event(message.partition(), message.offset(), stamp if stamp >= 0 else None, message.key(), message.value(), headers)
