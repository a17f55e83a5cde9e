"""The Kafka source: Arrow batches per partition, from the tables' own positions.

One lane a worker; a lane's thread consumes for all of its partitions, so that an idle partition never holds a busy one back, and
``next_batch`` never blocks. Offsets are never committed to Kafka: the tables hold them (DESIGN invariant I2).
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.clients import client
from connectors.errors import KafkaFailed, LogCut, LogLost
from connectors.guard import Log
from connectors.pace import Pace
from connectors.records import Run, runs
from flows.archive import Archive
from flows.batch import Batch, Position
from flows.control import RunControl
from flows.errors import KappaError
from flows.memory import are_large, give_back

CONSUME_WAIT_S = 0.1
FIRST_RECORDS = 1  # until it is known how large they are
CHUNK_RECORDS = 2_000
QUEUE_BATCHES = 2
TELL_AGAIN_S = 30.0
IDLE_CHECK_S = 5.0
QUIET_MARK_S = 2.0
IDLE_AFTER_S = 0.05
IDLE_WAIT_MAX_S = 0.2
_FATAL = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._FATAL,
}
_LOST = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


@dataclass(frozen=True, slots=True)
class Limits:
    """When to commit, and how much a lane may hold. Sizes in bytes, times in seconds. ``records_per_s``: most that the flow reads; None: as
    fast as it can.
    """

    commit_rows: int = 500_000
    commit_bytes: int = 128 * 1024 * 1024
    commit_interval_s: float = 5.0
    batch_rows: int = 50_000
    batch_bytes: int = 16 * 1024 * 1024
    prefetch_bytes: int = 32 * 1024 * 1024
    records_per_s: float | None = None


@dataclass(slots=True)
class Progress:
    """What a flow has consumed, for people: updated by the lanes, read by the run's display."""

    records: int = 0
    nbytes: int = 0
    positions: dict[int, int] = field(default_factory=dict)


