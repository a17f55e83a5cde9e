"""Is the log still the one that the positions belong to? Asked at start and before every commit (DESIGN invariant I4)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException

from connectors.errors import KafkaFailed, PartitionsChanged, TopicReplaced
from connectors.topics import describe
from flows.control import RunControl
from flows.ledger import LogIdentity

WAIT_S = 1.0
PATIENCE_S = 300.0


class LogGuard:
    """Compares cluster id, topic id and partitions of one topic with those that the run began with.

    One question serves all tables that commit together: ``consumed`` counts emissions of the source, and ``verify`` asks Kafka again
    only when something was emitted since the last answer. While Kafka is away, ``verify`` waits (the run goes on when it is back).
    """

    def __init__(self, config: Mapping[str, str], topic: str, log: LogIdentity, partitions: set[int], control: RunControl) -> None:
        self._config = config
        self._topic = topic
        self._log = log
        self._partitions = partitions
        self._control = control
        self._lock = threading.Lock()
        self._consumed = 0
        self._verified = -1

    def consumed(self) -> None:
        """Something was emitted: an older answer no longer counts."""
        self._consumed += 1

    def verify(self) -> None:
        """Raises TopicReplaced, PartitionsChanged, or KafkaFailed after PATIENCE_S without an answer."""
        with self._lock:
            asked = self._consumed
            if self._verified == asked:
                return
            self._compare()
            self._verified = asked

    def _compare(self) -> None:
        identity, partitions = self._patiently(lambda: describe(self._config, self._topic))
        if identity.cluster != self._log.cluster or identity.topics[self._topic] != self._log.topics[self._topic]:
            raise TopicReplaced(self._topic, self._log, identity)
        if partitions != self._partitions:
            raise PartitionsChanged(self._topic, self._partitions, partitions, [])

    def _patiently(self, ask: Callable[[], tuple[LogIdentity, set[int]]]) -> tuple[LogIdentity, set[int]]:
        give_up_at = time.monotonic() + PATIENCE_S
        said = False
        while True:
            try:
                return ask()
            except (KafkaException, KafkaFailed) as error:
                if time.monotonic() >= give_up_at or self._control.stopping:
                    raise KafkaFailed(f"Kafka does not answer about topic {self._topic}", str(error)) from error
                if not said:
                    self._control.notify(f"{self._topic}: Kafka does not answer; waiting before the commit")
                    said = True
                time.sleep(WAIT_S)
