"""What kappa writes into a Delta commit's metadata under the key ``kappa``. The JSON shape: docs/formats.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flows.batch import Failure
from flows.ledger import LogIdentity, RunIdentity, Span

FORMAT = 1

Partition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class UpstreamVersion:
    """What of its upstream a summary is the function of. ``generation``: None in ledgers of a kappa that did not write it."""

    generation: str | None
    version: int


@dataclass(frozen=True, slots=True)
class ReadVersion:
    """A table version that a materialized table was made from. ``positions``: "topic/partition" -> next offset; empty for one that is
    materialized itself, whose own ``cut`` says what it was made from.
    """

    generation: str
    version: int
    positions: Mapping[str, int]
    cut: Mapping[str, ReadVersion] = field(default_factory=dict)

    def same_rows(self, other: ReadVersion) -> bool:
        """Whether both hold the same rows, whatever claims and compactions lie between the versions."""
        return (self.generation, self.positions) == (other.generation, other.positions) and same_cut(self.cut, other.cut)

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {"generation": self.generation, "version": self.version, "positions": dict(self.positions)}
        return values | ({"cut": {name: each.to_json() for name, each in sorted(self.cut.items())}} if self.cut else {})

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReadVersion:
        cut = {name: cls.from_json(each) for name, each in values.get("cut", {}).items()}
        return cls(values["generation"], values["version"], values["positions"], cut)


def same_cut(one: Mapping[str, ReadVersion], other: Mapping[str, ReadVersion]) -> bool:
    """Whether two cuts have the same tables with the same rows."""
    return one.keys() == other.keys() and all(each.same_rows(other[name]) for name, each in one.items())


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """The ledger of one commit. ``ranges``: what this commit covers; ``totals``: everything since the generation's first position.

    ``warned``: rule -> rows of this commit that broke it; ``tombstones``: how many an upsert table holds at this version; ``upstream``: of
    which version of its upstream table a summary is the function; ``cut``: of which versions a materialized table is; ``replaces``:
    the ranges whose rows this commit puts in the place of others; ``failure``: why the branch stopped, in the commit that says so.
    """

    id: str
    epoch: int
    run: RunIdentity
    log: LogIdentity
    ranges: Mapping[Partition, Span] = field(default_factory=dict)
    totals: Mapping[Partition, Span] = field(default_factory=dict)
    warned: Mapping[str, int] = field(default_factory=dict)
    tombstones: int | None = None
    upstream: UpstreamVersion | None = None
    cut: Mapping[str, ReadVersion] | None = None
    replaces: Mapping[Partition, tuple[int, int]] = field(default_factory=dict)
    failure: Failure | None = None

    @property
    def positions(self) -> dict[Partition, int]:
        """The next offset of each topic partition."""
        return {partition: span.end for partition, span in self.totals.items()}

    def to_json(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "format": FORMAT,
            "id": self.id,
            "epoch": self.epoch,
            "run": {"host": self.run.host, "pid": self.run.pid, "started_at": self.run.started_at},
            "log": {"cluster": self.log.cluster, "topics": dict(self.log.topics)},
            "ranges": _spans_to_json(self.ranges),
            "totals": _spans_to_json(self.totals),
            "warned": dict(self.warned),
        }
        if self.tombstones is not None:
            values["tombstones"] = self.tombstones
        if self.upstream is not None:
            values["upstream"] = {"generation": self.upstream.generation, "version": self.upstream.version}
        if self.cut is not None:
            values["cut"] = {name: each.to_json() for name, each in sorted(self.cut.items())}
        if self.replaces:
            values["replaces"] = {f"{topic}/{p}": {"from": start, "to": end} for (topic, p), (start, end) in sorted(self.replaces.items())}
        if self.failure is not None:
            failure = self.failure
            values["failure"] = {"cause": failure.cause, "positions": list(failure.positions), "next_step": failure.next_step}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], table: str) -> CommitRecord:
        """``table``: the name that a stored failure is given. A commit of a newer format is read as far as this version knows it."""
        failure = values.get("failure")
        return cls(
            id=values["id"],
            epoch=values["epoch"],
            run=RunIdentity(**values["run"]),
            log=LogIdentity(values["log"]["cluster"], values["log"]["topics"]),
            ranges=_spans_from_json(values["ranges"]),
            totals=_spans_from_json(values["totals"]),
            warned=values["warned"],
            tombstones=values.get("tombstones"),
            upstream=_upstream(values.get("upstream")),
            cut=None if values.get("cut") is None else {name: ReadVersion.from_json(each) for name, each in values["cut"].items()},
            replaces={
                (name.rpartition("/")[0], int(name.rpartition("/")[2])): (at["from"], at["to"])
                for name, at in values.get("replaces", {}).items()
            },
            failure=failure and Failure(table, failure["cause"], tuple(failure["positions"]), failure["next_step"]),
        )


def _upstream(value: Any) -> UpstreamVersion | None:
    if value is None or isinstance(value, int):
        return None if value is None else UpstreamVersion(None, value)
    return UpstreamVersion(value["generation"], value["version"])


def _spans_to_json(spans: Mapping[Partition, Span]) -> dict[str, dict[str, int]]:
    return {f"{topic}/{partition}": span.to_json() for (topic, partition), span in sorted(spans.items())}


def _spans_from_json(values: Mapping[str, Mapping[str, int]]) -> dict[Partition, Span]:
    return {(name.rpartition("/")[0], int(name.rpartition("/")[2])): Span.from_json(span) for name, span in values.items()}
