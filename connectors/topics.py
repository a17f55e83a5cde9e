"""Topics: their identity, their partitions, and making the ones that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from connectors.clients import answer, client
from flows.contract import Source
from flows.control import RunControl
from flows.errors import KappaError
from flows.ledger import LogIdentity

ANSWER_TIMEOUT_S = 15.0
_SILENT = (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
_T = TypeVar("_T")


class KafkaUnreachable(KappaError):
    """No broker answers."""

    def __init__(self, bootstrap_servers: str, cause: str) -> None:
        super().__init__(f"Kafka at {bootstrap_servers} does not answer", cause=cause, next_step="kappa status (the local one: kappa up)")


class TopicMissing(KappaError):
    """A topic does not exist."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic} does not exist", cause="nothing has made it yet", next_step="kappa load SOURCE FILE makes a source's topic"
        )
        self.topic = topic


class TopicRefused(KappaError):
    """Kafka refuses to make or to describe a topic."""

    def __init__(self, topic: str, cause: str) -> None:
        super().__init__(
            f"Kafka refuses topic {topic}",
            cause=cause,
            next_step="correct topic_config, partitions or replication_factor of the source, or the ACLs",
        )
        self.topic = topic


def log_identity(config: Mapping[str, str], topics: Iterable[str]) -> LogIdentity:
    """The cluster's id and the topics' ids: another topic of the same name has another id. Raises as ``Admin.ask``."""
    admin = Admin(config)
    names = list(topics)
    described = admin.describe(names)
    cluster = admin.ask(lambda admin: admin.describe_cluster(request_timeout=ANSWER_TIMEOUT_S), "the cluster")
    return LogIdentity(str(cluster.cluster_id), {name: str(described[name].topic_id) for name in names})


def partitions(config: Mapping[str, str], topic: str) -> list[int]:
    """The topic's partitions, ascending. Raises TopicMissing, TopicRefused, KafkaUnreachable."""
    return sorted(partition.id for partition in Admin(config).describe([topic])[topic].partitions)


def ensure_topic(config: Mapping[str, str], source: Source, control: RunControl | None = None) -> bool:
    """Make the source's topic when it is missing, with the source's settings. Returns whether it was made.

    It keeps everything for ever, and takes events of twice ``max_record_bytes``, unless ``topic_config`` says otherwise: a record
    is longer as JSON than in a file. With ``control``, waiting ends when the run is to stop. Raises TopicRefused, KafkaUnreachable.
    """
    ours = {"retention.ms": "-1", "max.message.bytes": str(max(1_048_588, 2 * source.max_record_bytes + 65_536))}
    return Admin(config, control=control).make(source.topic, source.partitions, source.replication_factor, {**ours, **source.topic_config})


class Admin:
    """Kafka's admin client with kappa's errors and one timeout."""

    def __init__(self, config: Mapping[str, str], answer_timeout_s: float = ANSWER_TIMEOUT_S, control: RunControl | None = None) -> None:
        """With ``control``, waiting for an answer ends when the run is to stop. Raises KafkaSettingsWrong."""
        self.answer_timeout_s = answer_timeout_s
        self._control = control
        self._bootstrap = config.get("bootstrap.servers", "")
        self._problem = ""
        self._client = client(AdminClient, {"log_level": "2", "reconnect.backoff.max.ms": "1000", **config, "error_cb": self._note})

    def _note(self, error: KafkaError) -> None:
        self._problem = error.str()

    def ask(self, request: Callable[[AdminClient], Future[_T]], topic: str) -> _T:
        """One answer. Raises TopicMissing, TopicRefused or KafkaUnreachable; ``topic`` is what is asked about."""
        try:
            return answer(request(self._client), self.answer_timeout_s + 5, self._bootstrap, self._control)
        except (TimeoutError, KafkaException) as error:
            problem = error.args[0] if isinstance(error, KafkaException) else None
            if problem is None or problem.code() in _SILENT:
                raise KafkaUnreachable(self._bootstrap, self._problem or (problem.str() if problem else "timed out")) from None
            if problem.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise TopicMissing(topic) from None
            raise TopicRefused(topic, problem.str()) from error

    def describe(self, topics: list[str]) -> dict[str, Any]:
        """Topic -> confluent_kafka's TopicDescription. Raises as ``ask``."""
        if not topics:
            return {}
        futures = self._client.describe_topics(TopicCollection(topics), request_timeout=self.answer_timeout_s)
        return {topic: self.ask(lambda _, asked=future: asked, topic) for topic, future in futures.items()}  # type: ignore[misc]

    def make(self, topic: str, partitions: int, replication_factor: int, topic_config: Mapping[str, str]) -> bool:
        """Make a topic unless it exists. Returns whether this call made it. Raises TopicRefused, KafkaUnreachable."""
        try:
            self.describe([topic])
            return False
        except TopicMissing:
            pass
        wanted = NewTopic(topic, partitions, replication_factor, config=dict(topic_config))
        try:
            self.ask(lambda admin: admin.create_topics([wanted], request_timeout=self.answer_timeout_s)[topic], topic)
        except TopicRefused as refused:
            error = refused.__cause__
            if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False  # someone else was quicker
            raise
        self._await(topic)
        return True

    def _await(self, topic: str) -> None:
        """A topic is known to the controller before every broker answers for it."""
        give_up_at = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            try:
                self.describe([topic])
                return
            except TopicMissing:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.05)

    def max_message_bytes(self, topic: str) -> int:
        """The largest batch of records that the topic takes. Raises as ``ask``."""
        return int(self._setting(topic, "max.message.bytes"))

    def is_compacted(self, topic: str) -> bool:
        """Whether Kafka drops records of a key that has a newer one. Raises as ``ask``."""
        return "compact" in self._setting(topic, "cleanup.policy")

    def _setting(self, topic: str, name: str) -> str:
        resource = ConfigResource(ResourceType.TOPIC, topic)
        settings = self.ask(lambda admin: admin.describe_configs([resource], request_timeout=self.answer_timeout_s)[resource], topic)
        return str(settings[name].value)
