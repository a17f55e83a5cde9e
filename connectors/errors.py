"""What can go wrong with the log. Each error stops the whole run: nothing of the epoch is committed."""

from __future__ import annotations

from collections.abc import Iterable

from flows.batch import Position
from flows.errors import KappaError
from flows.ledger import LogIdentity


class LogError(KappaError):
    """The log no longer keeps its promise: the whole run stops."""

    stops_run = True


class LogLost(LogError):
    """Offsets above a table's own position are no longer in the topic."""

    def __init__(self, position: Position, first_held: int) -> None:
        super().__init__(
            f"records of topic {position.topic} are lost",
            cause=f"the tables have read up to {position}, but partition {position.partition} now begins at offset {first_held}: "
            f"offsets {position.offset} to {first_held - 1} were removed (retention or deleted records)",
            next_step="restore the topic, or accept the gap by building new generations: kappa replay --accept-lost TABLE",
        )
        self.position = position
        self.first_held = first_held


class LogCut(LogError):
    """A table's position lies beyond the end of the topic: the topic was made again or truncated."""

    def __init__(self, position: Position, end: int) -> None:
        super().__init__(
            f"topic {position.topic} ends before what the tables have read",
            cause=f"the tables have read up to {position}, but partition {position.partition} ends at offset {end}",
            next_step="restore the topic, or build new generations from the topic as it is: kappa replay --accept-lost TABLE",
        )
        self.position = position
        self.end = end


class TopicReplaced(LogError):
    """The topic was deleted and made again, or the bootstrap servers lead to another cluster."""

    def __init__(self, topic: str, known: LogIdentity, now: LogIdentity, positions: Iterable[Position]) -> None:
        what = "the topic id" if known.cluster == now.cluster else "the cluster"
        was = known.topics.get(topic) if known.cluster == now.cluster else known.cluster
        is_now = now.topics.get(topic) if known.cluster == now.cluster else now.cluster
        super().__init__(
            f"topic {topic} is not the one that the tables were built from",
            cause=f"{what} was {was} and is now {is_now}: its offsets mean other records; {read_up_to(positions)}",
            next_step="name the old cluster or restore the topic; or build from the new one: kappa replay --accept-lost TABLE",
        )
        self.topic = topic
        self.known = known
        self.now = now


class TopicGone(LogError):
    """The topic was deleted while the tables stand on it."""

    def __init__(self, topic: str, known: LogIdentity, positions: Iterable[Position]) -> None:
        super().__init__(
            f"topic {topic} is gone",
            cause=f"it was deleted; its id was {known.topics.get(topic)}; {read_up_to(positions)}",
            next_step="restore it; or make it again, load its files, and build new generations: kappa replay --accept-lost TABLE",
        )
        self.topic = topic


class PartitionsChanged(LogError):
    """A partition was added or removed."""

    def __init__(self, topic: str, known: frozenset[int], now: frozenset[int], positions: Iterable[Position]) -> None:
        added, removed = sorted(now - known), sorted(known - now)
        what = " and ".join(text for text in (f"added {added}" if added else "", f"removed {removed}" if removed else "") if text)
        super().__init__(
            f"the partitions of topic {topic} have changed",
            cause=f"{what}; {read_up_to(positions)}; keys may have moved between partitions",
            next_step="build new generations over all partitions: kappa replay TABLE",
        )
        self.topic = topic


class KafkaFailed(LogError):
    """Kafka refuses or does not answer."""

    def __init__(self, what: str, cause: str) -> None:
        super().__init__(what, cause=cause, next_step="kappa status; then kappa run again: it goes on where the tables stand")


def read_up_to(positions: Iterable[Position]) -> str:
    """Where the tables stand, for people."""
    held = ", ".join(map(str, positions))
    return f"the tables have read up to {held}" if held else "the tables have read nothing yet"
