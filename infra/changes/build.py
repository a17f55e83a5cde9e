"""Building generations beside the live ones, checking them, and switching to all of them at once: apply, replay, promote."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flows.batch import Failure
from flows.eras import eras_of
from flows.errors import KappaError
from flows.faults import reach
from flows.ledger import RunIdentity
from infra.audit.audit import Audit
from infra.changes.forward import from_now_on
from infra.changes.gates import check_assertions, check_limits
from infra.changes.generations import drop, expired
from infra.run.feed import Feed
from infra.run.identity import has_ended, is_here
from infra.run.live import with_eras
from infra.run.rebuild import reach_live, refuse_loss
from infra.run.selection import Fed, Target, beside_targets, descendants, select
from infra.run.session import YOUNG_S, Session
from sinks.address import TableAddress
from sinks.adopt import adopt
from sinks.catalog import CatalogState, ordinal
from sinks.history import newest


@dataclass(frozen=True, slots=True)
class Options:
    """How new generations are built. ``by``: the command; ``accept_lost``: from what the log still holds; ``promote``: switch to them;
    ``records_per_s``: most that is read from the log, of all sources together (None: as fast as it can).
    """

    by: str
    accept_lost: bool = False
    promote: bool = True
    records_per_s: float | None = None


class BuildInProgress(KappaError):
    """Another process builds the same generation."""

    def __init__(self, address: TableAddress, run: RunIdentity, age_s: float) -> None:
        super().__init__(
            f"generation {address.generation} of {address.name} is being built already",
            cause=f"{run} committed to it {age_s:.0f} s ago",
            next_step="wait for it, or end it: the same command then goes on with what is built",
        )


class CheckFailed(KappaError):
    """New generations are not what the log gives."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__(
            "nothing is swapped in: the new generations have not passed the check",
            cause="; ".join(findings),
            next_step="kappa drop-generation TABLE drops what was built; the live tables are as they were",
        )


class NothingToPromote(KappaError):
    """No generations wait to be made live, or not all that belong together."""

    def __init__(self, cause: str, next_step: str) -> None:
        super().__init__("nothing can be promoted", cause=cause, next_step=next_step)


class SwappedMeanwhile(KappaError):
    """Another command made other generations live while new ones were built."""

    def __init__(self) -> None:
        super().__init__(
            "nothing is swapped in",
            cause="other generations went live while the new ones were built, as said above",
            next_step="kappa plan",
        )


class NotSwapped(KappaError):
    """A build was stopped before it had done what it was asked for."""

    def __init__(self) -> None:
        super().__init__(
            "the build was stopped before the swap",
            cause="it was told to stop; the live generations are as they were",
            next_step="the same command goes on with what is built",
        )


