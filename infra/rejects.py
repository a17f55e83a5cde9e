"""The rejects of a source as SQL over the tables of a warehouse: filters, and the shape in which they are written to a file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from flows.contract import Source
from flows.errors import UsageError
from flows.plan import analyse
from flows.project import Project
from flows.stage.codes import Code
from flows.stage.corrections import HEADER
from sinks import Warehouse

REJECTED = "__rejected"
# as docs/rejects.md has it: what `kappa rejects resend` reads again
EXPORT = """position, "table", code, rule, "column", reason, _timestamp AS "timestamp",
    try(decode(key)) AS key, CASE WHEN try(decode(key)) IS NULL THEN to_base64(key) END AS key_base64,
    try(decode(value)) AS value, CASE WHEN try(decode(value)) IS NULL THEN to_base64(value) END AS value_base64,
    list_transform(headers, h -> {name: h.name, value: coalesce(try(decode(h.value)), h.value::varchar)})::json::varchar AS headers,
    corrected_by"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rejects: each field that is set narrows them down. ``offsets``: half-open, None for an open end; times in UTC, half-open.

    ``still_open``: only those of staging that a correction may still name.
    """

    tables: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    partition: int | None = None
    offsets: tuple[int | None, int | None] = (None, None)
    since: datetime | None = None
    until: datetime | None = None
    still_open: bool = False

    def sql(self) -> str:
        """A condition over the columns of ``every``."""
        names = {'"table"': self.tables, "code": self.codes, "rule": self.rules, '"column"': self.columns}
        conditions = [f"{name} IN ({', '.join(map(_text, wanted))})" for name, wanted in names.items() if wanted]
        bounds = {"_partition =": self.partition, "_offset >=": self.offsets[0], "_offset <": self.offsets[1]}
        conditions += [f"{name} {value}" for name, value in bounds.items() if value is not None]
        times = {"_timestamp >=": self.since, "_timestamp <": self.until}
        conditions += [f"{name} TIMESTAMPTZ {_text(at.isoformat())}" for name, at in times.items() if at is not None]
        if self.still_open:
            conditions.append(f"\"table\" LIKE 'staging.%' AND code <> '{Code.SUPERSEDED}' AND corrected_by IS NULL")
        return " AND ".join(conditions) or "true"


def every(project: Project, name: str, warehouse: Warehouse) -> str:
    """SQL of all rejects of a source: ``table`` (that refused the record), ``position``, ``corrected_by`` and the columns of RAW and why.

    ``corrected_by``: the position of the correction that counts for the record, where the source takes corrections. Raises UsageError.
    """
    source, tables = project.sources[name], tables_of(project, name, warehouse)
    selects = [f"SELECT '{table.removesuffix(REJECTED)}' AS \"table\", * FROM {table}" for table in tables]
    place = f"{_text(source.topic + '/')} || _partition || '/'"
    corrected = "SELECT NULL::int AS _partition, NULL::bigint AS _offset, NULL::bigint AS by, ''::varchar AS \"table\" WHERE false"
    if takes_corrections(source, warehouse):
        corrected = _corrected(f"staging.{name}")
    return (
        f"(SELECT e.*, {place.replace('_partition', 'e._partition')} || e._offset AS position,"
        f" {place.replace('_partition', 'e._partition')} || c.by AS corrected_by"
        f" FROM ({' UNION ALL '.join(selects)}) AS e LEFT JOIN ({corrected}) AS c"
        f' ON e._partition = c._partition AND e._offset = c._offset AND e."table" = c."table")'
    )


def takes_corrections(source: Source, warehouse: Warehouse) -> bool:
    """Whether the live generation of staging takes corrections."""
    staging = f"staging.{source.name}"
    return staging in warehouse.tables() and "_corrects" in warehouse.sql(f"FROM {staging} LIMIT 0").columns


def tables_of(project: Project, source: str, warehouse: Warehouse) -> list[str]:
    """The tables of rejects that the catalogue has. Raises UsageError when there is none yet."""
    stored = warehouse.tables()
    nodes = [node.name for node in analyse(project).nodes.values() if node.source == source]
    names = [name for table in (f"staging.{source}", *nodes) if (name := f"{table}{REJECTED}") in stored]
    if not names:
        raise UsageError(f"source {source} has no tables yet", next_step=f"kappa run {source} --until-caught-up")
    return names


def _corrected(staging: str) -> str:
    """SQL of the rejected positions of staging for which a row stands: a rejected correction stands for what it names."""
    named = f"list_filter(headers, h -> h.name = '{HEADER}')[1].value"
    return f"""
        WITH RECURSIVE named AS (
            SELECT _partition, _offset, CAST(string_split(decode({named}), '/')[-1] AS bigint) AS target
            FROM {staging}{REJECTED} WHERE code <> '{Code.SUPERSEDED}'
        ), first AS (
            SELECT _partition, _offset, _offset AS stands_for FROM named WHERE target IS NULL
            UNION ALL
            SELECT n._partition, n._offset, f.stands_for
            FROM named AS n JOIN first AS f ON n._partition = f._partition AND n.target = f._offset
        )
        SELECT f._partition, f._offset, s._offset AS by, '{staging}' AS "table"
        FROM first AS f JOIN {staging} AS s ON s._partition = f._partition AND s._corrects = f.stands_for"""


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
