"""Files become events exactly once (DESIGN section 5).

Rows go out in Kafka transactions, and each transaction also says in ``kappa.loads`` how far the file has got. So a load that was
killed goes on at the right row, and a file that is loaded twice is noticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from connectors.files.chunk import Broken, Chunk
from connectors.files.errors import FileUnreadable
from connectors.files.input import InputFile
from connectors.files.reading import read_rows, reader_options
from connectors.loads import Identity, LoadState, await_visible, ensure_loads_topic, file_record, now, read_loads
from connectors.producer import RowProducer
from connectors.topics import Admin, ensure_topic
from flows.contract import Source
from flows.errors import KappaError
from flows.faults import reach
from flows.objects import Place
from flows.ulid import new_ulid

COMMIT_ROWS = 100_000
COMMIT_BYTES = 48 * 1024 * 1024
COMMIT_INTERVAL_S = 2.0
# What Kafka's record format, the key's framing and our four headers take at most besides key and value.
_OVERHEAD_BYTES = 1024


class FileChanged(KappaError):
    """A file's content is not what was half loaded, or changed while it was being loaded."""

    def __init__(self, source: str, path: Place, load: str, rows: int, cause: str) -> None:
        super().__init__(
            f"{path} changed while it was half loaded into {source}",
            cause=f"load {load} has sent {rows} rows of its former content; {cause}",
            next_step=f"put the former content back and load it again, or send the new content whole, beside those {rows} rows: "
            f"kappa load {source} {path} --again",
        )
        self.load = load
        self.rows = rows