class Build:
    """One change of what is live, driven by a session. Errors go to the session's control; a build that was killed is gone on with."""

    def __init__(self, session: Session, options: Options) -> None:
        self._session = session
        self._options = options
        self._control = session.control
        self._catalog = session.catalog
        session.records_per_s = options.records_per_s

    def apply(self, tables: list[str], *, forward_only: bool = False) -> None:
        """Build ``tables``, upstream first, by the folder's definitions, and make all of the folder live.

        ``forward_only``: the rows so far stay what they are, where they are fed from the log.
        """

        def work() -> None:
            state = self._catalog.read()
            make = from_now_on if forward_only else with_eras
            self._session.use(make(self._session.folder, state, self._catalog))
            self._build(tables, state, whole=True)

        self._session.recorded(work)

    def replay(self, names: tuple[str, ...]) -> None:
        """Build the named tables, and all that derives from them, anew by their live definitions."""

        def work() -> None:
            session = self._session
            session.use_live()
            self._build(descendants(select(names, session.plan, session.definitions), session.definitions), self._catalog.read())

        self._session.recorded(work)

    def promote(self) -> None:
        """Bring what was built beside up to the live generations, and make it live."""

        def work() -> None:
            state = self._catalog.read()
            tables, whole = self._waiting(state)
            self._build(tables, state, whole=whole)

        self._session.recorded(work)

    def _waiting(self, state: CatalogState) -> tuple[list[str], bool]:
        """What was built and not promoted: of the folder, all of it; else anew by the live definitions. Raises NothingToPromote.

        The session uses the definitions of what was built.
        """
        built, changed = {}, []
        folder = with_eras(self._session.folder, state, self._catalog)
        for name, definition in folder.definitions.items():
            entry = state.tables.get(name)
            least = 0 if entry is None else ordinal(entry.generation)
            made = [g for g in self._catalog.generations(name) if ordinal(g) > least and g.partition("-")[0] == definition.fingerprint]
            if made:
                built[name] = replace(definition, before=eras_of(self._catalog.definition(name, made[-1])))
            if entry is None or entry.generation.partition("-")[0] != definition.fingerprint:
                changed.append(name)
        if unbuilt := [name for name in changed if name not in built]:
            raise NothingToPromote(f"these are defined in the folder and not built: {', '.join(unbuilt)}", "kappa apply")
        if not built:
            raise NothingToPromote("no generation of what the folder defines is newer than the live one", "kappa generations")
        self._session.use(replace(folder, definitions={name: built.get(name, each) for name, each in folder.definitions.items()}))
        return (changed, True) if changed else (list(built), False)

    def _build(self, tables: list[str], state: CatalogState, *, whole: bool = False) -> None:
        """Build up to the positions of the live generations, check, and swap all in one catalogue file.

        ``whole``: then nothing else than what the folder defines is live. Raises RebuildLosesRecords, BuildInProgress, CheckFailed,
        NotSwapped, SwappedMeanwhile, Overtaken.
        """
        session = self._session
        targets = beside_targets(tables, session.definitions, self._catalog, state)
        streams = [target for target in targets if target.definition.materialized is None]
        with ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            session.open(streams, pool, self._own)
            for feed in session.feeds if not self._options.accept_lost else ():
                refuse_loss(feed, state)
            if not self._control.failures:
                reach_live(session.feeds, state, self._control)
            built = [fed.target for feed in session.feeds for fed in feed.fed]
            if not self._control.failures and not self._control.stopping:
                built += self._materialize([target for target in targets if target not in streams], built, state, pool)
        if self._control.failures:
            self._control.notify("nothing is swapped, because a table failed; the same command goes on with what is built so far")
            return
        if self._control.stopping:
            raise SwappedMeanwhile if self._control.swapped else NotSwapped
        names = ", ".join(target.name for target in built)
        self._check(built, state)
        if not self._options.promote:
            self._control.notify(f"built {len(built)} tables, which nobody reads until kappa promote: {names}")
            return
        self._pass_gates(built, state, whole=whole)
        reach("before-promote")
        session.publish(built, self._options.by, base=state, whole=whole)
        reach("after-promote")
        if built:
            self._control.notify(f"swapped {len(built)} tables: {names}")
        self._tidy(built)

    def _materialize(self, targets: list[Target], built: list[Target], state: CatalogState, pool: ThreadPoolExecutor) -> list[Target]:
        """Make materialized tables from the new generations, where there are such, and from the live ones. Raises BuildInProgress."""
        entries = {target.name: target.entry for target in built}
        session = self._session
        materializer = session.materializer(pool)
        for target in targets:
            self._refuse_if_built_elsewhere(TableAddress(session.project.storage, target.name, target.generation))
            self._control.notify(f"making {target.name}")
            if not materializer.refresh(target, state.replace(tables={**state.tables, **entries})) and not self._control.failures:
                self._control.fail(Failure(target.name, "it cannot be made, as said above", (), "kappa tables"))
            entries[target.name] = target.entry
        materializer.finish()
        return [] if self._control.failures else targets

    def _own(self, feed: Feed, target: Target) -> Fed:
        """Own a generation beside the live one; one that was begun over another upstream is left behind for a new one.

        Raises BuildInProgress, and what ``Session.own`` raises.
        """
        session = self._session
        self._refuse_if_built_elsewhere(TableAddress(session.project.storage, target.name, target.generation))
        fed = session.own(feed, target)
        if target.definition.before and not fed.owner.totals:
            self._adopt(feed, fed)
        if not self._follows_another(feed, fed):
            return fed
        definition = target.definition
        generation = self._catalog.new_generation(target.name, definition.fingerprint, definition.stored)
        return session.own(feed, replace(target, generation=generation))

    def _adopt(self, feed: Feed, fed: Fed) -> None:
        """Begin with the rows of the live generation, where the change of its definition is to hold from now on only."""
        era, topic, name = fed.target.definition.before[-1], feed.source.topic, fed.target.name
        live = self._session.live(name)
        if live is None or live.generation != era.generation or feed.guard.identity.topics.get(topic) != era.topic_id:
            return  # a replay
        info = adopt(fed.owner, live, {(topic, partition): offset for partition, offset in era.until.items()})
        if info is None:
            self._control.notify(f"{name}: no version of {live.generation} from before the change can be read any more: built from the log")
            return
        feed.check_position(fed)
        self._control.notify(f"{name} keeps the {info.rows:,} rows of {live.generation}")

    def _follows_another(self, feed: Feed, fed: Fed) -> bool:
        """Whether a summary was begun over another generation of its upstream than the one that it would follow now."""
        summary, begun = fed.target.definition.summary, fed.owner.record.upstream
        if summary is None or begun is None:
            return False
        beside = next((each.target.generation for each in feed.fed if each.target.name == summary.upstream), None)
        live = self._session.live(summary.upstream)
        return begun.generation != (beside or (live.generation if live is not None else None))

    def _refuse_if_built_elsewhere(self, address: TableAddress) -> None:
        last = newest(address)
        if last is None or last.record is None or has_ended(last.record.run):
            return
        run, age_s = last.record.run, (datetime.now(UTC) - last.at).total_seconds()
        if is_here(run) and run.pid == os.getpid():
            return  # an earlier command of this process
        if is_here(run) or age_s < YOUNG_S:
            raise BuildInProgress(address, run, age_s)

    def _check(self, built: list[Target], state: CatalogState) -> None:
        """Audit the new generations: ledgers, rows, and the count of the log's records. Raises CheckFailed."""
        if not built:
            return
        entries = {target.name: target.entry for target in built}
        self._control.notify(f"checking {len(built)} new generations")
        session = self._session
        candidate = state.replace(tables={**state.tables, **entries})
        work = Audit(session.project.storage, candidate, dict(session.config), records_per_s=self._options.records_per_s)
        try:
            for name in entries:
                work.table(name)
            work.count(list(entries))
            work.rejects(list(entries))
        finally:
            work.close()
        found = [finding for name in entries for finding in work.tables[name].findings]
        if found:
            raise CheckFailed([str(finding) for finding in found])

    def _pass_gates(self, built: list[Target], state: CatalogState, *, whole: bool) -> None:
        """Raises TooManyChanges, AssertionFailed."""
        session = self._session
        check_limits(session.project, built, state)
        entries = {name: entry for name, entry in state.tables.items() if not whole or name in session.definitions}
        entries |= {target.name: target.entry for target in built}
        views = {name: view.sql for name, view in session.plan.views.items()}
        passed = check_assertions(session.folder.project, state.replace(tables=entries, views=views))
        if passed:
            self._control.notify(f"{passed} assertion{'s' if passed > 1 else ''} of the warehouse passed")

    def _tidy(self, built: list[Target]) -> None:
        """Retention: after the swap, so that what fails here undoes nothing."""
        project = self._session.project
        for old in expired(project.storage, [target.name for target in built], project.settings.maintenance, datetime.now(UTC)):
            drop(project.storage, old)
            self._control.notify(f"dropped generation {old.name} of {old.table}: maintenance.keep_generations")
