"""``kappa run`` from beginning to end: select, claim, rebuild and swap, feed, report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from bytewax.dataflow import Dataflow

from connectors.errors import LogError, TopicGone
from connectors.extent import extent
from connectors.guard import LogGuard
from connectors.topics import TopicMissing, ensure_topic
from flows.batch import Position
from flows.contract import Source
from flows.control import RunControl
from flows.errors import KappaError
from flows.fingerprint import Definition, definitions
from flows.plan import analyse, require
from flows.project import Project
from infra.addresses import resolve
from infra.metadata import Mirror
from infra.run.budget import share
from infra.run.corrections import stored_rejects
from infra.run.feed import Feed, run_all
from infra.run.identity import has_ended, this_process
from infra.run.rebuild import reach_live, refuse_loss
from infra.run.selection import Fed, Target, descendants, live_targets, rebuilt_targets, select, with_upstreams
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry, ordinal
from sinks.errors import LogChanged
from sinks.history import newest
from sinks.owner import CommitInfo, Owner
from sinks.record import CommitRecord
from sinks.versions import Versions

YOUNG_S = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. ``rebuild``: build new generations of the named tables and of what derives from them."""

    names: tuple[str, ...] = ()
    until_caught_up: bool = False
    rebuild: bool = False
    accept_lost: bool = False


class Overtaken(KappaError):
    """A later generation went live while this one was built."""

    def __init__(self, target: Target, live: str) -> None:
        super().__init__(
            f"{target.name}: generation {target.generation} is not swapped in",
            cause=f"generation {live}, which is newer, went live meanwhile",
            next_step=f"kappa show {target.name}; kappa run feeds what is live",
        )


class NotSwapped(KappaError):
    """A rebuild was stopped before it had done what it was asked for."""

    def __init__(self) -> None:
        super().__init__(
            "the rebuild was stopped before the swap",
            cause="it was told to stop; the live generations are as they were",
            next_step="the same command goes on with what is built",
        )


class NothingToFeed(KappaError):
    """None of a source's tables can be fed."""

    def __init__(self, source: str) -> None:
        super().__init__(f"no table of {source} can be fed", cause="each of them failed, as said above", next_step="kappa tables")


