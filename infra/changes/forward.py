"""``kappa apply --forward-only``: a change that holds from now on, where the rows so far can stay what they are.

A table whose columns are only added to keeps its rows, with null in the new columns; its new definition holds from one position of each
partition on, which is stored with it, together with the definition that made the rows before. So the table stays a function of the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from flows.eras import Era, eras_of
from flows.errors import UsageError
from flows.fingerprint import Definition, difference
from infra.run.live import Live, with_eras
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState, TableEntry, ordinal
from sinks.history import newest
from sinks.record import CommitRecord

FREE = ("columns", "sql", "rules", "upstream")  # what may be another one; of columns and the upstream not everything


class ForwardRefused(UsageError):
    """The rows that a table has cannot stay what they are under its new definition."""

    def __init__(self, table: str, causes: list[str]) -> None:
        super().__init__(
            f"{table} cannot be changed from now on only",
            cause="; ".join(causes),
            next_step="kappa apply, without --forward-only, builds it anew from the log",
        )


def from_now_on(folder: Live, state: CatalogState, catalog: Catalog) -> Live:
    """The folder's definitions; those that differ from what is live hold from where the live tables of their source stand.

    A build that was begun is gone on with: it keeps its positions. Summaries and materialized tables are not concerned: they are functions
    of the tables below, whatever made these. Raises ForwardRefused.
    """
    live = with_eras(folder, state, catalog)
    changed = {name: entry for name, entry in state.tables.items() if keeps(live, name, state)}
    made = dict(live.definitions)
    for source in {live.definitions[name].source for name in changed}:
        mine = {name: entry for name, entry in changed.items() if live.definitions[name].source == source}
        stored = {name: catalog.definition(name, entry.generation) for name, entry in mine.items()}
        for name in mine:
            if refusals := _refusals(live, live.definitions[name], stored[name]):
                raise ForwardRefused(name, refusals)
        begun = next((era for name, entry in mine.items() if (era := _begun(live.definitions[name], entry, stored[name], catalog))), None)
        topic_id, until = (begun.topic_id, begun.until) if begun is not None else _stand(live, source, state, catalog)
        for name, entry in mine.items():
            era = Era(topic_id, until, entry.generation, stored[name]["files"])
            made[name] = replace(live.definitions[name], before=(*eras_of(stored[name]), era))
    return replace(live, definitions=made)


def keeps(folder: Live, name: str, state: CatalogState) -> bool:
    """Whether a live table is fed from the log, and defined otherwise in the folder."""
    definition, entry = folder.definitions.get(name), state.tables.get(name)
    if definition is None or entry is None or definition.summary is not None or definition.materialized is not None:
        return False
    return definition.fingerprint != entry.generation.partition("-")[0]


def _refusals(live: Live, definition: Definition, stored: Mapping[str, Any]) -> list[str]:
    """Why the rows cannot stay; empty when they can."""
    if "files" not in stored:
        return ["it was built by a kappa that did not store what it was built from"]
    found = difference(
        {name: value for name, value in stored.items() if name not in FREE},
        {name: value for name, value in definition.json.items() if name not in FREE},
    )
    was, now = stored.get("upstream") or {}, definition.json.get("upstream") or {}
    if was.get("table") != now.get("table"):
        found.append(f"it reads {now.get('table')}, and read {was.get('table')}")
    if live.project.sources[definition.source].corrections:
        found.append(f"{definition.source} takes corrections: a record may count for one from before")
    return found + list(_of_columns(stored.get("columns", []), definition.json.get("columns", [])))


def _of_columns(before: list[list[Any]], after: list[list[Any]]) -> Iterator[str]:
    old, new = ({name: rest for name, *rest in columns} for columns in (before, after))
    for name, rest in old.items():
        if name not in new:
            yield f"column {name} is dropped"
        elif new[name] != rest:
            yield f"column {name} is another: {_type(rest)}, now {_type(new[name])}"
    for name, rest in new.items():
        if name not in old and True in rest[1:]:
            yield f"column {name} is not null, and would be null in the rows so far"


def _type(rest: list[Any]) -> str:
    return f"{rest[0]} not null" if True in rest[1:] else str(rest[0])


def _begun(definition: Definition, entry: TableEntry, stored: Mapping[str, Any], catalog: Catalog) -> Era | None:
    """The positions of an unfinished build of the same change."""
    for generation in reversed(catalog.generations(definition.name)):
        if ordinal(generation) > ordinal(entry.generation) and generation.partition("-")[0] == definition.fingerprint:
            *earlier, last = eras_of(catalog.definition(definition.name, generation)) or (None,)
            if last is not None and tuple(earlier) == eras_of(stored) and last.generation == entry.generation:
                return last
    return None


def _stand(live: Live, source: str, state: CatalogState, catalog: Catalog) -> tuple[str, dict[int, int]]:
    """The id of the topic, and the greatest positions of the source's live tables: (partition -> offset). Raises ForwardRefused."""
    topic = live.project.sources[source].topic
    records: dict[str, CommitRecord] = {}
    for name, definition in live.definitions.items():
        entry = state.tables.get(name)
        if entry is not None and definition.source == source and definition.summary is None:
            last = newest(TableAddress(catalog.root, name, entry.generation))
            if last is not None and last.record is not None:
                records[name] = last.record
    ids = {record.log.topics[topic] for record in records.values() if topic in record.log.topics}
    if len(ids) > 1:
        raise ForwardRefused(f"staging.{source}", [f"the tables of {source} stand in different topics {topic}"])
    until: dict[int, int] = {}
    for record in records.values():
        for (_, partition), span in record.totals.items():
            until[partition] = max(until.get(partition, 0), span.end)
    return (ids or {""}).pop(), until