class KafkaSource(DynamicSource[Batch]):
    """Reads one topic from ``starts`` (partition -> offset), committed records only, up to ``ends`` or for ever.

    Gives Batches whose ranges join without gap or overlap for each partition. Partitions are shared out over the workers by number.
    A batch with ``mark`` asks the tables to commit. Errors are data: they go to ``control`` and the source ends. ``guard`` hears of
    every emission, and is asked when nothing comes for a while. ``archive``: where a partition that begins below ``low``, the first
    offset that the topic holds, is read up to the archive's end.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        topic: str,
        starts: Mapping[int, int],
        ends: Mapping[int, int] | None,
        limits: Limits,
        control: RunControl,
        guard: Log | None = None,
        archive: Archive | None = None,
        low: Mapping[int, int] | None = None,
    ) -> None:
        self.guard = guard
        self.archive = archive
        self.low = dict(low or {})
        self.config = config
        self.topic = topic
        self.starts = dict(starts)
        self.ends = dict(ends) if ends is not None else None
        self.limits = limits
        self.control = control
        self.progress = Progress(positions=dict(starts))
        self.emitted_at = time.monotonic()

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[Batch]:
        """A lane over the partitions of this worker."""
        mine = {partition: start for partition, start in self.starts.items() if partition % worker_count == worker_index}
        return Lane(self, mine, worker_count)


class Lane(StatelessSourcePartition[Batch]):
    """One worker's share of a topic: a consuming thread, a short queue, and the decision when to mark."""

    def __init__(self, source: KafkaSource, starts: Mapping[int, int], lanes: int) -> None:
        self._source = source
        self._limits = source.limits
        self._control = source.control
        self._positions = dict(starts)
        self._rows = self._bytes = 0
        self._lanes = lanes
        self._marked_at = time.monotonic()
        self._moved = False
        self._heard_at = float("-inf")
        self._heard_from_log_at = time.monotonic()
        self._queue: queue.Queue[list[Batch] | None] = queue.Queue(QUEUE_BATCHES)
        self._finished = not starts
        self._closing = threading.Event()
        self._pace = Pace(self._limits.records_per_s and self._limits.records_per_s / lanes)
        if starts:
            self._thread = threading.Thread(target=self._pump, name=f"consume-{source.topic}", daemon=True)
            self._thread.start()

    def next_batch(self) -> Iterable[Batch]:
        """What has been consumed, at once; the last batch of the lane carries a mark unless the run was aborted."""
        if self._finished:
            raise StopIteration
        if self._control.stopping:
            self._finished = True
            return [] if self._control.fatal else self._still(mark=True)
        try:
            batches = self._queue.get_nowait()
        except queue.Empty:
            return self._still(mark=True) if self._due() or self._quiet() else []
        if batches is None:
            self._finished = True
            return [] if self._control.fatal else self._still(mark=True)
        return self._emit(batches)

    def next_awake(self) -> datetime | None:
        """At once while any lane of the topic has data, since epochs run in lockstep; the longer all are idle, the later, since a look
        into an empty queue closes an epoch of every table.
        """
        idle_s = time.monotonic() - self._source.emitted_at
        if idle_s < IDLE_AFTER_S:
            return None
        return datetime.now(UTC) + timedelta(seconds=min(idle_s / 10, IDLE_WAIT_MAX_S))

    def close(self) -> None:
        self._closing.set()
        if self._thread_started:
            self._thread.join(10)

    @property
    def _thread_started(self) -> bool:
        return hasattr(self, "_thread")

    def _emit(self, batches: list[Batch]) -> list[Batch]:
        progress = self._source.progress
        for batch in batches:
            assert batch.start == self._positions[batch.partition], (batch, self._positions)
            self._positions[batch.partition] = progress.positions[batch.partition] = batch.end
            self._rows += batch.records.num_rows
            self._bytes += batch.records.nbytes
            progress.records += batch.records.num_rows
            progress.nbytes += batch.records.nbytes
        if any(are_large(batch.records) for batch in batches):
            give_back()
        self._moved = True
        self._source.emitted_at = time.monotonic()
        if self._source.guard is not None:
            self._source.guard.consumed()
        if self._due():
            batches[-1] = self._mark(batches[-1])
        return batches

    def _due(self) -> bool:
        limits = self._limits
        return self._moved and (
            self._rows * self._lanes >= limits.commit_rows
            or self._bytes * self._lanes >= limits.commit_bytes
            or time.monotonic() - self._marked_at >= limits.commit_interval_s
        )

    def _quiet(self) -> bool:
        """Nothing to commit for a while: a mark all the same, so that the tables see who else has come to own or replace them."""
        return time.monotonic() - self._marked_at >= max(self._limits.commit_interval_s, QUIET_MARK_S)

    def _mark(self, batch: Batch) -> Batch:
        self._rows = self._bytes = 0
        self._moved = False
        self._marked_at = time.monotonic()
        give_back()
        return Batch(batch.topic, batch.partition, batch.start, batch.end, batch.records, mark=True)

    def _still(self, *, mark: bool) -> list[Batch]:
        """A batch without records that moves nothing and carries the mark."""
        partition, position = next(iter(self._positions.items()))
        batch = Run.empty(self._source.topic, partition, position, position)
        return [self._mark(batch) if mark else batch]

    # --- the consuming thread

    def _pump(self) -> None:
        try:
            positions = dict(self._positions)
            self._replay(positions)
            consumer = client(Consumer, {**consumer_config(self._source.config, self._limits), "error_cb": self._hear})
            try:
                self._consume(consumer, positions)
            finally:
                consumer.close()
        except KappaError as error:
            self._control.abort(error)
        except KafkaException as error:
            self._control.abort(KafkaFailed(f"reading topic {self._source.topic} failed", str(error.args[0])))
        except Exception as error:  # noqa: BLE001 - a lane that dies must not look like one that has read everything
            self._control.abort(KafkaFailed(f"reading topic {self._source.topic} broke off", f"{type(error).__name__}: {error}"))
        finally:
            self._put(None)

    def _replay(self, positions: dict[int, int]) -> None:
        """Read from the archive what the topic no longer holds, and on to the archive's end; moves ``positions``."""
        archive, ends = self._source.archive, self._source.ends
        for partition, start in positions.items() if archive is not None else ():
            if start >= self._source.low.get(partition, start):
                continue
            assert archive is not None
            _, end = archive.spans[partition]
            end = end if ends is None else min(end, ends[partition])
            for records in archive.records(partition, start, end):
                self._put([Run(partition, records).batch(self._source.topic, positions[partition], end)])
                positions[partition] = records.column(0)[-1].as_py() + 1
                if self._ended:
                    return
            if positions[partition] < end:
                self._put([Run.empty(self._source.topic, partition, positions[partition], end)])
                positions[partition] = end

    def _consume(self, consumer: Consumer, positions: dict[int, int]) -> None:
        topic, ends = self._source.topic, self._source.ends
        open_partitions = {p for p in positions if ends is None or positions[p] < ends[p]}
        consumer.assign([TopicPartition(topic, p, positions[p]) for p in sorted(open_partitions)])
        wanted, record_bytes = FIRST_RECORDS, 1
        while open_partitions and not self._ended:
            parts, events, count = self._gather(consumer, wanted)
            if not count:
                self._ask_when_idle()
                continue
            self._heard_from_log_at = time.monotonic()
            nbytes = sum(part.records.nbytes for part in parts)
            batches = self._batches(consumer, parts, events, positions, open_partitions)
            closed = {p for p in open_partitions if ends is not None and positions[p] >= ends[p]}
            if closed:
                consumer.pause([TopicPartition(topic, p) for p in closed])
                open_partitions -= closed
            record_bytes = max(1, nbytes // count, record_bytes // 2)  # large ones may come again
            del parts  # not held while the queue is full
            if batches:
                self._put(batches)
                del batches
            wanted = max(1, min(self._limits.batch_rows, self._limits.batch_bytes // record_bytes, wanted * 4))

    def _gather(self, consumer: Consumer, wanted: int) -> tuple[list[Run], list[Message], int]:
        """Up to ``wanted`` messages that are there: a Run a partition, the events, and how many messages they were.

        A chunk at a time, because making messages and columns holds Python's lock, and whoever decodes waits for it.
        """
        gathered: dict[int, list[pa.RecordBatch]] = {}
        events: list[Message] = []
        count, nbytes, chunk = 0, 0, min(wanted, self._pace.most(CHUNK_RECORDS))
        while count < wanted and nbytes < self._limits.batch_bytes and not self._pace.is_late(count):
            messages = consumer.consume(chunk, CONSUME_WAIT_S)
            parts, more = runs(messages) if messages else ([], [])
            for part in parts:
                gathered.setdefault(part.partition, []).append(part.records)
                nbytes += part.records.nbytes
            events += more
            count += len(messages)
            last = len(messages) < chunk or bool(more)
            del messages, parts  # large records are not held twice
            if last:
                break
        whole = {partition: pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces) for partition, pieces in gathered.items()}
        return [Run(partition, records) for partition, records in whole.items()], events, count

    def _batches(
        self, consumer: Consumer, parts: list[Run], events: list[Message], positions: dict[int, int], open_partitions: set[int]
    ) -> list[Batch]:
        """Batches in partition order of arrival; moves ``positions``."""
        topic, ends = self._source.topic, self._source.ends
        batches: list[Batch] = []
        for part in parts:
            if part.partition in open_partitions:
                batch = part.batch(topic, positions[part.partition], ends[part.partition] if ends is not None else None)
                if batch.end > batch.start:
                    batches.append(batch)
                    positions[part.partition] = batch.end
        for event in events:
            end = self._event(event, positions, consumer)
            partition = event.partition()
            if end is not None and partition in open_partitions:
                end = end if ends is None else min(end, ends[partition])
                if end > positions[partition]:
                    batches.append(Run.empty(topic, partition, positions[partition], end))
                    positions[partition] = end
        return batches

    def _event(self, event: Message, positions: Mapping[int, int], consumer: Consumer) -> int | None:
        """The position of an end-of-partition event; None for what librdkafka mends itself. Raises for what it cannot."""
        error = event.error()
        assert error is not None
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            return int(event.offset())
        topic = self._source.topic
        if code in _LOST:
            partition = event.partition()
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            check_position(Position(topic, partition, positions[partition]), low, high)
        if code in _FATAL or error.fatal():
            self._ask_guard()
            raise KafkaFailed(f"reading topic {topic} failed", error.str())
        self._hear(error)
        return None

    def _hear(self, error: KafkaError) -> None:
        """What librdkafka mends by itself, told once an outage."""
        if time.monotonic() - self._heard_at > TELL_AGAIN_S:
            self._control.notify(f"{self._source.topic}: {error.str()}; waiting for Kafka")
        self._heard_at = time.monotonic()

    def _ask_when_idle(self) -> None:
        """A deleted topic is silent for minutes: ask whether it is still there. Raises LogError."""
        if time.monotonic() - self._heard_from_log_at > IDLE_CHECK_S:
            self._ask_guard()
            self._heard_from_log_at = time.monotonic()

    def _ask_guard(self) -> None:
        """A topic that is another or gone says more than librdkafka's error. Raises LogError."""
        if self._source.guard is not None:
            self._source.guard.consumed()
            self._source.guard.verify()

    @property
    def _ended(self) -> bool:
        return self._control.stopping or self._closing.is_set()

    def _put(self, batches: list[Batch] | None) -> None:
        self._pace.wait(sum(batch.records.num_rows for batch in batches or ()), lambda: self._ended)
        while not self._ended:
            try:
                self._queue.put(batches, timeout=0.1)
            except queue.Full:
                continue
            return


def check_position(position: Position, low: int, high: int) -> None:
    """Raises LogLost or LogCut when a position is outside of what the topic holds, ``[low, high]``."""
    if position.offset < low:
        raise LogLost(position, low)
    if position.offset > high:
        raise LogCut(position, high)


def consumer_config(config: Mapping[str, str], limits: Limits) -> dict[str, object]:
    """The user's settings under ours. What correctness rests on cannot be overridden; what is speed can."""
    speed: dict[str, object] = {
        # a full prefetch queue otherwise backs off for a second (measured: 0.2 against 1.3 M messages/s)
        "fetch.queue.backoff.ms": 10,
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": max(1024, limits.prefetch_bytes // 1024),
        "fetch.wait.max.ms": 100,
        "reconnect.backoff.max.ms": 1000,
        "log_level": 2,  # errors reach us as events
    }
    right: dict[str, object] = {
        "group.id": "kappa-assigned",  # required by librdkafka; no group is ever joined, no offset ever committed
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    }
    return {**speed, **config, **right}
