"""What can go wrong between an owner and its table: one class a cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flows.errors import KappaError
from flows.ledger import LogIdentity, RunIdentity, Span
from flows.objects import Place


class Fenced(KappaError):
    """Another run has claimed the table. ``by`` is its process, None when its commit is no longer in the log."""

    stops_run = True

    def __init__(self, table: str, epoch: int, by: RunIdentity | None, by_epoch: int) -> None:
        super().__init__(
            f"{table} has a new owner: {by or 'a process whose commits are no longer in the log'}",
            cause=f"this run owned the table as epoch {epoch}; epoch {by_epoch} took it over, and this run commits no more",
            next_step="kappa tables shows who owns what; kappa run takes the table back",
        )
        self.table = table
        self.epoch = epoch
        self.by = by
        self.by_epoch = by_epoch


class LogChanged(KappaError):
    """The topic is not the one that the table's positions belong to."""

    stops_run = True

    def __init__(self, table: str, topic: str, was: str, now: str, positions: Iterable[str]) -> None:
        super().__init__(
            f"topic {topic} is not the one that {table} was built from",
            cause=f"the table's positions ({', '.join(positions) or 'none'}) belong to {was}; the log is now {now}",
            next_step=f"point [kafka] at the old cluster, or build the table anew from this log: kappa replay --accept-lost {table}",
        )
        self.table = table
        self.topic = topic
        self.was = was
        self.now = now


class LedgerBroken(KappaError):
    """Counts that do not balance, ranges that do not join, or positions that differ from the ledger. Nothing was committed."""

    def __init__(self, table: str, cause: str) -> None:
        super().__init__(
            f"the ledger of {table} does not add up",
            cause=cause,
            next_step=f"kappa audit {table}; then kappa run goes on from the table's checkpoint",
        )
        self.table = table


class LedgerLost(KappaError):
    """No commit of the table's log still holds its totals."""

    def __init__(self, table: str, uri: str) -> None:
        super().__init__(
            f"{table} has rows but no ledger",
            cause=f"no commit in {uri}/_delta_log carries kappa's metadata; another program wrote the table, or cleaned its log",
            next_step=f"kappa replay {table}",
        )
        self.table = table


class TableAltered(KappaError):
    """The Delta table is not as its owner made it."""

    def __init__(self, table: str, cause: str) -> None:
        super().__init__(
            f"the Delta table of {table} was altered by another program",
            cause=cause,
            next_step=f"undo that change, or build the table anew: kappa replay {table}",
        )
        self.table = table


class TableUnreadable(KappaError):
    """The Delta log of a table that the catalogue names cannot be read."""

    def __init__(self, table: str, cause: str) -> None:
        super().__init__(
            f"table {table} cannot be read",
            cause=cause,
            next_step=f"restore the folder, or build the table anew: kappa replay {table}",
        )
        self.table = table


class TableLost(TableUnreadable):
    """Its folder holds no Delta log at all."""

    def __init__(self, table: str, folder: Place) -> None:
        super().__init__(table, f"{folder} holds no Delta log: it was removed, or the run that makes it has only begun")


class CommitFailed(KappaError):
    """The storage refused a commit several times, or did not answer. The next run sees whether it has landed."""

    def __init__(self, table: str, version: int, commit_id: str, cause: str) -> None:
        super().__init__(
            f"{table}: version {version} could not be written (commit {commit_id})",
            cause=cause,
            next_step="see that the storage root is writable and has room, then kappa run",
        )
        self.table = table
        self.version = version
        self.commit_id = commit_id


class RewriteStale(KappaError):
    """The files that a compaction read are not the table's any more; its result is thrown away."""

    def __init__(self, table: str, version: int) -> None:
        super().__init__(
            f"the compaction of {table} is out of date",
            cause=f"another program changed the table's files at version {version}",
            next_step="nothing to do: the next compaction starts from there",
        )


def unbalanced(span: Span) -> str:
    """Why a span does not balance."""
    return f"read {span.read} != written {span.written} + filtered {span.filtered} + rejected {span.rejected} in [{span.start}, {span.end})"


def describe(log: LogIdentity, topic: str) -> str:
    """A topic's identity, for people."""
    return f"topic id {log.topics.get(topic, 'unknown')} in cluster {log.cluster}"


class KeyMoved(KappaError):
    """A key of an upsert table came from two partitions of the log, and a record without a value would delete it in one of them."""

    def __init__(self, table: str, key: Mapping[str, object], partitions: tuple[int, int]) -> None:
        shown = ", ".join(f"{name} = {value!r}" for name, value in key.items())
        super().__init__(
            f"{table}: the key {shown} is in partitions {partitions[0]} and {partitions[1]}",
            cause="what a record without a value deletes would depend on which partition is read first",
            next_step=(
                "send all records of a key to one partition, as Kafka's producers do by key, to a new topic; or say "
                f'null_values = "reject" in the source, delete_when in {table}, and kappa apply'
            ),
        )
