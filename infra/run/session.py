"""``kappa run`` from beginning to end: select, claim, feed, follow what is swapped in, report."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bytewax.dataflow import Dataflow

from connectors.errors import LogError, TopicGone
from connectors.extent import Extent, extent
from connectors.guard import Log, LogGuard
from connectors.topics import TopicMissing, ensure_topic
from flows.batch import Position
from flows.contract import Source
from flows.control import RunControl
from flows.errors import KappaError
from flows.ledger import RunIdentity
from flows.project import Project
from infra.addresses import resolve
from infra.metadata import Mirror
from infra.run.archive import archive_of
from infra.run.budget import share
from infra.run.corrections import stored_rejects
from infra.run.cuts import CutPublisher
from infra.run.eras import Eras
from infra.run.feed import Feed, run_all
from infra.run.identity import has_ended, this_process
from infra.run.live import Live, of_catalogue, of_folder
from infra.run.materialize import Materializer
from infra.run.publishing import Publisher
from infra.run.refresh import Refresher
from infra.run.selection import Fed, Target, live_targets, select, with_upstreams
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState
from sinks.errors import LogChanged
from sinks.history import newest
from sinks.owner import CommitInfo, Owner
from sinks.record import CommitRecord
from sinks.versions import Versions

YOUNG_S = 60.0
WATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What a run shall feed: tables, sources; none: everything."""

    names: tuple[str, ...] = ()
    until_caught_up: bool = False


class NothingToFeed(KappaError):
    """None of a source's tables can be fed."""

    def __init__(self, source: str) -> None:
        super().__init__(f"no table of {source} can be fed", cause="each of them failed, as said above", next_step="kappa tables")


