"""How far a topic reaches: the first offset it holds, its last stable offset, and its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.errors import KafkaFailed

ANSWER_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Extent:
    """Offsets of each partition. ``low``: the first held; ``stable``: behind the last committed record; ``high``: the end."""

    low: dict[int, int]
    stable: dict[int, int]
    high: dict[int, int]


def extent(config: Mapping[str, str], topic: str, partitions: Iterable[int]) -> Extent:
    """Ask the brokers. Raises KafkaFailed."""
    admin = AdminClient({"log_level": "2", **config})
    numbers = sorted(partitions)
    low = _offsets(admin, topic, numbers, OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED)
    stable = _offsets(admin, topic, numbers, OffsetSpec.latest(), IsolationLevel.READ_COMMITTED)
    high = _offsets(admin, topic, numbers, OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED)
    return Extent(low, stable, high)


def _offsets(admin: AdminClient, topic: str, partitions: list[int], spec: OffsetSpec, isolation: IsolationLevel) -> dict[int, int]:
    asked = admin.list_offsets(
        {TopicPartition(topic, p): spec for p in partitions}, isolation_level=isolation, request_timeout=ANSWER_TIMEOUT_S
    )
    try:
        return {place.partition: int(future.result(ANSWER_TIMEOUT_S + 5).offset) for place, future in asked.items()}
    except (KafkaException, TimeoutError) as error:
        raise KafkaFailed(f"the offsets of topic {topic} are unknown", str(error)) from error
