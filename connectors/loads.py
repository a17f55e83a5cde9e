"""``kappa.loads``: how far each file has got. Written in the transactions of the rows themselves (docs/formats.md)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from connectors.clients import reader
from connectors.topics import ANSWER_TIMEOUT_S, Admin
from flows.errors import KappaError

TOPIC = "kappa.loads"
PARTITION = 0
# Longer than any load's transaction may stay open (connectors.producer.TRANSACTION_TIMEOUT_S).
PATIENCE_S = 90.0
VISIBLE_S = 2.0  # what is hidden for longer is so by another load's open transaction


class LoadsUnreadable(KappaError):
    """How far files have got cannot be told."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"topic {TOPIC} cannot be read", cause=cause, next_step="kappa status, then the same command again")


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes two loads the same: source, content, reader options. The path is no part of it."""

    source: str
    sha256: str
    reader: Mapping[str, Any]

    def key(self) -> bytes:
        """The record key in ``kappa.loads``."""
        return msgspec.json.encode({"source": self.source, "sha256": self.sha256, "reader": dict(self.reader)})

    def transactional_id(self) -> str:
        """One a file, so that a second load of it fences the first and loads of other files do not."""
        return f"kappa-load-{self.source}-{hashlib.sha256(self.key()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class LoadState:
    """How far a file has got: ``rows`` sent, ``nbytes``: bytes of the file read for them. ``replaced_by``: a load of newer content.

    ``topic_id``: of the topic that holds the rows; another topic of the same name does not.
    """

    load: str
    uri: str
    rows: int
    nbytes: int
    done: bool
    at: str
    replaced_by: str | None = None
    topic_id: str | None = None

    def value(self) -> bytes:
        """The record value in ``kappa.loads``."""
        members = {"load": self.load, "uri": self.uri, "rows": self.rows, "bytes": self.nbytes, "done": self.done, "at": self.at}
        more = {"topic_id": self.topic_id, "replaced_by": self.replaced_by}
        return msgspec.json.encode({**members, **{name: value for name, value in more.items() if value is not None}})

    def advanced(self, rows: int, nbytes: int, *, done: bool) -> LoadState:
        """The state after a transaction, as of now."""
        return replace(self, rows=rows, nbytes=nbytes, done=done, at=now())


@dataclass(frozen=True, slots=True)
class Loads:
    """What ``kappa.loads`` holds: the newest state of each file, and of every load ever (by id) its source and uri."""

    states: Mapping[bytes, LoadState]
    files: Mapping[str, tuple[str, str]]

    def half_loaded(self, identity: Identity, uri: str) -> list[tuple[Identity, LoadState]]:
        """Loads of other content from the same place that were begun and not finished."""
        found = []
        for key, state in self.states.items():
            other = Identity(**msgspec.json.decode(key))
            if state.uri == uri and other.source == identity.source and key != identity.key() and not state.done and not state.replaced_by:
                found.append((other, state))
        return found


def file_record(load: str, source: str, uri: str) -> tuple[bytes, bytes]:
    """The record (key, value) that keeps the file of a load for ever."""
    return msgspec.json.encode({"load": load}), msgspec.json.encode({"source": source, "uri": uri})


def now() -> str:
    """The time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def ensure_loads_topic(admin: Admin) -> None:
    """Make ``kappa.loads``: compacted, for ever. Raises TopicRefused, KafkaUnreachable."""
    admin.make(TOPIC, 1, -1, {"cleanup.policy": "compact", "retention.ms": "-1"})


def read_loads(config: Mapping[str, str], admin: Admin, *, wait: bool = True) -> Loads:
    """Everything that was committed to ``kappa.loads`` before this call.

    An open transaction of another load hides what was committed after its beginning, so this waits for such transactions to end,
    unless ``wait`` is False: then what they hide is left out.
    Raises LoadsUnreadable, KafkaUnreachable.
    """
    states: dict[bytes, LoadState] = {}
    files: dict[str, tuple[str, str]] = {}
    for key, value in _records(config, _end(admin, committed=not wait)):
        members = msgspec.json.decode(value)
        if "load" in (identity := msgspec.json.decode(key)):
            files[identity["load"]] = (members["source"], members["uri"])
        else:
            states[key] = LoadState(nbytes=members.pop("bytes"), **members)
    return Loads(states, files)


def await_visible(admin: Admin) -> None:
    """Until readers of committed records see all that was committed to ``kappa.loads``, for VISIBLE_S at most. Raises KafkaUnreachable.

    Kafka answers a commit before it has written the markers that show the records; it writes those of all partitions at once.
    """
    end, give_up_at = _end(admin, committed=False), time.monotonic() + VISIBLE_S
    while _end(admin, committed=True) < end and time.monotonic() < give_up_at:
        time.sleep(0.005)


def _end(admin: Admin, *, committed: bool) -> int:
    """The offset behind the last record, or behind the last that no open transaction hides."""
    place = TopicPartition(TOPIC, PARTITION)
    spec, isolation = {place: OffsetSpec.latest()}, IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
    answer = admin.ask(lambda admin: admin.list_offsets(spec, isolation_level=isolation, request_timeout=ANSWER_TIMEOUT_S)[place], TOPIC)
    return int(answer.offset)


def _records(config: Mapping[str, str], end: int) -> Iterator[tuple[bytes, bytes]]:
    consumer = reader({**config, "auto.offset.reset": "earliest"}, "kappa-loads")
    give_up_at = time.monotonic() + PATIENCE_S
    position = 0
    try:
        consumer.assign([TopicPartition(TOPIC, PARTITION, 0)])
        while position < end:
            for message in consumer.consume(1000, 0.05):
                error = message.error()
                position = max(position, int(message.offset() or 0) + (error is None))
                if error is None:
                    yield message.key(), message.value()
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise LoadsUnreadable(error.str())
            if time.monotonic() > give_up_at:
                raise LoadsUnreadable(
                    f"read up to offset {position} of {end} in {PATIENCE_S:.0f} s; another load's transaction may be open"
                )
    except KafkaException as error:
        raise LoadsUnreadable(error.args[0].str()) from error
    finally:
        consumer.close()
