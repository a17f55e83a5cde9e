"""Corrected records become events exactly once: each in the partition of what it corrects, with the header ``kappa-corrects``."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from connectors.files.corrections import Correction
from connectors.files.input import InputFile
from connectors.load import COMMIT_BYTES, COMMIT_INTERVAL_S, COMMIT_ROWS
from connectors.loads import Identity, LoadState, await_visible, ensure_loads_topic, file_record, now, read_loads
from connectors.producer import RowProducer
from connectors.topics import Admin
from flows.contract import Source
from flows.errors import KappaError
from flows.faults import reach
from flows.ulid import new_ulid

_OVERHEAD_BYTES = 1024  # what Kafka's record format and our headers take at most


class CorrectionTooLarge(KappaError):
    """The topic does not take a corrected record."""

    def __init__(self, correction: Correction, nbytes: int, limit: int) -> None:
        super().__init__(
            f"record {correction.number}, the correction of {correction.position}, is too large",
            cause=f"it has {nbytes} bytes, and the topic takes {limit} (max.message.bytes); nothing was sent",
            next_step="shorten the value, or raise max.message.bytes of the topic",
        )


@dataclass(frozen=True, slots=True)
class Resent:
    """What became of a file: ``state`` as ``kappa.loads`` has it; ``sent`` by this call, 0 when it was ``already`` sent."""

    state: LoadState
    sent: int
    already: bool


class Resender:
    """Sends one file of corrections. Raises TopicMissing, TopicRefused, KafkaUnreachable."""

    def __init__(self, config: Mapping[str, str], source: Source, file: InputFile) -> None:
        self._config = config
        self._source = source
        self._file = file
        self._admin = Admin(config)
        self._topic_id = str(self._admin.describe([source.topic])[source.topic].topic_id)
        self._max_message_bytes = self._admin.max_message_bytes(source.topic)
        ensure_loads_topic(self._admin)
        self._identity = Identity(source.name, file.sha256(), {"corrections": True})

    def earlier(self, *, wait: bool = False) -> LoadState | None:
        """How far the file has been sent to this topic."""
        state = read_loads(self._config, self._admin, wait=wait).states.get(self._identity.key())
        return state if state is not None and state.topic_id == self._topic_id else None

    def send(
        self, corrections: Sequence[Correction], records: int, again: bool, committed: Callable[[Identity, LoadState], None]
    ) -> Resent:
        """Send ``corrections``, of a file of ``records``, behind what an earlier call has sent; all of them with ``again``.

        Raises CorrectionTooLarge, LoadFenced, LoadFailed, LoadsUnreadable.
        """
        for one in corrections:
            nbytes = len(one.value or b"") + len(one.key or b"") + _OVERHEAD_BYTES
            if nbytes > self._max_message_bytes:
                raise CorrectionTooLarge(one, nbytes, self._max_message_bytes)
        producer = RowProducer(self._config, self._identity.transactional_id(), self._source.topic, self._file.uri, self._max_message_bytes)
        reach("resend.fenced")
        try:
            state = self.earlier(wait=True)  # only now: an older one of this file can commit no more
            if state is not None and state.done and not again:
                return Resent(state, 0, already=True)
            if state is None or state.done:
                state = LoadState(new_ulid(), self._file.uri, 0, 0, done=False, at=now(), topic_id=self._topic_id)
            left = [one for one in corrections if one.number > state.rows]
            state = self._transfer(producer, left, state, records, committed)
            await_visible(self._admin)  # a run that is started next reads them
            return Resent(state, len(left), already=False)
        finally:
            producer.abandon()

    def _transfer(
        self,
        producer: RowProducer,
        left: Sequence[Correction],
        state: LoadState,
        records: int,
        committed: Callable[[Identity, LoadState], None],
    ) -> LoadState:
        pending = nbytes = 0
        begun_at = time.monotonic()
        for one in left:
            headers = [("kappa-load", state.load.encode()), ("kappa-row", b"%d" % one.number), one.header]
            assert one.value is not None
            producer.send_to(one.partition, one.value, one.key, headers)
            pending, nbytes = pending + 1, nbytes + len(one.value)
            reach("resend.sent")
            if pending >= COMMIT_ROWS or nbytes >= COMMIT_BYTES or time.monotonic() - begun_at >= COMMIT_INTERVAL_S:
                state = self._commit(producer, state.advanced(one.number, 0, done=False), state.rows == 0)
                committed(self._identity, state)
                pending, nbytes, begun_at = 0, 0, time.monotonic()
        state = self._commit(producer, state.advanced(records, self._file.size, done=True), state.rows == 0)
        committed(self._identity, state)
        return state

    def _commit(self, producer: RowProducer, state: LoadState, first: bool) -> LoadState:
        of_file = [file_record(state.load, self._source.name, self._file.uri)] if first else []
        producer.commit([*of_file, (self._identity.key(), state.value())])
        return state
