"""``kappa tables`` and ``kappa show``: what is in the warehouse, and one table in full."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from flows.project import Project, load_project
from infra.cli.display import age, count, grid, size, timestamp
from infra.description import Description, describe
from infra.inventory import TableStatus, now, read_all
from infra.run.selection import REJECTED
from sinks.catalog import Catalog


@click.command(short_help="List tables: rows, size, lag, freshness.")
@click.option("--all", "everything", is_flag=True, help="Also the tables of rejects that are empty.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object, always with all tables.")
@click.pass_obj
def tables(folder: Path, everything: bool, as_json: bool) -> None:
    """List tables and views: rows, size, files, lag behind the log, time since the last commit, and state.

    Tables of rejects are listed when they hold rows or have failed, or with --all. Lag is counted in offsets up to the last committed
    record (transaction markers included); it is unknown while Kafka is away.

    \b
    Examples:
      kappa tables
      kappa tables --all
      kappa tables --json
    """
    project = load_project(folder)
    state = Catalog(project.storage).read()
    statuses, unknown = read_all(project.storage, state, kafka_config(project))
    at = now()
    if as_json:
        views = [{"name": name, "kind": "view", "sql": sql} for name, sql in sorted(state.views.items())]
        click.echo(json.dumps({"catalogue": state.n, "tables": [status_json(s, at) for s in statuses], "views": views}, indent=2))
        return
    if not statuses and not state.views:
        click.echo("no tables yet; next: kappa run --until-caught-up")
        return
    shown = [status for status in statuses if everything or not _is_quiet(status)]
    rows = [_row(status, at) for status in shown] + [[name, "view", "", "", "", "", "", ""] for name in sorted(state.views)]
    grid(["table", "kind", "rows", "size", "files", "lag", "last commit", "state"], rows, right={2, 3, 4, 5})
    if hidden := len(statuses) - len(shown):
        click.echo(f"{hidden} empty table{'' if hidden == 1 else 's'} of rejects not shown: kappa tables --all")
    for status in shown:
        if status.failure is not None:
            verdict = "cannot be read" if status.unreadable else "failed"
            click.secho(f"{status.name} {verdict}: {status.failure.cause}", fg="red")
            if status.failure.positions:
                click.echo(f"  at:   {', '.join(status.failure.positions)}")
            click.echo(f"  next: {status.failure.next_step}")
    if unknown and statuses:
        click.echo(f"lag is unknown{'' if all(status.lag is None for status in statuses) else ' for some'}: {unknown}")


@click.command(short_help="One table: columns, lineage, ledger.")
@click.argument("table")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def show(folder: Path, table: str, as_json: bool) -> None:
    """Show a table or view: columns with their types and where they come from, the ledger, the last commits, the definition.

    \b
    Examples:
      kappa show core.flight
      kappa show staging.flights__rejected --json
    """
    project = load_project(folder)
    description = describe(project, table, kafka_config(project))
    if as_json:
        click.echo(json.dumps(description_json(description, now()), indent=2))
    else:
        _show(description)


def kafka_config(project: Project) -> dict[str, str] | None:
    """librdkafka's configuration; None when the local Kafka is not running, which is no error for a listing."""
    from infra.addresses import StackDown, resolve

    try:
        return resolve(project).kafka
    except StackDown:
        return None


def _is_quiet(status: TableStatus) -> bool:
    """A table of rejects about which there is nothing to say."""
    return status.name.endswith(REJECTED) and not status.rows and status.failure is None


def _row(status: TableStatus, at: datetime) -> list[str]:
    if status.unreadable is not None:
        return [status.name, status.kind, "", "", "", "", "", status.state]
    lag = "unknown" if status.lag is None else count(status.lag)
    numbers = [count(status.rows), size(status.nbytes), count(status.files), lag]
    return [status.name, status.kind, *numbers, age(status.age_s(at)), status.state]


