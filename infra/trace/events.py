"""The events at positions: from the raw table where it holds them, else from Kafka."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from connectors.peek import Event, at
from connectors.topics import TopicMissing, log_identity
from flows.batch import Position
from flows.errors import KappaError
from infra.trace.tables import Tables

Found = tuple[str, Event] | str  # where from, and the event; or why there is none


def events_at(
    positions: Collection[Position], table: str, source: str, tables: Tables, config: Mapping[str, str] | None
) -> dict[Position, Found]:
    """The events that rows of ``table`` stem from. ``config``: librdkafka's; None when there is no Kafka. An event that is nowhere has a
    sentence in its place.
    """
    if not positions:
        return {}
    topic = next(iter(positions)).topic
    known, raw = tables.topic_id(table, topic), f"raw.{source}"
    found: dict[Position, Found] = {}
    if raw in tables.names and tables.topic_id(raw, topic) in (known, ""):  # else it holds an earlier topic of that name
        found.update({place: ("raw", event) for place, event in _raw(raw, positions, topic, tables).items()})
    missing = sorted(place for place in positions if place not in found)
    if missing:
        found.update(_kafka(missing, known, config))
    return found


def at_places(positions: Collection[Position], column: str = "_offset") -> str:
    """SQL that is true of the rows at ``positions``, with the bounds by which whole files are passed over."""
    offsets: dict[int, list[str]] = {}
    for place in sorted(positions):
        offsets.setdefault(place.partition, []).append(str(place.offset))
    bounds = f"{column} BETWEEN {min(place.offset for place in positions)} AND {max(place.offset for place in positions)}"
    each = (f"(_partition = {partition} AND {column} IN ({', '.join(those)}))" for partition, those in offsets.items())
    return f"{bounds} AND _partition IN ({', '.join(map(str, offsets))}) AND ({' OR '.join(each)})"


def _raw(raw: str, positions: Collection[Position], topic: str, tables: Tables) -> dict[Position, Event]:
    rows = tables.ask(f"SELECT * FROM {raw} WHERE {at_places(positions)}")
    return {
        Position(topic, row["_partition"], row["_offset"]): Event(
            row["_partition"],
            row["_offset"],
            None if row["_timestamp"] is None else round(row["_timestamp"].timestamp() * 1000),
            row["key"],
            row["value"],
            tuple((header["name"], header["value"]) for header in row["headers"] or ()),
        )
        for row in rows
    }


def _kafka(missing: Sequence[Position], known: str, config: Mapping[str, str] | None) -> dict[Position, Found]:
    """``known``: the id of the topic that the rows were read from, empty when nobody knows."""
    topic = missing[0].topic
    if config is None:
        return dict.fromkeys(missing, "no raw table holds it, and Kafka is not running")
    try:
        now = log_identity(config, [topic]).topics[topic]
        if known not in ("", now):
            return dict.fromkeys(missing, f"no raw table holds it, and topic {topic} was made again since")
        return {
            place: ("kafka", event) if event is not None else "no raw table holds it, and the topic no longer does"
            for place, event in at(config, missing).items()
        }
    except TopicMissing:
        return dict.fromkeys(missing, f"no raw table holds it, and topic {topic} is gone")
    except KappaError as error:
        return dict.fromkeys(missing, f"no raw table holds it, and Kafka says: {error.what}: {error.cause}")