class RowsElsewhere(KappaError):
    """The topic is not the one to which a file's rows were sent: it was deleted and made again, or the source names another."""

    def __init__(self, source: Source, path: Place, state: LoadState) -> None:
        super().__init__(
            f"the rows of {path} are not in topic {source.topic}",
            cause=f"load {state.load} sent {state.rows} rows on {state.at} to another topic than the one that is called so now",
            next_step=f"send the file whole: kappa load {source.name} {path} --again",
        )
        self.load = state.load


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a load is: rows and bytes (on disk) of the file so far, of ``bytes_total``; ``rows_before``: sent by an earlier run."""

    path: Place
    load: str
    rows: int
    rows_before: int
    bytes: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A finished file. ``sent``: rows sent by this call, 0 when it was ``already`` loaded; ``broken``: how many of them are unreadable."""

    path: Place
    state: LoadState
    sent: int
    broken: int
    already: bool

    @property
    def rows(self) -> int:
        """Of the whole file."""
        return self.state.rows


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told what: ``notice`` lines for people, ``progress`` after every chunk, ``committed`` after every transaction."""

    notice: Callable[[str], None] = lambda line: None
    progress: Callable[[Progress], None] = lambda progress: None
    committed: Callable[[Identity, LoadState], None] = lambda identity, state: None


class Loader:
    """Loads files into one source. Makes the source's topic and ``kappa.loads`` when they are missing.

    Raises TopicRefused, KafkaUnreachable.
    """

    def __init__(self, config: Mapping[str, str], source: Source, watch: Watch | None = None) -> None:
        self._config = config
        self._source = source
        self._watch = watch or Watch()
        self._admin = Admin(config)
        ensure_loads_topic(self._admin)
        if ensure_topic(config, source):
            self._watch.notice(f"made topic {source.topic} ({source.partitions} partition{'s' if source.partitions > 1 else ''})")
        self._topic_id = str(self._admin.describe([source.topic])[source.topic].topic_id)
        self._max_message_bytes = self._admin.max_message_bytes(source.topic)
        # Not waiting for open transactions: one that a killed load left is ended by the fencing of its file, not by its timeout.
        self._known = read_loads(config, self._admin, wait=False)

    def load(self, path: Place, *, again: bool = False) -> Loaded:
        """Send a file, or what an earlier load of it has not sent; nothing when it is loaded already, unless ``again``.

        Raises FileChanged, LoadFenced, LoadFailed, LoadsUnreadable, and what readers raise for a file (connectors.files.errors).
        """
        with InputFile(path) as file:
            identity = Identity(self._source.name, file.sha256(), reader_options(self._source, file))
            state = self._known.states.get(identity.key())
            if state is not None and state.done and state.topic_id == self._topic_id and not again:
                return Loaded(path, state, 0, 0, already=True)  # what is done stays done: this saves a producer
            if self._source.documents is None:
                file.check_compression()
            return self._send(file, identity, again=again)

    def _send(self, file: InputFile, identity: Identity, *, again: bool) -> Loaded:
        rows = read_rows(self._source, file)
        producer = RowProducer(self._config, identity.transactional_id(), self._source.topic, file.uri, self._max_message_bytes)
        reach("load.fenced")
        # Only now: an older load of this file can commit no more, and what it has committed can be seen.
        self._known = read_loads(self._config, self._admin)
        state = self._earlier(file, identity, again=again)
        if state is not None and state.done:
            return Loaded(file.path, state, 0, 0, already=True)
        transfer = _Transfer(self._source, file, identity, self._topic_id, producer, self._watch)
        transfer.first_records += self._replaced(file, identity, transfer, again=again)
        if state is not None:
            transfer.resume(state)
        for notice in rows.notices:
            self._watch.notice(notice)
        try:
            for chunk in rows.chunks:
                transfer.take(_fit(chunk, self._max_message_bytes))
            loaded = transfer.finish()
            await_visible(self._admin)  # a run that is started next reads every row
            return loaded
        except FileUnreadable:
            transfer.keep()
            raise
        finally:
            producer.abandon()

    def _earlier(self, file: InputFile, identity: Identity, *, again: bool) -> LoadState | None:
        """How far this file has got in this topic; None when it must be sent from its first row."""
        state = self._known.states.get(identity.key())
        if state is None:
            return None
        if state.topic_id not in (None, self._topic_id):
            if again:
                return None
            raise RowsElsewhere(self._source, file.path, state)
        return None if state.done and again else state

    def _replaced(self, file: InputFile, identity: Identity, transfer: _Transfer, *, again: bool) -> list[tuple[bytes, bytes]]:
        """Records that say of half-loaded former content of this path that it was replaced."""
        others = self._known.half_loaded(identity, file.uri)
        if others and not again:
            state = others[0][1]
            raise FileChanged(
                self._source.name, file.path, state.load, state.rows, "its content or the source's [csv] options are others now"
            )
        return [(other.key(), replace(state, replaced_by=transfer.state.load).value()) for other, state in others]


class _Transfer:
    """One file on its way: counts rows, decides when to commit, and says how far it has got."""

    def __init__(self, source: Source, file: InputFile, identity: Identity, topic_id: str, producer: RowProducer, watch: Watch) -> None:
        self._source = source
        self._file = file
        self._identity = identity
        self._producer = producer
        self._watch = watch
        self.state = LoadState(new_ulid(), file.uri, 0, 0, done=False, at=now(), topic_id=topic_id)
        self.first_records: list[tuple[bytes, bytes]] = []
        self._before = 0
        self._rows = 0
        self._broken = 0
        self._pending_rows = self._pending_bytes = 0
        self._begun_at = time.monotonic()

    def resume(self, state: LoadState) -> None:
        """Go on after the rows of ``state``, under its load id."""
        self.state = replace(state, uri=self._file.uri)
        self._before = state.rows
        self._watch.notice(f"{self._file.path}: goes on at row {state.rows + 1} of load {state.load}")

    def take(self, chunk: Chunk) -> None:
        """Send what of the chunk has not been sent, and commit when it is time."""
        skipped = min(len(chunk), max(0, self._before - self._rows))
        first_row = self._rows + skipped + 1
        self._rows += len(chunk)
        chunk = chunk.skip(skipped)
        if len(chunk):
            self._producer.send(chunk, first_row, self.state.load)
            self._broken += len(chunk.broken)
            self._pending_rows += len(chunk)
            self._pending_bytes += sum(map(len, chunk.values))
            reach("load.sent")
            if self._due():
                self._commit(done=False)
        self._watch.progress(Progress(self._file.path, self.state.load, self._rows, self._before, self._file.position, self._file.size))

    def keep(self) -> None:
        """Commit the rows before the place where the file cannot be read on; the file is not done."""
        if self._pending_rows:
            self._commit(done=False)

    def finish(self) -> Loaded:
        """Commit the last rows, and that the file is done."""
        self._commit(done=True)
        return Loaded(self._file.path, self.state, self._rows - self._before, self._broken, already=False)

    def _due(self) -> bool:
        waited_s = time.monotonic() - self._begun_at
        return self._pending_rows >= COMMIT_ROWS or self._pending_bytes >= COMMIT_BYTES or waited_s >= COMMIT_INTERVAL_S

    def _commit(self, *, done: bool) -> None:
        if self._file.changed:
            raise FileChanged(
                self._source.name, self._file.path, self.state.load, self.state.rows, "someone wrote to it while it was being read"
            )
        first = self.first_records
        if self.state.rows == 0:
            first = [file_record(self.state.load, self._source.name, self._file.uri), *first]
        state = self.state.advanced(self._rows, self._file.size if done else self._file.position, done=done)
        self._producer.commit([*first, (self._identity.key(), state.value())])
        self.state, self.first_records = state, []
        self._pending_rows = self._pending_bytes = 0
        self._begun_at = time.monotonic()
        self._watch.committed(self._identity, state)


def _fit(chunk: Chunk, max_message_bytes: int) -> Chunk:
    """The chunk with every row that the topic cannot take cut and marked."""
    room = max_message_bytes - _OVERHEAD_BYTES
    if max(map(len, chunk.values)) * 2 < room:  # a key is no longer than its value
        return chunk
    keys, values, broken = list(chunk.keys), list(chunk.values), dict(chunk.broken)
    for index, value in enumerate(values):
        size = len(value) + len(keys[index] or b"")
        if size > room:
            cause = f"{size} bytes are more than the topic takes (max.message.bytes is {max_message_bytes}): only their beginning is kept"
            keys[index], values[index] = None, value[:room]
            broken.setdefault(index, Broken(cause, None))
    return Chunk(keys, values, broken)
