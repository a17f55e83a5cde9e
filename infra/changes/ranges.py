"""``kappa replay TABLE --from --to``: the rows of a range of positions, made anew and put in the place of the old ones, in one commit.

Offered where the result is provably that of a full replay: the rows of an append table at a position are a function of the record there
and of nothing else, so that what derives from them is what it was, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from connectors.extent import offsets_at
from flows.errors import KappaError, UsageError
from flows.faults import reach
from flows.fingerprint import Definition
from infra.audit.audit import Audit
from infra.changes.build import BuildInProgress, CheckFailed, NotSwapped
from infra.changes.generations import delete
from infra.run.feed import run_all
from infra.run.identity import has_ended, is_here
from infra.run.selection import Target, select
from infra.run.session import Session
from sinks.address import TableAddress
from sinks.graft import Ranges, graft
from sinks.history import newest
from sinks.owner import Owner


class RangeRefused(UsageError):
    """A range of the table cannot be replaced so that it is provably what a full replay gives."""

    def __init__(self, table: str, cause: str) -> None:
        super().__init__(
            f"a range of {table} is not replaced", cause=cause, next_step=f"kappa replay {table} builds all of it anew, beside the live one"
        )


@dataclass(frozen=True, slots=True)
class Range:
    """``start``, ``end``: ``earliest``, ``latest``, an offset of every partition, or a time (ISO 8601), by the records' own; half-open."""

    start: str
    end: str
    take_over: bool = False
    records_per_s: float | None = None


def refuse(definition: Definition, *, corrections: bool) -> None:
    """Raises RangeRefused for a table of which a range depends on more than its records."""
    name = definition.name
    if definition.upsert is not None:
        raise RangeRefused(name, "its rows are the latest of their keys, so that a record may matter anywhere in the table")
    if definition.summary is not None:
        raise RangeRefused(name, f"its rows are of all records of their groups; it follows {definition.summary.upstream}")
    if definition.materialized is not None:
        raise RangeRefused(name, "its rows are of a whole query over other tables; kappa run makes it anew when these move")
    if corrections and definition.role != "raw":
        raise RangeRefused(name, "corrections = true: what a record counts for depends on the records before and after it")


