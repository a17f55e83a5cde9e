"""``kappa explain-row``: from a row back to the events that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.project import load_project
from infra.cli.display import count, shorten
from infra.cli.peek import event_json, event_time, short
from infra.cli.tables import kafka_config
from infra.trace.records import Trace, Traced
from infra.trace.trace import trace

_WHAT = {
    "row": "gave the row",
    "group": "counts in it",
    "outranked": "was outranked by a newer one of its key",
    "delete": "deleted the key",
    "corrected": "was rejected, and is corrected by the one above",
    "correction": "was sent as its correction, and counts in its place",
}
WIDTH = 160


@click.command("explain-row", short_help="From a row back to the events that made it.", context_settings={"ignore_unknown_options": True})
@click.argument("table")
@click.argument("key", nargs=-1, required=True)
@click.option("--limit", default=20, show_default=True, metavar="N", type=click.IntRange(1, 10_000), help="How many records to show.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def explain_row(folder: Path, table: str, key: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Show which records of the log made a row, where they lie, and the events themselves, from the raw table or else from Kafka.

    KEY are the values of the table's key, in its order: the key of an upsert table, the groups of a summary, partition and offset of any
    other table. Or COLUMN=VALUE of any columns, which must name one row of an upsert table or summary. NULL is null, 'NULL' the text. Of
    an upsert table, all records of the key are shown: the one that gave the row, those that it has outranked, and deletes. Of a summary,
    the rows of its upstream that count in the group. It reads only, and needs no server where the raw table holds the events.

    \b
    Examples:
      kappa explain-row core.flight UA 1545 2013-01-01T10:00:00Z
      kappa explain-row analytics.carrier_day UA 2013-01-01
      kappa explain-row staging.flights 0 17
      kappa explain-row core.plane tailnum=N14228 --json
    """
    project = load_project(folder)
    found = trace(project, table, key, limit, kafka_config(project))
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2, default=str, ensure_ascii=False))
    else:
        _show(found)


def to_json(found: Trace) -> dict[str, Any]:
    """The contract of ``kappa explain-row --json`` (docs/json.md)."""
    return {
        "format": 1,
        "table": found.table,
        "kind": found.kind,
        "chain": list(found.chain),
        "row": _values(found.row),
        "total": found.total,
        "records": [
            {
                "position": str(record.position),
                "part": record.part,
                "row": _values(record.row),
                "from": None if isinstance(record.found, str) else record.found[0],
                "event": None if isinstance(record.found, str) else event_json(record.found[1]),
                "missing": record.found if isinstance(record.found, str) else None,
            }
            for record in found.records
        ],
    }


def _values(row: Any) -> dict[str, str | None] | None:
    """As texts: JSON has no decimals and no times."""
    return None if row is None else {name: None if value is None else str(value) for name, value in row.items()}


def _show(found: Trace) -> None:
    click.secho(found.table, bold=True)
    click.echo(f"kind: {found.kind}   from: {' <- '.join(found.chain)}")
    if found.row is not None:
        click.echo(_line(found.row))
    elif found.kind == "upsert":
        click.echo("deleted: readers do not see the key")
    for record in found.records:
        click.echo()
        _show_record(record, found)
    shown = sum(record.part not in ("corrected", "correction") for record in found.records)
    if shown < found.total:
        click.echo(f"\n{count(found.total - shown)} more of {count(found.total)}: --limit {found.total}")


def _show_record(record: Traced, found: Trace) -> None:
    at = "" if isinstance(record.found, str) else event_time(record.found[1])
    click.echo(f"{record.position}  {_WHAT[record.part]}" + (f"  {at}" if at else ""))
    if record.row is not None and (record.part != "row" or found.row is None):
        click.echo(f"  row    {shorten(_line(record.row), WIDTH)}")
    if isinstance(record.found, str):
        click.secho(f"  event  missing: {record.found}", fg="red")
        return
    origin, event = record.found
    click.echo(f"  key    {short(event.key, WIDTH)}")
    click.echo(f"  value  {short(event.value, WIDTH)}   (from {'the raw table' if origin == 'raw' else 'Kafka'})")
    if event.headers:
        click.echo("  " + "  ".join(f"{name}={short(value, 60)}" for name, value in event.headers))


def _line(row: Any) -> str:
    return "  ".join(f"{name}={_shown(value)}" for name, value in row.items() if not name.startswith("_"))


def _shown(value: object) -> object:
    return short(value, WIDTH) if value is None or isinstance(value, bytes) else value
