"""What building costs: records and bytes to read, time by the rates that were measured, disk; and what of the history is gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from connectors.errors import KafkaFailed
from connectors.extent import extent
from connectors.peek import peek
from connectors.topics import Admin, KafkaUnreachable, TopicMissing, log_identity
from flows.fingerprint import Definition
from flows.ledger import Span
from flows.materialized import Materialized
from infra.inventory import TableStatus
from infra.run.archive import archive_of
from infra.run.live import Live
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.history import commits

SAMPLED_EVENTS = 200  # from each end of the topic
RATED_COMMITS = 200
LEAST_S = 0.05  # between two commits, for a rate


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tables of one source are built from. ``origin``: ``kafka``, ``archive`` (the raw table, for what Kafka has dropped), or the
    live table that summaries are computed from. Of a materialized table, ``source`` is empty, and ``origin`` names the tables below it.

    ``records``: about, because offsets are not dense; ``nbytes``: about, by a sample of the topic's oldest and newest records, before
    compression; ``rate``: records/s of the fastest commits so far; ``seconds``: by it. None: unknown.
    """

    source: str
    origin: str
    tables: tuple[str, ...]
    spans: Mapping[int, tuple[int, int]]
    records: int | None
    nbytes: int | None
    rate: float | None
    disk_bytes: int | None

    @property
    def seconds(self) -> float | None:
        return self.records / self.rate if self.rate and self.records is not None else None

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "from": self.origin,
            "tables": list(self.tables),
            "partitions": [{"partition": p, "from": start, "to": end} for p, (start, end) in self.spans.items()],
            "records": self.records,
            "bytes": self.nbytes,
            "records_per_s": self.rate and round(self.rate),
            "seconds": self.seconds and round(self.seconds, 1),
            "disk_bytes": self.disk_bytes,
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """``warnings``: what of the history a build would lack, and what could not be asked."""

    readings: tuple[Reading, ...] = ()
    warnings: tuple[str, ...] = ()


def estimate(folder: Live, building: Iterable[str], standing: Mapping[str, TableStatus], config: Mapping[str, str] | None) -> Estimate:
    """``building``: the tables to build; ``standing``: the live ones by name; ``config``: librdkafka's, None when there is no Kafka."""
    readings: list[Reading] = []
    warnings: list[str] = []
    by_source: dict[str, list[Definition]] = {}
    made = [table for name in building if (table := folder.definitions[name].materialized) is not None]
    for name in (name for name in building if folder.definitions[name].materialized is None):
        by_source.setdefault(folder.definitions[name].source, []).append(folder.definitions[name])
    for source, tables in by_source.items():
        streams = [table for table in tables if table.summary is None]
        if streams:
            reading, lost = _of_topic(folder, source, streams, standing, config)
            readings += reading
            warnings += lost
        names = {table.name for table in tables}
        for upstream in sorted({table.summary.upstream for table in tables if table.summary is not None} - names):
            readings.append(_of_table(source, upstream, [t for t in tables if t.summary and t.summary.upstream == upstream], standing))
    readings += [_of_materialized(table, standing) for table in made]
    return Estimate(tuple(readings), tuple(warnings))


def _of_materialized(table: Materialized, standing: Mapping[str, TableStatus]) -> Reading:
    """From the live tables: those that are built beside are taken to be about as large."""
    read, old = [standing[name] for name in table.tables if name in standing], standing.get(table.name)
    nbytes, disk = sum(status.nbytes for status in read), None if old is None else old.nbytes
    return Reading("", ", ".join(table.tables), (table.name,), {}, sum(status.rows for status in read), nbytes, None, disk)