class RowsOfBefore(KappaError):
    """A table has to pass positions whose rows are made by an earlier definition: that takes more than one dataflow."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"the tables of {source} cannot be fed by one dataflow",
            cause="one of them stands below the positions of a change that was applied forward only",
            next_step="kappa run --until-caught-up; then this again",
        )


class Session:
    """One run of a warehouse in this process."""

    def __init__(self, project: Project, control: RunControl, mirror: Mirror, config: Mapping[str, str] | None = None) -> None:
        """``config``: librdkafka's; None: of the settings or the local stack. Raises ProjectInvalid, StackDown."""
        self.control = control
        self._mirror = mirror
        self.folder = of_folder(project)
        self.use(self.folder)
        self.config: Mapping[str, str] = resolve(project).kafka if config is None else config
        self.catalog = Catalog(project.storage)
        self.catalog.create(project.settings.name)
        self.identity = this_process()
        self._state = CatalogState()
        self._publisher = Publisher(self.catalog, mirror, self.identity)
        self._cuts = CutPublisher(project.storage, project.settings, f"run, {self.identity}", control.notify)
        self.feeds: list[Feed] = []
        self.records_per_s: float | None = None

    def run(self, request: Request) -> None:
        """Run until stopped, or until caught up. Errors go to ``control``."""
        self.recorded(lambda: self._feed_live(request))

    def recorded(self, work: Callable[[], None]) -> None:
        self._mirror.run_started(self.identity)
        try:
            work()
        except KappaError as error:
            self.control.abort(error)
        finally:
            for feed in self.feeds:
                feed.versions.close()
            fatal, failures = self.control.fatal, self.control.failures
            status = "stopped" if fatal is not None else "failed" if failures else "ended"
            self._mirror.run_ended(
                self.identity, status, str(fatal) if fatal is not None else "; ".join(f.cause for f in failures.values()) or None
            )

    def dataflow(self, source: str, pool: ThreadPoolExecutor) -> Dataflow:
        """The flow of one source's tables, claimed and published, not yet running. Raises KappaError."""
        self.use_live()
        self.open_live(select([source], self.plan, self.definitions), pool)
        if not self.feeds:
            raise NothingToFeed(source)
        (feed,) = self.feeds
        if feed.eras.stretches({held.partition: held.offset for held in feed.held()}, None) is not None:
            raise RowsOfBefore(source)
        return feed.dataflow(feed.streams, feed.eras.now, until=None)

    def use_live(self) -> None:
        """Feed what is live now, and what is new in the folder."""
        self._state = self.catalog.read()
        self.use(of_catalogue(self.folder, self._state, self.catalog))

    def use(self, live: Live) -> None:
        """What to feed, by which definitions."""
        self._fed_by = live
        self.project, self.plan, self.definitions = live.project, live.plan, live.definitions
        for line in live.differs:
            self.control.notify(line)

    def _feed_live(self, request: Request) -> None:
        """Feed what is live; when other generations go live meanwhile, go on with these."""
        while True:
            self.use_live()
            tables = select(request.names, self.plan, self.definitions)
            with ThreadPoolExecutor(2, thread_name_prefix="write") as pool, self._watching():
                self.open_live(with_upstreams(tables, self.definitions), pool, everything=not request.names)
                if not self.control.stopping:
                    with self.refreshing(tables, pool):
                        run_all(
                            self.feeds,
                            lambda feed: feed.run(until=feed.extent.stable if request.until_caught_up else None, caught_up=self._caught_up),
                            self.control,
                        )
            if not self.control.reopen():
                if self.control.fatal is None:
                    self._cuts.publish()
                return
            self.control.notify("going on with what is live now")
            for feed in self.feeds:
                feed.versions.close()
            self.feeds = []

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Look now and then whether the generations that are fed are still live: a source on which nothing arrives does not ask."""
        ended = threading.Event()

        def watch() -> None:
            seen = None
            while not ended.wait(WATCH_S) and not self.control.stopping:
                with suppress(KappaError):  # whoever commits next meets it too
                    self._cuts.publish_when_due()
                    numbers = self.catalog.numbers()
                    if numbers != seen:
                        seen = numbers
                        for feed in list(self.feeds):
                            for fed in list(feed.fed):
                                if (why := self._publisher.still_live(fed)) is not None:
                                    self.control.end(fed.target.name, why)

        watcher = threading.Thread(target=watch, name="watch-catalogue", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()

    @contextmanager
    def refreshing(self, tables: list[str], pool: ThreadPoolExecutor) -> Iterator[None]:
        """Make the materialized tables beside the streams, and once more at the end."""
        made = [name for name in tables if self.definitions[name].materialized is not None]
        targets = live_targets(made, self.definitions, self.catalog, self._state)
        refresher = Refresher(self.catalog, self.materializer(pool), targets, lambda target: self.publish([target], "run"))
        refresher.start(self.control)
        try:
            yield
        finally:
            refresher.finish(self.control)

    def materializer(self, pool: ThreadPoolExecutor) -> Materializer:
        """What makes materialized tables for this session."""
        settings = self.project.settings

        def committed(target: Target, info: CommitInfo) -> None:
            self._mirror.commit(target.name, target.generation, info)

        duckdb_bytes = share(settings.run, len(self.feeds) + 1, 1).duckdb_bytes
        return Materializer(self.project.storage, settings.maintenance, self.identity, self.control, pool, duckdb_bytes, committed)

    # --- opening

    def open_live(self, tables: list[str], pool: ThreadPoolExecutor, *, everything: bool = False) -> None:
        """Claim ``tables`` as they are live, or new, and publish the new ones."""
        streams = [name for name in tables if self.definitions[name].materialized is None]
        targets = live_targets(streams, self.definitions, self.catalog, self._state)
        self.open(targets, pool)
        for feed in self.feeds:
            feed.follow_all()
        new = [fed.target for feed in self.feeds for fed in feed.fed if not fed.target.live and fed not in feed.published_late()]
        self.publish(new, "run", whole=everything)

    def _caught_up(self, tables: list[Fed]) -> None:
        self.publish([fed.target for fed in tables if not fed.target.live], "run")

    def open(self, targets: list[Target], pool: ThreadPoolExecutor, own: Callable[[Feed, Target], Fed] | None = None) -> None:
        """Make a feed of each source of ``targets``, whose tables are claimed by ``own``. Raises what stops a run."""
        self.control.feed({target.name: target.definition.parent for target in targets})
        by_source: dict[str, list[Target]] = defaultdict(list)
        for target in targets:
            by_source[target.definition.source].append(target)
        most_tables = max((sum(t.definition.role != "rejected" for t in mine) for mine in by_source.values()), default=1)
        beside = any(definition.materialized is not None for definition in self.definitions.values())
        budget = share(self.project.settings.run, len(by_source) + beside, most_tables)
        budget = replace(budget, limits=replace(budget.limits, records_per_s=self.records_per_s and self.records_per_s / len(by_source)))
        for name, mine in by_source.items():
            source = self.project.sources[name]
            guard, held = self.log(source, mine)
            feed = self.feed(
                source=source,
                nodes=[node for node in self.plan.nodes.values() if node.source == name],
                config=self.config,
                extent=held,
                guard=guard,
                control=self.control,
                settings=self.project.settings,
                budget=budget,
                pool=pool,
                still_live=self._publisher.still_live,
                committed=self._committed,
                live=self.live,
                versions=Versions(budget.duckdb_bytes),
                eras=Eras(self._fed_by, name, guard.identity.topics.get(source.topic)),
            )
            feed.archive = archive_of(self.catalog, name, source.topic, guard.identity, feed.extent.low)
            feed.own(mine, partial(own or self.own, feed))
            guard.held = feed.held
            if source.corrections:
                feed.stored = stored_rejects(feed, self.project.storage, self.definitions, self.catalog)
            if feed.fed:
                self._say_where_new_ones_begin(feed)
                self.feeds.append(feed)

    def log(self, source: Source, targets: list[Target]) -> tuple[Log, Extent]:
        """The log that feeds ``targets``, as it is now. Raises LogError, KafkaFailed and what else Kafka says."""
        guard = self._guard(source, targets)
        return guard, extent(self.config, source.topic, guard.partitions, self.control)

    def feed(self, **parts: Any) -> Feed:
        """See Feed."""
        return Feed(**parts)

    def own(self, feed: Feed, target: Target) -> Fed:
        """Own a table; in the place of one that nobody reads yet, and that cannot go on with the log as it is, a new generation.

        Raises LogChanged, and what ``Feed.check_position`` raises, when the log is not the one that a live table was built from.
        """
        try:
            return self._own(feed, target)
        except (LogChanged, LogError):
            if target.live:
                raise
        definition = target.definition
        generation = self.catalog.new_generation(target.name, definition.fingerprint, definition.stored)
        return self._own(feed, replace(target, generation=generation))

    def _own(self, feed: Feed, target: Target) -> Fed:
        fed = Fed(target, self._claim(target, feed.guard))
        if target.definition.summary is None:  # which reads its upstream, not the log
            feed.check_position(fed)
        return fed

    def _say_where_new_ones_begin(self, feed: Feed) -> None:
        new = [fed.target.name for fed in feed.streams if not fed.owner.positions]
        for p, start in sorted(feed.low.items()) if new else ():
            if start < feed.extent.low[p]:
                kept = f"{feed.source.topic}/{p} begins at offset {feed.extent.low[p]}: what was before, from {start}, is read from raw"
                self.control.notify(f"{kept}.{feed.source.name}")
        starts = [f"{feed.source.topic}/{p} begins at offset {low}" for p, low in sorted(feed.low.items()) if low]
        if new and starts:
            self.control.notify(f"{', '.join(starts)}: what was before is not in the new {', '.join(new)}")

    def _guard(self, source: Source, targets: list[Target]) -> LogGuard:
        """The log as it is now. A topic that is missing is made, unless a table has read from it already."""
        try:
            return LogGuard(self.config, source.topic, self.control)
        except TopicMissing:
            self._refuse_if_read(source.topic, targets)
        ensure_topic(self.config, source, self.control)
        self.control.notify(f"{source.name}: topic {source.topic} did not exist and was made")
        return LogGuard(self.config, source.topic, self.control)

    def _refuse_if_read(self, topic: str, targets: list[Target]) -> None:
        """Raises TopicGone when a table, or the live generation that it is built beside, has read from the topic."""
        live = {name: entry.generation for name, entry in self.catalog.read().tables.items()}
        for target in targets:
            for generation in {target.generation, live.get(target.name, target.generation)}:
                last = newest(TableAddress(self.project.storage, target.name, generation))
                if last is not None and last.record is not None and (held := _held(last.record, topic)):
                    raise TopicGone(topic, last.record.log, held)

    def _claim(self, target: Target, guard: Log) -> Owner:
        definition = target.definition
        address = TableAddress(self.project.storage, target.name, target.generation)
        self._warn_when_young(address)
        maintenance = self.project.settings.maintenance
        return Owner.claim(
            address,
            definition.schema,
            definition.partition_by,
            self.identity,
            guard.identity,
            verify_log=guard.verify,
            retention_s=maintenance.retention_s,
            durable=maintenance.durable,
        )

    def _warn_when_young(self, address: TableAddress) -> None:
        """Another run may be at work on the table: say that this one takes it over."""
        if (young := self._young(address)) is not None:
            run, age_s = young
            self.control.notify(f"{address.name}: {run} committed {age_s:.0f} s ago; if it still runs, it stops now")

    def _young(self, address: TableAddress) -> tuple[RunIdentity, float] | None:
        """The run that may still be at work on a table, and the age of its last commit in seconds."""
        last = newest(address)
        if last is None or last.record is None or has_ended(last.record.run) or last.record.run == self.identity:
            return None
        age_s = (datetime.now(UTC) - last.at).total_seconds()
        return (last.record.run, age_s) if age_s < YOUNG_S else None

    # --- what the sinks call

    def publish(self, targets: list[Target], by: str, *, base: CatalogState | None = None, whole: bool = False) -> None:
        gone = self._publisher.publish(targets, self._fed_by, by, base=base, whole=whole)
        if gone:
            where = ", ".join(f"{name} (its data stays in {entry.path})" for name, entry in gone.items())
            self.control.notify(f"no file defines these tables any more, so they left the catalogue: {where}")

    def live(self, table: str) -> TableAddress | None:
        entry = self.catalog.read().tables.get(table)
        return None if entry is None else TableAddress(self.project.storage, table, entry.generation)

    def _committed(self, fed: Fed, info: CommitInfo) -> None:
        self._mirror.commit(fed.target.name, fed.target.generation, info)


def _held(record: CommitRecord, topic: str) -> list[Position]:
    return [Position(topic, partition, offset) for (name, partition), offset in sorted(record.positions.items()) if name == topic]
