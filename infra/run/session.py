"""``kappa run`` from beginning to end: select, claim, rebuild and swap, feed, report."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.guard import LogGuard
from connectors.topics import Extent, describe, ensure_topic, extent, topic_exists
from flows.contract import Source
from flows.control import RunControl
from flows.errors import KappaError
from flows.fingerprint import Definition, definitions
from flows.ledger import LogIdentity, RunIdentity
from flows.plan import Plan, analyse, require
from flows.project import Project
from infra.addresses import resolve
from infra.metadata import Mirror
from infra.run.budget import share
from infra.run.feed import Fed, Feed, run_all
from infra.run.selection import Target, descendants, live_targets, rebuilt_targets, select
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry
from sinks.owner import CommitInfo, Owner

YOUNG_S = 60.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. ``rebuild``: build new generations of the named tables and of what derives from them."""

    names: tuple[str, ...] = ()
    until_caught_up: bool = False
    rebuild: bool = False
    accept_lost: bool = False


class RebuildLosesRecords(KappaError):
    """The log begins above where the live generation began: a rebuild would lose rows."""

    def __init__(self, table: str, lost: list[str]) -> None:
        super().__init__(
            f"a rebuild of {table} would lose records",
            cause=f"the live generation holds positions that the topic no longer has: {', '.join(lost)}",
            next_step="restore the topic; or accept the loss: kappa run --rebuild --accept-lost " + table,
        )