class Session:
    """One run of a warehouse in this process."""

    def __init__(self, project: Project, control: RunControl, mirror: Mirror) -> None:
        self._project = project
        self._control = control
        self._mirror = mirror
        self._plan = analyse(project)
        require(self._plan)
        self._definitions: dict[str, Definition] = definitions(project, self._plan)
        self._config: Mapping[str, str] = resolve(project).kafka
        self._catalog = Catalog(project.storage)
        self._catalog.create(project.settings.name)
        self._run = this_process()
        self.feeds: list[Feed] = []

    def run(self, request: Request) -> None:
        """Run until stopped, or until caught up. Errors go to ``control``."""
        self._mirror.run_started(self._run)
        try:
            self._do(request)
        except KappaError as error:
            self._control.abort(error)
        finally:
            for feed in self.feeds:
                feed.versions.close()
            fatal, failures = self._control.fatal, self._control.failures
            status = "stopped" if fatal is not None else "failed" if failures else "ended"
            self._mirror.run_ended(
                self._run, status, str(fatal) if fatal is not None else "; ".join(f.cause for f in failures.values()) or None
            )

    def dataflow(self, source: str, pool: ThreadPoolExecutor) -> Dataflow:
        """The flow of one source's tables, claimed and published, not yet running. Raises KappaError."""
        self._open_live(select([source], self._plan, self._definitions), pool)
        if not self.feeds:
            raise NothingToFeed(source)
        (feed,) = self.feeds
        return feed.dataflow(feed.streams, until=None)

    def _do(self, request: Request) -> None:
        tables = select(request.names, self._plan, self._definitions)
        with ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            if request.rebuild:
                self._rebuild(descendants(tables, self._definitions), pool, accept_lost=request.accept_lost)
            else:
                self._open_live(with_upstreams(tables, self._definitions), pool, everything=not request.names)
            if not self._control.stopping:
                run_all(
                    self.feeds,
                    lambda feed: feed.run(until=feed.extent.stable if request.until_caught_up else None, caught_up=self._caught_up),
                    self._control,
                )

    # --- opening

    def _open_live(self, tables: list[str], pool: ThreadPoolExecutor, *, everything: bool = False) -> None:
        targets = live_targets(tables, self._definitions, self._catalog)
        self._open(targets, pool)
        for feed in self.feeds:
            feed.follow_all()
        new = [fed.target for feed in self.feeds for fed in feed.fed if not fed.target.live and fed not in feed.published_late()]
        self._publish(new, "run", forget=everything)

    def _caught_up(self, tables: list[Fed]) -> None:
        self._publish([fed.target for fed in tables if not fed.target.live], "run")

    def _open(self, targets: list[Target], pool: ThreadPoolExecutor, *, rebuild: bool = False) -> None:
        self._control.feed({target.name: target.definition.parent for target in targets})
        by_source: dict[str, list[Target]] = defaultdict(list)
        for target in targets:
            by_source[target.definition.source].append(target)
        most_tables = max((sum(t.definition.role != "rejected" for t in mine) for mine in by_source.values()), default=1)
        budget = share(self._project.settings.run, len(by_source), most_tables)
        for name, mine in by_source.items():
            source = self._project.sources[name]
            guard = self._guard(source, mine)
            feed = Feed(
                source=source,
                nodes=[node for node in self._plan.nodes.values() if node.source == name],
                config=self._config,
                extent=extent(self._config, source.topic, guard.partitions, self._control),
                guard=guard,
                control=self._control,
                settings=self._project.settings,
                budget=budget,
                pool=pool,
                still_live=self._still_live,
                committed=self._committed,
                live=self._live,
                versions=Versions(budget.duckdb_bytes),
            )
            feed.own(mine, partial(self._rebuilt if rebuild else self._fed, feed))
            guard.held = feed.held
            if source.corrections:
                feed.stored = stored_rejects(feed, self._project.storage, self._definitions, self._catalog)
            if feed.fed:
                self._say_where_new_ones_begin(feed)
                self.feeds.append(feed)

    def _fed(self, feed: Feed, target: Target) -> Fed:
        """Own a table. Raises LogChanged, and what ``Feed.check_position`` raises, when the log is not the one that it was built from."""
        fed = Fed(target, self._claim(target, feed.guard))
        if target.definition.summary is None:  # which reads its upstream, not the log
            feed.check_position(fed)
        return fed

    def _rebuilt(self, feed: Feed, target: Target) -> Fed:
        """Own a generation beside the live one; one begun on another log, or over another upstream, is left behind for a new one."""
        try:
            fed = self._fed(feed, target)
            if not self._follows_another(feed, fed):
                return fed
        except (LogChanged, LogError):
            pass
        definition = target.definition
        generation = self._catalog.new_generation(target.name, definition.fingerprint, definition.json)
        return self._fed(feed, replace(target, generation=generation))

    def _follows_another(self, feed: Feed, fed: Fed) -> bool:
        """Whether a summary was begun over another generation of its upstream than the one that it would follow now."""
        summary, begun = fed.target.definition.summary, fed.owner.record.upstream
        if summary is None or begun is None:
            return False
        beside = next((each.target.generation for each in feed.fed if each.target.name == summary.upstream), None)
        live = self._live(summary.upstream)
        return begun.generation != (beside or (live.generation if live is not None else None))

    def _say_where_new_ones_begin(self, feed: Feed) -> None:
        new = [fed.target.name for fed in feed.streams if not fed.owner.positions]
        starts = [f"{feed.source.topic}/{p} begins at offset {low}" for p, low in sorted(feed.extent.low.items()) if low]
        if new and starts:
            self._control.notify(f"{', '.join(starts)}: what was before is not in the new {', '.join(new)}")

    def _guard(self, source: Source, targets: list[Target]) -> LogGuard:
        """The log as it is now. A topic that is missing is made, unless a table has read from it already."""
        try:
            return LogGuard(self._config, source.topic, self._control)
        except TopicMissing:
            self._refuse_if_read(source.topic, targets)
        ensure_topic(self._config, source, self._control)
        self._control.notify(f"{source.name}: topic {source.topic} did not exist and was made")
        return LogGuard(self._config, source.topic, self._control)

    def _refuse_if_read(self, topic: str, targets: list[Target]) -> None:
        """Raises TopicGone when a table, or the live generation that it is built beside, has read from the topic."""
        live = {name: entry.generation for name, entry in self._catalog.read().tables.items()}
        for target in targets:
            for generation in {target.generation, live.get(target.name, target.generation)}:
                last = newest(TableAddress(self._project.storage, target.name, generation))
                if last is not None and last.record is not None and (held := _held(last.record, topic)):
                    raise TopicGone(topic, last.record.log, held)

    def _claim(self, target: Target, guard: LogGuard) -> Owner:
        definition = target.definition
        address = TableAddress(self._project.storage, target.name, target.generation)
        self._warn_when_young(address)
        maintenance = self._project.settings.maintenance
        return Owner.claim(
            address,
            definition.schema,
            definition.partition_by,
            self._run,
            guard.identity,
            verify_log=guard.verify,
            retention_s=maintenance.retention_s,
            durable=maintenance.durable,
        )

    def _warn_when_young(self, address: TableAddress) -> None:
        """Another run may be at work on the table: say that this one takes it over."""
        last = newest(address)
        if last is None or last.record is None or has_ended(last.record.run):
            return
        age_s = (datetime.now(UTC) - last.at).total_seconds()
        if age_s < YOUNG_S:
            self._control.notify(f"{address.name}: {last.record.run} committed {age_s:.0f} s ago; if it still runs, it stops now")

    # --- rebuilding

    def _rebuild(self, tables: list[str], pool: ThreadPoolExecutor, *, accept_lost: bool) -> None:
        """Build the new generations up to the live ones' positions, swap them in one catalogue file, and keep them for feeding."""
        state = self._catalog.read()
        targets = rebuilt_targets(tables, self._definitions, self._catalog, state)
        self._open(targets, pool, rebuild=True)
        for feed in self.feeds if not accept_lost else ():
            refuse_loss(feed, state)
        if not self._control.failures:
            reach_live(self.feeds, state, self._control)
        if self._control.failures:
            self._control.notify("nothing is swapped, because a table failed; what is built so far is gone on with by the next rebuild")
            self._control.stop()
        if self._control.stopping:
            if not self._control.failures:
                self._control.abort(NotSwapped())
            return
        built = [fed.target for feed in self.feeds for fed in feed.fed]
        self._publish(built, "run --rebuild")
        self._control.notify(f"swapped {len(built)} tables: {', '.join(target.name for target in built)}")

    # --- what the sinks call

    def _publish(self, targets: list[Target], by: str, *, forget: bool = False) -> None:
        """One catalogue file with all of ``targets`` and the folder's views; none when nothing changes.

        ``forget``: without the tables that the folder defines no more, because their last versions would hold back the cut of their source.
        """
        views = {name: view.sql for name, view in self._plan.views.items()}
        gone: dict[str, TableEntry] = {}

        def change(state: CatalogState) -> CatalogState:
            nonlocal gone
            for target in targets:
                was = state.tables.get(target.name)
                if was is not None and ordinal(was.generation) > ordinal(target.generation):
                    raise Overtaken(target, was.generation)
            gone = {name: entry for name, entry in state.tables.items() if forget and name not in self._definitions}
            kept = {name: entry for name, entry in state.tables.items() if name not in gone}
            entries = {t.name: TableEntry(t.definition.kind, t.generation, TableAddress("", t.name, t.generation).path) for t in targets}
            return state.replace(tables={**kept, **entries}, views=views)

        state = self._catalog.publish(change, by=f"{by}, {self._run}")
        self._mirror.catalogue(state)
        if gone:
            where = ", ".join(f"{name} (its data stays in {entry.path})" for name, entry in gone.items())
            self._control.notify(f"no file defines these tables any more, so they left the catalogue: {where}")

    def _still_live(self, fed: Fed) -> str | None:
        entry = self._catalog.read().tables.get(fed.target.name)
        if entry is None or entry.generation == fed.target.generation:
            return None
        if ordinal(entry.generation) < ordinal(fed.target.generation):
            return None  # built beside the live one
        return f"generation {fed.target.generation} is live no more: {entry.generation} took its place; this branch ends"

    def _live(self, table: str) -> TableAddress | None:
        entry = self._catalog.read().tables.get(table)
        return None if entry is None else TableAddress(self._project.storage, table, entry.generation)

    def _committed(self, fed: Fed, info: CommitInfo) -> None:
        self._mirror.commit(fed.target.name, fed.target.generation, info)


def _held(record: CommitRecord, topic: str) -> list[Position]:
    return [Position(topic, partition, offset) for (name, partition), offset in sorted(record.positions.items()) if name == topic]