def _of_topic(
    folder: Live, source: str, tables: list[Definition], standing: Mapping[str, TableStatus], config: Mapping[str, str] | None
) -> tuple[list[Reading], list[str]]:
    topic = folder.project.sources[source].topic
    names = tuple(table.name for table in tables)
    if config is None:
        return [], [f"{topic}: Kafka is not running, so that what a build reads is unknown: kappa up"]
    try:
        admin = Admin(config)
        log = extent(config, topic, [partition.id for partition in admin.describe([topic])[topic].partitions])
        identity = log_identity(config, [topic])
        archive = archive_of(Catalog(folder.project.storage), source, topic, identity, log.low)
        compacted = admin.is_compacted(topic)
        events = [*peek(config, topic, SAMPLED_EVENTS, "earliest"), *peek(config, topic, SAMPLED_EVENTS, "latest")]
    except TopicMissing:
        return [Reading(source, "kafka", names, {}, 0, 0, None, 0)], [f"topic {topic} does not exist yet: there is nothing to read"]
    except (KafkaFailed, KafkaUnreachable) as error:
        return [], [f"{topic}: {error.what}: {error.cause}"]
    warnings = [f"topic {topic} is compacted: Kafka has dropped records of keys that have newer ones"] if compacted else []
    live = {name: status for name in names if (status := standing.get(name)) is not None and status.record is not None}
    kept = archive.spans if archive is not None else {}
    low = {p: kept[p][0] if p in kept else offset for p, offset in log.low.items()}
    warnings += _lost(topic, identity.topics[topic], low, live)
    share, rate = _density(topic, standing, source), _rate(live.values(), folder)
    sizes = [len(event.key or b"") + len(event.value or b"") + sum(len(n) + len(v or b"") for n, v in event.headers) for event in events]
    spans = {
        "archive": {p: (start, min(end, log.stable[p])) for p, (start, end) in kept.items()},
        "kafka": {p: (kept[p][1] if p in kept else start, log.stable[p]) for p, start in log.low.items()},
    }
    readings = []
    for origin, ranges in spans.items():
        records = round(sum(max(0, end - start) for start, end in ranges.values()) * share)
        if ranges and (records or origin == "kafka"):
            nbytes = round(sum(sizes) / len(sizes) * records) if sizes else 0
            readings.append(Reading(source, origin, names, ranges, records, nbytes, rate, _disk(live, tables, records)))
    return readings, warnings


def _lost(topic: str, identity: str, low: Mapping[int, int], live: Mapping[str, TableStatus]) -> list[str]:
    """``low``: the first offset of each partition that Kafka or the archive has."""
    found = []
    new = [f"{topic}/{p} begins at offset {start}" for p, start in sorted(low.items()) if start]
    lost: dict[str, list[str]] = {}
    for name, status in live.items():
        assert status.record is not None
        if status.record.log.topics.get(topic) not in (None, identity):
            found.append(f"{name} was built from another topic {topic}, which was made again since: its records are lost")
            continue
        for (_, partition), span in status.record.totals.items():
            if span.start < low.get(partition, span.start):
                lost.setdefault(f"{topic}/{partition}/{span.start}..{low[partition]}", []).append(name)
    found += [
        f"{where} is no longer in Kafka, nor in a raw table, and is in the live {', '.join(names)}: kappa apply --accept-lost loses it"
        for where, names in lost.items()
    ]
    return found or [f"{each}: what was before is in no new table" for each in new]


def _density(topic: str, standing: Mapping[str, TableStatus], source: str) -> float:
    """Records an offset: what the source's staging table has counted, markers of transactions left out."""
    status = standing.get(f"staging.{source}")
    spans = [] if status is None or status.record is None else [s for (name, _), s in status.record.totals.items() if name == topic]
    total = _sum(spans)
    return total[0] / total[1] if total[1] else 1.0


def _sum(spans: Iterable[Span]) -> tuple[int, int]:
    held = list(spans)
    return sum(span.read for span in held), sum(span.end - span.start for span in held)


def _rate(live: Iterable[TableStatus], folder: Live) -> float | None:
    """The fastest that records were committed by the least of the tables: they are built together, so the slowest decides."""
    rates = [rate for status in live if (rate := _fastest(TableAddress(folder.project.storage, status.name, status.generation)))]
    return min(rates) if rates else None


def _fastest(address: TableAddress) -> float | None:
    """Records/s between two commits of one run, the first of which may be the claim: that commit carries no ranges."""
    best = None
    owned = [commit for commit in islice(commits(address), RATED_COMMITS) if commit.record is not None]
    for after, before in pairwise(owned):
        assert after.record is not None
        assert before.record is not None
        seconds = (after.at - before.at).total_seconds()
        records, _ = _sum(after.record.ranges.values())
        if after.record.run == before.record.run and records and seconds >= LEAST_S:
            best = max(best or 0.0, records / seconds)
    return best


def _disk(live: Mapping[str, TableStatus], tables: list[Definition], records: int) -> int | None:
    """As the live generations take for each record that they have read; None when a table has none, as new ones."""
    total = 0.0
    for table in tables:
        status = live.get(table.name)
        read = _sum(status.record.totals.values())[0] if status is not None and status.record is not None else 0
        if status is None or not read:
            return None
        total += status.nbytes / read * records
    return round(total)


def _of_table(source: str, upstream: str, tables: list[Definition], standing: Mapping[str, TableStatus]) -> Reading:
    status = standing.get(upstream)
    sizes = [standing[table.name].nbytes if table.name in standing else None for table in tables]
    known = [size for size in sizes if size is not None]
    disk = sum(known) if len(known) == len(sizes) else None
    names = tuple(table.name for table in tables)
    return Reading(source, upstream, names, {}, status.rows if status else 0, status.nbytes if status else 0, None, disk)
