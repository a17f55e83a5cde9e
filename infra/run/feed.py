"""One source of a run: its log, the owners of its tables, and the flows that feed them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow

from connectors.errors import PartitionsChanged
from connectors.extent import Extent
from connectors.guard import Log
from connectors.kafka import KafkaSource, Progress, check_position
from connectors.memory import RecordsSource
from flows.archive import Archive
from flows.batch import Failure, Position
from flows.contract import Source
from flows.control import RunControl
from flows.dataflow import build
from flows.errors import KappaError
from flows.plan import Node
from flows.settings import Settings
from flows.sql.rewrite import ROW
from flows.summary import Summary
from infra.run.budget import Budget
from infra.run.eras import Eras, Makers
from infra.run.selection import Fed, Target
from infra.run.summaries import Followed
from sinks.address import TableAddress
from sinks.files import FileWriter, Pending
from sinks.follow import Follower
from sinks.history import newest
from sinks.keys import Keys
from sinks.maintenance import Maintenance
from sinks.merge import Merge
from sinks.owner import CommitInfo
from sinks.rejects import StoredRejects
from sinks.sink import TableParts, TableSink, write_failure
from sinks.versions import Versions


@dataclass(slots=True)
class Feed:
    """Everything that the flows of one source need. ``extent``: low and stable end offset of each partition, as of the run's start;
    ``live``: the address of a table's live generation; ``versions``: where summaries are computed; ``stored``: what has been rejected
    before, for a source that takes corrections; ``archive``: what is kept of records that the topic has dropped; ``eras``: by what rows at
    earlier positions are made.
    """

    source: Source
    nodes: list[Node]
    config: Mapping[str, str]
    extent: Extent
    guard: Log
    control: RunControl
    settings: Settings
    budget: Budget
    pool: ThreadPoolExecutor
    still_live: Callable[[Fed], str | None]
    committed: Callable[[Fed, CommitInfo], None]
    live: Callable[[str], TableAddress | None]
    versions: Versions
    eras: Eras
    fed: list[Fed] = field(default_factory=list)
    followed: list[Followed] = field(default_factory=list)
    stored: StoredRejects | None = None
    archive: Archive | None = None
    begin: Mapping[int, int] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    @property
    def streams(self) -> list[Fed]:
        """The tables that are fed from the log; the others are summaries, which follow one of them."""
        return [fed for fed in self.fed if fed.target.definition.summary is None]

    def positions(self, fed: Fed) -> dict[int, int]:
        """Where a table stands: partition -> next offset; a new generation begins at the log's start, or where ``begin`` says."""
        held = {partition: offset for (topic, partition), offset in fed.owner.positions.items() if topic == self.source.topic}
        return held or {**self.low, **self.begin}

    @property
    def low(self) -> dict[int, int]:
        """The least offset of each partition that can be read, in the topic or in its archive."""
        return {p: self.reach(p, low) for p, low in self.extent.low.items()}

    def reach(self, partition: int, low: int) -> int:
        """The same, of a partition that begins at ``low`` in the topic."""
        start, end = (self.archive.spans if self.archive is not None else {}).get(partition, (low, low))
        return start if start <= low <= end else low

    def held(self) -> list[Position]:
        """The least position of the tables in each partition, for people."""
        vectors = [self.positions(fed) for fed in self.fed]
        return [Position(self.source.topic, p, min(v[p] for v in vectors if p in v)) for p in sorted({p for v in vectors for p in v})]

    def check_position(self, fed: Fed) -> None:
        """Raises PartitionsChanged, LogLost or LogCut when the log no longer has what comes next for a table."""
        topic, now, positions = self.source.topic, frozenset(self.extent.low), self.positions(fed)
        if frozenset(positions) != now:
            held = [Position(topic, p, o) for p, o in sorted(positions.items())]
            raise PartitionsChanged(topic, frozenset(positions), now, held)
        for partition, offset in positions.items():
            check_position(Position(topic, partition, offset), self.low[partition], self.extent.high[partition])

    def own(self, targets: Iterable[Target], claim: Callable[[Target], Fed]) -> None:
        """Claim the tables. One that cannot be claimed fails with what derives from it; the others go on. Raises what stops a run."""
        for target in targets:
            try:
                self.fed.append(claim(target))
            except Exception as error:
                if isinstance(error, KappaError) and error.stops_run:
                    raise
                self.control.fail(Failure.of(target.name, error))
        self.leave_failed()

    def leave_failed(self) -> None:
        """Feed failed tables no more, and write into each why, unless its sink has done so."""
        failures = self.control.failures
        for fed in self.fed:
            failure = failures.get(fed.target.name)
            if failure is not None and fed.owner.failure != failure and self.control.fatal is None:
                write_failure(fed.owner, failure, self.control)
        self.fed = [fed for fed in self.fed if fed.target.name not in failures]
        self.followed = [each for each in self.followed if each.fed in self.fed]

    def follow_all(self) -> None:
        """Bring every summary to where its upstream stands: the one that this run feeds, or the live one of another run."""
        known = {each.fed.target.name for each in self.followed}
        for fed in self.fed:
            summary = fed.target.definition.summary
            if summary is not None and fed.target.name not in known:
                self.followed.append(self._followed(fed, summary))
        feds = {fed.target.name: fed for fed in self.fed}
        for each in self.followed:
            upstream = feds.get(each.upstream)
            if upstream is not None:
                each.follow(upstream.owner.version, upstream.owner.record)
            elif (last := newest(each.follower.address)) is not None and last.record is not None:
                each.follow(last.version, last.record)
        self.leave_failed()

    def _followed(self, fed: Fed, summary: Summary) -> Followed:
        upstream = next((each for each in self.fed if each.target.name == summary.upstream), None)
        address = upstream.owner.address if upstream is not None else self.live(summary.upstream)
        upsert = next((node.upsert for node in self.nodes if node.name == summary.upstream), None)
        assert address is not None, "a summary is fed with its upstream, or built beside a live one"
        follower = Follower(summary, fed.owner, address, upsert, self._pending(fed), self.versions)
        maintenance = Maintenance(self.settings.maintenance, self.pool, compacts=False)
        return Followed(fed, follower, maintenance, self.control, self.still_live, self.committed)

    def _landed(self, fed: Fed, info: CommitInfo) -> None:
        """After a commit of a stream: its summaries follow, before the next table commits."""
        self.committed(fed, info)
        for each in self.followed:
            if each.upstream == fed.target.name:
                each.follow(info.version, info.record)

    def _failed(self, fed: Fed) -> None:
        for each in self.followed:
            if each.upstream == fed.target.name:
                each.upstream_failed()

    def _still_live(self, fed: Fed) -> str | None:
        why = self.still_live(fed)
        for each in self.followed if why is not None else ():
            if each.upstream == fed.target.name:
                each.end(f"its upstream ends: {why}")
        return why

    def run(self, *, until: Mapping[int, int] | None, caught_up: Callable[[list[Fed]], None] = lambda tables: None) -> None:
        """Feed the tables up to ``until`` (None: until stopped). Those that lag catch up first, then ``caught_up`` is called."""
        self.follow_all()
        lagging = self.lagging()
        if lagging:
            most = self._greatest(fed for fed in self.streams if fed not in lagging)
            self.control.notify(f"{self.source.name}: {', '.join(fed.target.name for fed in lagging)} catch up first")
            self.flow(lagging, most)
            self.leave_failed()
            if not self.control.stopping:
                caught_up([fed for fed in self.fed if fed in lagging or self._follows(fed, lagging)])
        if self.streams and not self.control.stopping:
            self.flow(self.streams, until)

    def _follows(self, fed: Fed, streams: Iterable[Fed]) -> bool:
        summary = fed.target.definition.summary
        return summary is not None and any(each.target.name == summary.upstream for each in streams)

    def flow(self, tables: list[Fed], until: Mapping[int, int] | None) -> None:
        """Run one dataflow to its end, in this thread; and before it one for each stretch of positions whose rows are made otherwise."""
        while tables and not self.control.stopping and (stretch := self.eras.stretches(before := self._least(tables), until)) is not None:
            self._flow(self.dataflow(tables, *stretch))
            self.leave_failed()
            tables = [fed for fed in tables if fed in self.fed]
            if tables and self._least(tables) == before:
                return  # a table has ended, as was said
        if tables and not self.control.stopping:
            self._flow(self.dataflow(tables, self.eras.now, until))

    def _flow(self, flow: Dataflow) -> None:
        cluster_main(flow, [], 0, epoch_interval=timedelta(0), worker_count_per_proc=self.settings.run.workers)  # type: ignore[no-untyped-call]
        for each in self.followed:
            each.finish()

    def dataflow(self, tables: list[Fed], makers: Makers, until: Mapping[int, int] | None) -> Dataflow:
        """The Bytewax dataflow of ``tables``, from the least of their positions, all of which ``makers`` make."""
        log = self.read(self._least(tables), until)
        log.progress.records, log.progress.nbytes = self.progress.records, self.progress.nbytes  # of the flows before, too
        self.progress = log.progress
        sinks = {fed.target.name: TableSink(fed.target.name, self._parts(fed), self.control) for fed in tables}
        limit, memory = self.settings.run.max_rejects, self.budget.duckdb_bytes
        return build(makers.source, makers.nodes, sinks, log, self.control, limit, memory, self.stored, self.eras.schemas)

    def _least(self, tables: Iterable[Fed]) -> dict[int, int]:
        vectors = [self.positions(fed) for fed in tables]
        return {p: min(vector[p] for vector in vectors) for p in self.extent.low}

    def read(self, starts: Mapping[int, int], until: Mapping[int, int] | None) -> KafkaSource | RecordsSource:
        """What gives the flow its batches."""
        limits, low = self.budget.limits, self.extent.low
        return KafkaSource(self.config, self.source.topic, starts, until, limits, self.control, self.guard, self.archive, low)

    def _parts(self, fed: Fed) -> TableParts:
        definition = fed.target.definition
        return TableParts(
            owner=fed.owner,
            starts={(self.source.topic, p): offset for p, offset in self.positions(fed).items()},
            pending=self._pending(fed),
            multiplies=ROW in definition.schema.names,
            maintenance=Maintenance(self.settings.maintenance, self.pool, self.budget.flush_bytes, compacts=definition.upsert is None),
            pool=self.pool,
            flush_bytes=self.budget.flush_bytes,
            still_live=lambda: self._still_live(fed),
            committed=lambda info: self._landed(fed, info),
            failed=lambda: self._failed(fed),
        )

    def _pending(self, fed: Fed) -> Callable[[], Pending]:
        """What gathers the rows of one commit: appended files, or leaves merged anew."""
        definition = fed.target.definition
        writer = FileWriter(fed.owner.address, definition.schema, definition.partition_by, durable=self.settings.maintenance.durable)
        if definition.summary is not None:
            keys, retention_s = Keys.of_groups(definition.summary.group, definition.schema, definition.partition_by), None
            open_sequence = None
            combine_sql = definition.summary.partials.combine_sql if definition.summary.partials else None
        elif definition.upsert is not None:
            keys = Keys.of_upsert(definition.upsert, definition.schema, definition.partition_by)
            retention_s, open_sequence = definition.upsert.tombstone_retention_s, definition.upsert.open_sequence
            combine_sql = None
        else:
            return writer.draft
        owner, budget = fed.owner, self.budget
        return Merge(
            writer,
            keys,
            lambda: owner.version,
            self.pool,
            tombstone_retention_s=retention_s,
            open_sequence=open_sequence,
            combine_sql=combine_sql,
            leaf_bytes=budget.leaf_bytes,
            duckdb_bytes=budget.duckdb_bytes,
        ).pending

    def _greatest(self, tables: Iterable[Fed]) -> dict[int, int]:
        vectors = [self.positions(fed) for fed in tables]
        return {p: max(vector[p] for vector in vectors) for p in self.extent.low}

    def lagging(self) -> list[Fed]:
        """Tables further behind the foremost than ``catch_up_records`` (by offsets), and new ones that are behind at all: readers see a
        new table once it has caught up, because a cut is no greater than what every table holds.
        """
        streams = self.streams
        most = self._greatest(streams) if streams else {}
        limits = {fed.target.name: self.settings.run.catch_up_records if fed.target.live else 0 for fed in streams}
        behind = [fed for fed in streams if sum(most[p] - o for p, o in self.positions(fed).items()) > limits[fed.target.name]]
        return behind if len(behind) < len(streams) else []

    def published_late(self) -> list[Fed]:
        """The tables that readers see once they have caught up, and the summaries that follow these."""
        lagging = self.lagging()
        return [fed for fed in self.fed if fed in lagging or self._follows(fed, lagging)]


def run_all(feeds: list[Feed], work: Callable[[Feed], None], control: RunControl) -> None:
    """Run ``work`` of every feed in a thread of its own; return when all have ended. An unexpected exception stops the run."""

    def guarded(feed: Feed) -> None:
        try:
            work(feed)
        except KappaError as error:
            control.abort(error)
        except Exception as error:  # noqa: BLE001 - a thread's error must reach the user
            control.abort(
                KappaError(f"the flow of {feed.source.name} broke off", cause=f"{type(error).__name__}: {error}", next_step="kappa run")
            )

    threads = [threading.Thread(target=guarded, args=(feed,), name=f"flow-{feed.source.name}", daemon=True) for feed in feeds]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(0.2)  # the main thread stays free for signals