class RangeReplay:
    """Makes ranges anew and grafts them, driven by a session. Errors go to the session's control."""

    def __init__(self, session: Session, asked: Range) -> None:
        self._session = session
        self._asked = asked
        session.records_per_s = asked.records_per_s

    def replay(self, table: str) -> None:
        """Replace the range in ``table`` and in the table of its rejects."""
        self._session.recorded(lambda: self._replay(table))

    def _replay(self, table: str) -> None:
        session = self._session
        session.use_live()
        names = select((table,), session.plan, session.definitions)
        if table not in names:
            cause = f"{table} is a source with these: {', '.join(names)}"
            raise UsageError("a range is of one table", cause=cause, next_step=f"kappa replay {names[0]} --from --to")
        live = {}
        for name in names:
            definition = session.definitions[name]
            refuse(definition, corrections=session.project.sources[definition.source].corrections if definition.source else False)
            address = session.live(name)
            if address is None:
                raise UsageError(f"{name} is not live yet", cause="there are no rows to replace", next_step="kappa run --until-caught-up")
            self._refuse_if_owned(address)
            live[name] = address
        ranges = self._ranges(live[table], session.project.sources[session.definitions[table].source].topic)
        built = self._build(names, ranges)
        session.control.notify(f"replacing {', '.join(f'{t}/{p}/{start}..{end}' for (t, p), (start, end) in sorted(ranges.items()))}")
        try:
            self._check(built)
            reach("before-graft")
            for name, address in live.items():
                self._graft(name, address, built[name], ranges)
        finally:
            for address in built.values():
                delete(address.folder)
        session.control.notify(f"replaced the range in {', '.join(names)}")

    def _ranges(self, live: TableAddress, topic: str) -> Ranges:
        """The offsets of each partition that the range and the table have in common. Raises UsageError when there are none."""
        totals = Owner.read_totals(live)
        starts, ends = (self._offsets(text, topic, [p for _, p in totals]) for text in (self._asked.start, self._asked.end))
        ranges = {}
        for (name, p), span in totals.items():
            start, end = max(span.start, starts.get(p, span.start)), min(span.end, ends.get(p, span.end))
            if start < end:
                ranges[name, p] = (start, end)
        if not ranges:
            held = ", ".join(f"{t}/{p}/{span.start}..{span.end}" for (t, p), span in sorted(totals.items()))
            raise UsageError(
                f"the range holds nothing of {live.name}", cause=f"it has read {held or 'nothing'}", next_step=f"kappa show {live.name}"
            )
        return ranges

    def _offsets(self, text: str, topic: str, partitions: list[int]) -> dict[int, int]:
        """Empty for the end of the table on that side."""
        if text in ("earliest", "latest"):
            return {}
        if text.isdigit():
            return dict.fromkeys(partitions, int(text))
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            cause = "it is earliest, latest, an offset, or a time such as 2026-11-22T18:00:00Z"
            raise UsageError(f"{text!r} is no place in the log", cause=cause, next_step="kappa replay --help") from None
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
        return offsets_at(self._session.config, topic, partitions, round(at.timestamp() * 1000))

    def _build(self, names: list[str], ranges: Ranges) -> dict[str, TableAddress]:
        """Builds that nobody can make live: they are marked as dropped from the beginning. Raises NotSwapped."""
        session = self._session
        targets = []
        for name in names:
            definition = session.definitions[name]
            for old in session.catalog.dropped(name):  # of a command that was killed
                delete(TableAddress(session.project.storage, name, old).folder)
            generation = session.catalog.new_generation(name, definition.fingerprint, definition.stored)
            session.catalog.mark_dropped(name, generation)
            targets.append(Target(definition, generation, live=False))
        with ThreadPoolExecutor(2, thread_name_prefix="write") as pool:
            begin = {p: start for (_, p), (start, _) in ranges.items()}
            session.open(targets, pool)
            ends = {p: end for (_, p), (_, end) in ranges.items()}
            for feed in session.feeds:
                feed.begin = {p: begin.get(p, high) for p, high in feed.extent.stable.items()}
            run_all(session.feeds, lambda feed: feed.run(until={p: ends.get(p, feed.begin[p]) for p in feed.begin}), session.control)
        if session.control.failures:
            raise KappaError(
                "nothing is replaced", cause="the range could not be made anew, as said above", next_step=f"kappa replay {names[0]}"
            )
        if session.control.stopping:
            raise NotSwapped
        return {target.name: TableAddress(session.project.storage, target.name, target.generation) for target in targets}

    def _check(self, built: Mapping[str, TableAddress]) -> None:
        """As before every swap. Raises CheckFailed."""
        session = self._session
        state = session.catalog.read()
        entries = {t.name: t.entry for feed in session.feeds for t in (fed.target for fed in feed.fed)}
        work = Audit(
            session.project.storage,
            state.replace(tables={**state.tables, **entries}),
            dict(session.config),
            records_per_s=self._asked.records_per_s,
        )
        try:
            for name in built:
                work.table(name)
            work.count(list(built))
            findings = [finding for name in built for finding in work.tables[name].findings]
        finally:
            work.close()
        if findings:
            raise CheckFailed([str(finding) for finding in findings])

    def _graft(self, name: str, live: TableAddress, built: TableAddress, ranges: Ranges) -> None:
        session = self._session
        definition, settings = session.definitions[name], session.project.settings.maintenance
        last = newest(live)
        assert last is not None
        assert last.record is not None
        owner = Owner.claim(
            live,
            definition.schema,
            definition.partition_by,
            session.identity,
            last.record.log,
            retention_s=settings.retention_s,
            durable=settings.durable,
        )
        graft(owner, built, ranges, durable=settings.durable)

    def _refuse_if_owned(self, live: TableAddress) -> None:
        last = newest(live)
        if self._asked.take_over or last is None or last.record is None or has_ended(last.record.run):
            return
        if is_here(last.record.run) and last.record.run.pid == os.getpid():
            return  # an earlier command of this process
        age_s = (datetime.now(UTC) - last.at).total_seconds()
        raise RunAtWork(live, BuildInProgress(live, last.record.run, age_s).cause)


class RunAtWork(KappaError):
    """A run owns the table: it would stop."""

    def __init__(self, address: TableAddress, cause: str) -> None:
        super().__init__(
            f"{address.name} is left alone", cause=f"{cause}, and may be at work", next_step="stop it first; or --take-over, and it stops"
        )
