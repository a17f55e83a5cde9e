"""A transactional producer for one file: rows and progress become visible together, or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from connectors import loads
from connectors.clients import client
from connectors.files.chunk import Broken, Chunk
from flows.errors import KappaError
from flows.faults import reach

# Short: an open transaction hides everything behind it from readers of committed records.
TRANSACTION_TIMEOUT_S = 15.0
PATIENCE_S = 60.0
_QUEUE_WAIT_S = 0.05
_POLL_ROWS = 1000
_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)


class LoadFenced(KappaError):
    """Another load of the same file has taken over, or a transaction stayed open for too long."""

    def __init__(self, uri: str, cause: str) -> None:
        super().__init__(
            f"the load of {uri} was stopped by Kafka",
            cause=f"another load of the file took over, or a transaction was open for more than {TRANSACTION_TIMEOUT_S:.0f} s: {cause}",
            next_step="wait for the other load, or load the file again: it goes on after the last row sent",
        )
        self.uri = uri


class LoadFailed(KappaError):
    """Kafka did not take the rows."""

    def __init__(self, uri: str, cause: str) -> None:
        super().__init__(
            f"the load of {uri} failed",
            cause=cause,
            next_step="kappa status; then load the file again: it goes on after the last row sent",
        )
        self.uri = uri


class RowProducer:
    """Sends a file's rows to ``topic``. Making it fences every older one with the same ``transactional_id``.

    Raises LoadFenced or LoadFailed, here and from every method.
    """

    def __init__(self, config: Mapping[str, str], transactional_id: str, topic: str, uri: str, max_message_bytes: int) -> None:
        self._topic = topic
        self._uri = uri
        self._problem = ""
        self._fatal = False
        self._open = False
        self._producer = client(Producer, producer_config(config, transactional_id, max_message_bytes, self._note))
        self._patiently(self._producer.init_transactions)

    def _note(self, error: KafkaError) -> None:
        self._problem = error.str()
        self._fatal |= error.fatal()  # what is called afterwards only says that the producer is in no state to work

    def send(self, chunk: Chunk, first_row: int, load: str) -> None:
        """Queue a chunk's rows; the first one has the 1-based number ``first_row``. Opens a transaction if none is."""
        self._begin()
        produce, poll = self._producer.produce, self._producer.poll
        headers = ("kappa-load", load.encode())
        broken = chunk.broken
        for index, (key, value) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
            pairs = [headers, ("kappa-row", b"%d" % (first_row + index))]
            if index in broken:
                pairs += [*marks(broken[index]), ("kappa-file", self._uri.encode())]
            try:
                produce(self._topic, value, key, headers=pairs)
            except (BufferError, KafkaException):
                self._produce(self._topic, value, key, headers=pairs)
            if not index % _POLL_ROWS:
                poll(0)

    def send_to(self, partition: int, value: bytes, key: bytes | None, headers: Iterable[tuple[str, bytes]]) -> None:
        """Queue one record for a partition of its own choice. Opens a transaction if none is."""
        self._begin()
        self._produce(self._topic, value, key, partition=partition, headers=list(headers))

    def _produce(self, topic: str, value: bytes, key: bytes | None, **more: Any) -> None:
        """Queue a record, waiting for room in the queue."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._producer.produce(topic, value, key, **more)
                return
            except BufferError:
                if time.monotonic() > give_up_at:
                    raise LoadFailed(self._uri, self._problem or f"Kafka took nothing for {PATIENCE_S:.0f} s") from None
                self._producer.poll(_QUEUE_WAIT_S)
            except KafkaException as error:
                raise self._failure(error) from error

    def commit(self, progress: Iterable[tuple[bytes, bytes]]) -> None:
        """Commit the rows together with records (key, value) of ``kappa.loads``.

        They come last, so that their topic is hidden from other loads for as short as can be.
        """
        self._begin()
        reach("load.before-progress")
        for key, value in progress:
            self._produce(loads.TOPIC, value, key, partition=loads.PARTITION)
        reach("load.before-commit")
        self._patiently(self._producer.commit_transaction)
        self._open = False
        reach("load.after-commit")

    def abandon(self) -> None:
        """Abort what is open, so that readers need not wait for its timeout. Never raises: the rows are not committed in any case."""
        if self._open:
            self._producer.purge()
            try:
                self._producer.abort_transaction(5)
            except KafkaException:
                return

    def _begin(self) -> None:
        if not self._open:
            self._patiently(lambda timeout_s: self._producer.begin_transaction())
            self._open = True

    def _patiently(self, call: Callable[[float], None]) -> None:
        """Repeat what Kafka says can be repeated: the same call goes on where it stood."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            try:
                call(max(1.0, give_up_at - time.monotonic()))
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > give_up_at:
                    raise self._failure(error) from error

    def _failure(self, error: KafkaException) -> KappaError:
        try:
            self._producer.poll(0)  # hear of a fatal error, if that is behind it
        except KafkaException as fatal:  # the same, told in another way
            self._note(fatal.args[0])
        problem = error.args[0]
        if problem.code() in _FENCED or problem.fatal() or problem.code() == KafkaError._FATAL or self._fatal:
            return LoadFenced(self._uri, "; ".join(dict.fromkeys(filter(None, (problem.str(), self._problem)))))
        return LoadFailed(self._uri, "; ".join(dict.fromkeys(filter(None, (problem.str(), self._problem)))))


def marks(broken: Broken) -> list[tuple[str, bytes]]:
    line = [] if broken.line is None else [("kappa-line", b"%d" % broken.line)]
    return [("kappa-broken", broken.cause.encode()), *line]


def producer_config(
    config: Mapping[str, str], transactional_id: str, max_message_bytes: int, note: Callable[[KafkaError], None]
) -> dict[str, object]:
    """The user's settings between ours. What correctness rests on cannot be overridden; what is speed can."""
    speed: dict[str, object] = {
        "linger.ms": 20,
        "batch.size": 1_000_000,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 200_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "log_level": 2,
    }
    right: dict[str, object] = {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
        "message.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
        "enable.idempotence": True,
        "acks": "all",
        "partitioner": "murmur2_random",  # as Java clients do
        "message.max.bytes": max_message_bytes,
        "delivery.report.only.error": True,  # a failed delivery fails the transaction: no callback is needed
        "error_cb": note,
    }
    return {**speed, **config, **right}
