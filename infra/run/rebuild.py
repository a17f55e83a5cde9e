"""How far a rebuild goes before its swap: up to the live generations, as long as the log has what these were built from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from connectors.extent import Extent, extent
from flows.control import RunControl
from flows.errors import KappaError
from flows.ledger import Span
from infra.run.feed import Feed, run_all
from sinks.catalog import CatalogState
from sinks.history import newest
from sinks.record import CommitRecord

ROUNDS = 10


class RebuildLosesRecords(KappaError):
    """The log begins above where the live generation began: a rebuild would lose rows."""

    def __init__(self, table: str, lost: list[str]) -> None:
        super().__init__(
            f"a rebuild of {table} would lose records",
            cause=f"the live generation holds positions that neither the topic nor a raw table has: {', '.join(lost)}",
            next_step="restore the topic; or accept the loss: the same command with --accept-lost",
        )


def refuse_loss(feed: Feed, state: CatalogState) -> None:
    """Raises RebuildLosesRecords when the log no longer has what a live generation was built from."""
    live, now = _live(feed, state)
    streams = {fed.target.name for fed in feed.streams}
    for table, record in live.items():
        lost: list[str] = []
        if table not in streams or _covers(feed, table, record):
            continue  # a summary reads its upstream, not the log
        for (topic, partition), span in record.totals.items():
            same = record.log == feed.guard.identity and partition in now.low
            held = (feed.reach(partition, now.low[partition]), now.high[partition]) if same else (0, 0)
            lost += [f"{topic}/{partition}/{start}..{end}" for start, end in _outside(span, *held)]
        if lost:
            raise RebuildLosesRecords(table, lost)


def _covers(feed: Feed, table: str, record: CommitRecord) -> bool:
    """Whether the build holds already what the live generation begins with: it has taken its rows, or was begun before."""
    mine = next(fed.owner.totals for fed in feed.fed if fed.target.name == table)
    return bool(mine) and all(place in mine and mine[place].start <= span.start for place, span in record.totals.items())


def reach_live(feeds: list[Feed], state: CatalogState, control: RunControl) -> None:
    """Build up to the live generations, and again while another run moves these on, so that readers do not go back at the swap.

    A round has to read only what was committed during the one before. When the other run commits in each of ROUNDS, they are the end.
    """
    goals = {feed.source.name: _goal(feed, state) for feed in feeds}
    behind = feeds
    for _ in range(ROUNDS):
        run_all(behind, lambda feed: feed.run(until=goals[feed.source.name]), control)
        if control.stopping or control.failures:
            return
        goals.update({feed.source.name: _goal(feed, state) for feed in feeds})
        behind = [feed for feed in feeds if _missing(feed, goals[feed.source.name])]
        if not behind:
            return
    missing = sum(_missing(feed, goals[feed.source.name]) for feed in behind)
    control.notify(
        f"another run moves the live generations on too fast to be met: the swap takes readers back by {missing:,} offsets, for now"
    )


def _goal(feed: Feed, state: CatalogState) -> dict[int, int]:
    """The greatest positions that live generations have committed; without one, the log's stable end as of the run's start."""
    live, now = _live(feed, state)
    goal = dict.fromkeys(feed.extent.low, 0)
    for record in live.values():
        if record.log == feed.guard.identity:
            for (_, partition), span in record.totals.items():
                if partition in goal:
                    goal[partition] = max(goal[partition], min(span.end, now.high[partition]))
    return goal if any(goal.values()) else dict(feed.extent.stable)


def _missing(feed: Feed, goal: Mapping[int, int]) -> int:
    """Offsets that the least of the tables still lacks."""
    return sum(max(0, goal[held.partition] - held.offset) for held in feed.held())


def _live(feed: Feed, state: CatalogState) -> tuple[dict[str, CommitRecord], Extent]:
    """The newest ledger of each table's live generation, and the log as it is after they were read: it ends behind all of them."""
    records = {}
    for fed in feed.fed:
        entry = state.tables.get(fed.target.name)
        last = newest(replace(fed.owner.address, generation=entry.generation)) if entry is not None else None
        if last is not None and last.record is not None:
            records[fed.target.name] = last.record
    return records, extent(feed.config, feed.source.topic, feed.guard.partitions)


def _outside(span: Span, low: int, high: int) -> list[tuple[int, int]]:
    """What of a span lies outside of the offsets ``[low, high)`` that a log holds."""
    return [(start, end) for start, end in ((span.start, min(low, span.end)), (max(high, span.start), span.end)) if start < end]
