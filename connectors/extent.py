"""How far a topic reaches: the first offset it holds, its last stable offset, and its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connectors.clients import answer, client
from connectors.errors import KafkaFailed
from flows.control import RunControl

ANSWER_TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Extent:
    """Offsets of each partition. ``low``: the first held; ``stable``: behind the last committed record; ``high``: the end."""

    low: dict[int, int]
    stable: dict[int, int]
    high: dict[int, int]


def extent(config: Mapping[str, str], topic: str, partitions: Iterable[int], control: RunControl | None = None) -> Extent:
    """Ask the brokers; with ``control``, until the run is to stop. Raises KafkaFailed, KafkaSettingsWrong."""
    admin = client(AdminClient, {"log_level": "2", **config})
    places = [TopicPartition(topic, p) for p in sorted(partitions)]

    def offsets(spec: OffsetSpec, isolation: IsolationLevel) -> dict[int, int]:
        asked = admin.list_offsets(dict.fromkeys(places, spec), isolation_level=isolation, request_timeout=ANSWER_TIMEOUT_S)
        wait = partial(answer, timeout_s=ANSWER_TIMEOUT_S + 5, bootstrap_servers=config.get("bootstrap.servers", ""), control=control)
        try:
            return {place.partition: int(wait(future).offset) for place, future in asked.items()}
        except (KafkaException, TimeoutError) as error:
            raise KafkaFailed(f"the offsets of topic {topic} are unknown", str(error) or "Kafka does not answer") from error

    return Extent(
        low=offsets(OffsetSpec.earliest(), IsolationLevel.READ_UNCOMMITTED),
        stable=offsets(OffsetSpec.latest(), IsolationLevel.READ_COMMITTED),
        high=offsets(OffsetSpec.latest(), IsolationLevel.READ_UNCOMMITTED),
    )


def offsets_at(config: Mapping[str, str], topic: str, partitions: Iterable[int], at_ms: int) -> dict[int, int]:
    """The first offset of each partition whose record is of ``at_ms`` (since 1970) or later; its end when there is none.

    Raises KafkaFailed, KafkaSettingsWrong.
    """
    admin = client(AdminClient, {"log_level": "2", **config})
    places = [TopicPartition(topic, p) for p in sorted(partitions)]
    ends = extent(config, topic, [place.partition for place in places]).high
    asked = admin.list_offsets(dict.fromkeys(places, OffsetSpec.for_timestamp(at_ms)), request_timeout=ANSWER_TIMEOUT_S)
    try:
        found = {place.partition: int(future.result(ANSWER_TIMEOUT_S + 5).offset) for place, future in asked.items()}
    except (KafkaException, TimeoutError) as error:
        raise KafkaFailed(f"the offsets of topic {topic} are unknown", str(error) or "Kafka does not answer") from error
    return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}
