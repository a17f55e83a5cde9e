"""Is the log still the one that the positions belong to? Asked at start and before every commit (DESIGN invariant I4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from connectors.errors import KafkaFailed, PartitionsChanged, TopicGone, TopicReplaced
from connectors.topics import Admin, KafkaUnreachable, TopicMissing
from flows.batch import Position
from flows.control import RunControl
from flows.ledger import LogIdentity

WAIT_S = 0.5
ANSWER_TIMEOUT_S = 3.0  # between two looks at whether the run is to stop
PATIENCE_S = 300.0


class Log(Protocol):
    """What a run must know of the log that it reads. ``held``: tells where the tables stand, for errors."""

    identity: LogIdentity
    partitions: frozenset[int]
    held: Callable[[], Iterable[Position]]

    def consumed(self) -> None:
        """Something was emitted."""

    def verify(self) -> None:
        """Raises unless it is still the log that the run began with."""


class LogGuard:
    """Compares cluster id, topic id and partitions of one topic with those that the run began with.

    One question serves all tables that commit together: ``consumed`` counts emissions of the source, and ``verify`` asks Kafka again
    only when something was emitted since the last answer. While Kafka is away, ``verify`` waits (the run goes on when it is back).
    """

    def __init__(self, config: Mapping[str, str], topic: str, control: RunControl) -> None:
        """Take the log as it is now for the right one. Raises TopicMissing, TopicRefused, KafkaUnreachable (also when the run is to stop
        before Kafka answers).

        ``held`` tells where the tables stand, for errors.
        """
        self.held: Callable[[], Iterable[Position]] = tuple
        self._admin = Admin(config, ANSWER_TIMEOUT_S)
        self._topic = topic
        self._control = control
        self._lock = threading.Lock()
        self._consumed = 0
        self._verified = -1
        self.identity, self.partitions = self._ask(Admin(config, control=control))

    def consumed(self) -> None:
        """Something was emitted: an older answer no longer counts."""
        self._consumed += 1

    def verify(self) -> None:
        """Raises TopicReplaced, TopicGone, PartitionsChanged; KafkaFailed after PATIENCE_S, or when the run is to stop meanwhile."""
        with self._lock:
            asked = self._consumed
            if self._verified == asked:
                return
            identity, partitions = self._ask_patiently()
            if identity != self.identity:
                raise TopicReplaced(self._topic, self.identity, identity, self.held())
            if partitions != self.partitions:
                raise PartitionsChanged(self._topic, self.partitions, partitions, self.held())
            self._verified = asked

    def _ask(self, admin: Admin) -> tuple[LogIdentity, frozenset[int]]:
        topic = admin.describe([self._topic])[self._topic]
        cluster = admin.ask(lambda client: client.describe_cluster(request_timeout=admin.answer_timeout_s), self._topic)
        identity = LogIdentity(str(cluster.cluster_id), {self._topic: str(topic.topic_id)})
        return identity, frozenset(partition.id for partition in topic.partitions)

    def _ask_patiently(self) -> tuple[LogIdentity, frozenset[int]]:
        give_up_at = time.monotonic() + PATIENCE_S
        said = False
        while True:
            try:
                return self._ask(self._admin)
            except TopicMissing as error:
                raise TopicGone(self._topic, self.identity, self.held()) from error
            except KafkaUnreachable as error:
                if time.monotonic() >= give_up_at or self._control.stopping:
                    raise KafkaFailed(f"Kafka does not answer about topic {self._topic}", error.cause) from error
                if not said:
                    self._control.notify(f"{self._topic}: Kafka does not answer; waiting before the commit")
                    said = True
                time.sleep(WAIT_S)