def _show(it: Description) -> None:
    click.secho(it.name, bold=True)
    click.echo(f"kind: {it.kind}" + (f"   source: {it.source}" if it.source else ""))
    if it.reads:
        click.echo(f"reads: {', '.join(it.reads)}")
    if it.read_by:
        click.echo(f"read by: {', '.join(it.read_by)}")
    click.echo()
    grid(["column", "type", "from"], [[name, kind, ", ".join(it.lineage.get(name, ()))] for name, kind in it.columns.items()])
    if it.status is not None:
        _show_status(it, it.status)
    if it.sql:
        click.echo(f"\n{it.sql}")
    for note in it.notes:
        click.echo(f"\nnote: {note}")


def _show_status(it: Description, status: TableStatus) -> None:
    click.echo(f"\ngeneration {status.generation}, version {status.version}: {count(status.rows)} rows, {size(status.nbytes)}")
    if status.failure is not None:
        click.secho(f"failed: {status.failure.cause}\n  next: {status.failure.next_step}", fg="red")
    if status.record is not None:
        spans = status.record.totals.items()
        rows = [[f"{t}/{p}", *map(count, (s.start, s.end, s.read, s.written, s.filtered, s.rejected))] for (t, p), s in spans]
        click.echo("\nledger")
        grid(["partition", "from", "to", "read", "written", "filtered", "rejected"], rows, right=set(range(1, 7)))
    click.echo("\nlast commits")
    warned = [", ".join(f"{rule}: {count(n)}" for rule, n in (c.record.warned if c.record else {}).items()) for c in it.commits]
    by = [str(c.record.run) if c.record else "" for c in it.commits]
    lines = [
        [str(c.version), timestamp(c.at), c.operation, count(c.rows_added), rules, run]
        for c, rules, run in zip(it.commits, warned, by, strict=True)
    ]
    grid(["version", "at", "operation", "rows", "warned", "by"], lines, right={0, 3})
    for rule, number in it.warned.items():
        click.echo(f"rule {rule} warned of {count(number)} rows (in the commits that the log holds)")


def status_json(status: TableStatus, at: datetime) -> dict[str, Any]:
    """A table of ``kappa tables --json`` (docs/json.md)."""
    failure, last, known = status.failure, status.last, status.unreadable is None
    age_s = status.age_s(at)
    return {
        "name": status.name,
        "kind": status.kind,
        "generation": status.generation,
        "version": status.version if known else None,
        "rows": status.rows if known else None,
        "bytes": status.nbytes if known else None,
        "files": status.files if known else None,
        "lag_records": status.lag,
        "age_s": None if age_s is None else round(age_s, 3),
        "last_commit": None
        if last is None or last.record is None
        else {"version": last.version, "at": timestamp(last.at), "id": last.record.id},
        "positions": {f"{topic}/{partition}": offset for (topic, partition), offset in sorted(status.positions.items())},
        "state": status.state,
        "failure": None
        if failure is None
        else {"cause": failure.cause, "positions": list(failure.positions), "next_step": failure.next_step},
    }


def description_json(it: Description, at: datetime) -> dict[str, Any]:
    """``kappa show --json`` (docs/json.md)."""
    record = it.status.record if it.status else None
    return {
        "name": it.name,
        "kind": it.kind,
        "source": it.source,
        "reads": it.reads,
        "read_by": it.read_by,
        "columns": [{"name": name, "type": kind, "from": list(it.lineage.get(name, ()))} for name, kind in it.columns.items()],
        "sql": it.sql,
        "status": status_json(it.status, at) if it.status else None,
        "ledger": {f"{t}/{p}": span.to_json() for (t, p), span in sorted(record.totals.items())} if record else {},
        "warned": dict(it.warned),
        "commits": [
            {
                "version": commit.version,
                "at": timestamp(commit.at),
                "operation": commit.operation,
                "rows_added": commit.rows_added,
                "files_added": commit.files_added,
                "files_removed": commit.files_removed,
                "warned": dict(commit.record.warned) if commit.record else {},
                "id": commit.record.id if commit.record else None,
                "epoch": commit.record.epoch if commit.record else None,
            }
            for commit in it.commits
        ],
        "definition": it.definition,
        "notes": it.notes,
    }