class Session:
    """One run of a warehouse in this process."""

    def __init__(self, project: Project, control: RunControl, mirror: Mirror) -> None:
        self._project = project
        self._control = control
        self._mirror = mirror
        self._plan: Plan = require(analyse(project))
        self._definitions: dict[str, Definition] = definitions(project, self._plan)
        self._config: Mapping[str, str] = resolve(project).kafka
        self._catalog = Catalog(project.storage)
        self._catalog.create(project.settings.name)
        self._run = RunIdentity(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))
        self.feeds: list[Feed] = []

    def run(self, request: Request) -> None:
        """Run until stopped, or until caught up. Raises KappaError for what is wrong before anything is read; later errors are in ``control``."""
        tables = select(request.names, self._plan, self._definitions)
        with ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            if request.rebuild:
                tables = descendants(tables, self._definitions)
                self._rebuild(tables, pool, accept_lost=request.accept_lost)
            else:
                self._open(live_targets(tables, self._definitions, self._catalog), pool)
                self._publish([fed.target for feed in self.feeds for fed in feed.fed if not fed.target.live], "run")
            if not self._control.stopping:
                run_all(self.feeds, lambda feed: feed.run(until=feed.extent.stable if request.until_caught_up else None), self._control)

    # --- opening

    def _open(self, targets: list[Target], pool: ThreadPoolExecutor) -> None:
        by_source: dict[str, list[Target]] = defaultdict(list)
        for target in targets:
            by_source[target.definition.source].append(target)
        most_tables = max(map(len, by_source.values()), default=1)
        budget = share(self._project.settings.run, len(by_source), most_tables)
        for name, mine in by_source.items():
            source = self._project.sources[name]
            identity, held = self._log(source, mine)
            guard = LogGuard(self._config, source.topic, identity, set(held.low), self._control)
            feed = Feed(
                source=source,
                nodes=[node for node in self._plan.nodes.values() if node.source == name],
                config=self._config,
                extent=held,
                guard=guard,
                control=self._control,
                settings=self._project.settings,
                budget=budget,
                pool=pool,
                still_live=self._still_live,
                committed=self._committed,
            )
            feed.fed = [Fed(target, self._claim(target, identity, guard)) for target in mine]
            feed.check_positions()
            self.feeds.append(feed)

    def _log(self, source: Source, targets: list[Target]) -> tuple[LogIdentity, Extent]:
        """The topic's identity and extent. A topic that is missing is made, unless a table has read from it already."""
        fresh = not any(target.live for target in targets)
        if fresh and not topic_exists(self._config, source.topic):
            ensure_topic(self._config, source)
            self._control.notify(f"{source.name}: topic {source.topic} did not exist and was made")
        identity, _ = describe(self._config, source.topic)
        return identity, extent(self._config, source.topic)

    def _claim(self, target: Target, identity: LogIdentity, guard: LogGuard) -> Owner:
        definition = target.definition
        address = TableAddress(self._project.storage, target.name, target.generation)
        owner = Owner.claim(address, definition.schema, definition.partition_by, self._run, identity, guard.verify)
        previous = owner.previous
        if previous is not None and previous.age_s < YOUNG_S and previous.run != self._run:
            self._control.notify(f"{target.name}: {previous.run} committed {previous.age_s:.0f} s ago; this run takes over and that one stops")
        return owner

    # --- rebuilding

    def _rebuild(self, tables: list[str], pool: ThreadPoolExecutor, *, accept_lost: bool) -> None:
        """Build the new generations up to the live ones' positions, swap them in one catalogue file, and keep them for feeding."""
        state = self._catalog.read()
        targets = rebuilt_targets(tables, self._definitions, self._catalog, state)
        self._open(targets, pool)
        goals = {feed.source.name: self._goal(feed, state, accept_lost=accept_lost) for feed in self.feeds}
        run_all(self.feeds, lambda feed: feed.run(until=goals[feed.source.name]), self._control)
        if self._control.stopping or self._control.failures:
            return
        self._publish(targets, "run --rebuild")
        self._control.notify(f"swapped {len(targets)} tables: {', '.join(target.name for target in targets)}")

    def _goal(self, feed: Feed, state: CatalogState, *, accept_lost: bool) -> dict[int, int]:
        """The greatest positions that the live generations have committed; the log's stable end where none has. Raises RebuildLosesRecords."""
        goal = dict.fromkeys(feed.extent.low, 0)
        for fed in feed.fed:
            entry = state.tables.get(fed.target.name)
            if entry is None:
                continue
            totals = Owner.read_totals(TableAddress(self._project.storage, fed.target.name, entry.generation))
            lost = []
            for (topic, partition), span in totals.items():
                if topic == feed.source.topic and partition in goal:
                    goal[partition] = max(goal[partition], min(span.end, feed.extent.high[partition]))
                    if feed.extent.low[partition] > span.start:
                        lost.append(f"{topic}/{partition}/{span.start}..{feed.extent.low[partition]}")
            if lost and not accept_lost:
                raise RebuildLosesRecords(fed.target.name, lost)
        return goal if any(goal.values()) else dict(feed.extent.stable)

    # --- what the sinks call

    def _publish(self, targets: list[Target], by: str) -> None:
        """One catalogue file with all of ``targets`` and the folder's views; none when nothing changes."""
        views = {name: view.sql for name, view in self._plan.views.items()}

        def change(state: CatalogState) -> CatalogState:
            entries = {t.name: TableEntry(t.definition.kind, t.generation, f"{t.name.replace('.', '/', 1)}/{t.generation}") for t in targets}
            return state.replace(tables={**state.tables, **entries}, views=views)

        before = self._catalog.read()
        if targets or before.views != views:
            after = self._catalog.publish(change, by=f"{by}, {self._run}")
            self._mirror.catalogue(after)

    def _still_live(self, fed: Fed) -> str | None:
        entry = self._catalog.read().tables.get(fed.target.name)
        if entry is None or entry.generation == fed.target.generation:
            return None
        if int(entry.generation.partition("-")[2]) < int(fed.target.generation.partition("-")[2]):
            return None  # built beside the live one
        return f"generation {fed.target.generation} is live no more: {entry.generation} took its place; this branch ends"

    def _committed(self, fed: Fed, info: CommitInfo) -> None:
        self._mirror.commit(fed.target.name, fed.target.generation, info)
