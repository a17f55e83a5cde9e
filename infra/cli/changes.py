"""``kappa plan`` and ``kappa apply``: see what the folder's changes mean, and make them live."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from flows.project import load_project
from infra.changes.compare import REJECTED, Change
from infra.changes.estimate import Reading
from infra.changes.plan import ChangePlan, kept_in, make_plan
from infra.cli.display import count, size
from infra.cli.feeding import RATE, feed, sayer
from infra.cli.tables import kafka_config

CHANGES = 3  # exit status of a plan with changes
FORWARD = "Tables whose columns are only added to keep the rows they have: the change holds from now on."


@click.command(short_help="See what the folder would change in what is live.")
@click.option(
    "-o", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the plan to FILE, for kappa apply FILE.", metavar="FILE"
)
@click.option("--forward-only", is_flag=True, help=FORWARD)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def plan(folder: Path, out: Path | None, forward_only: bool, as_json: bool) -> int:
    """Compare the folder with what is live: for each table and view what differs, what follows from it, and what building it costs.

    \b
    new       no generation is live
    changed   rows may differ: SQL, columns, rules that reject, key, the upstream, DuckDB's version
    removed   live, and no file defines it any more
    metadata  nothing that decides rows: comments, descriptions, rules that warn; nothing is to be done

    The command changes nothing. Costs need Kafka; the rest does not. Exit status 0 when there is nothing to do, 3 when there are changes.

    \b
    Examples:
      kappa plan
      kappa plan -o change.json && kappa apply change.json
    """
    project = load_project(folder)
    made = make_plan(project, kafka_config(project), forward_only=forward_only)
    text = json.dumps(made.to_json(), indent=2)
    if out is not None:
        out.write_text(f"{text}\n", encoding="utf-8")
    if as_json:
        click.echo(text)
    else:
        for line in lines_of(made):
            click.echo(line)
        if made.changed:
            click.echo(f"next: kappa apply{f' {out}' if out is not None else ' --forward-only' if forward_only else ''}")
    return CHANGES if made.changed else 0


@click.command(short_help="Make the folder's definitions live.")
@click.argument("file", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="[FILE]")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--forward-only", is_flag=True, help=FORWARD)
@click.option("--no-promote", is_flag=True, help="Build beside the live generations, and leave the switch to kappa promote.")
@click.option("--accept-lost", is_flag=True, help="Build from what the log still holds, and lose the rest.")
@click.option("--rate", metavar="N", type=click.FloatRange(min=0, min_open=True), help=RATE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: the plan, progress, and the result at the end.")
@click.pass_obj
def apply(
    folder: Path, file: Path | None, yes: bool, forward_only: bool, no_promote: bool, accept_lost: bool, rate: float | None, as_json: bool
) -> None:
    """Build what kappa plan shows beside what is live, check it, and switch to all of it at once.

    Readers and kappa run stay with the old tables until the switch; a run goes on with the new ones. Whatever stops it, the same command
    goes on with what is built. With FILE, a plan that kappa plan -o wrote, it refuses when the folder or the tables have moved since.

    --forward-only does not read the log again: staging, append and upsert tables keep their rows, with null in the new columns, and the
    folder's definitions hold for what comes from now on. A later replay makes the same rows. Summaries and materialized tables are made
    anew from the tables below.

    \b
    Examples:
      kappa apply
      kappa plan -o change.json && kappa apply change.json --yes
    """
    from infra.changes.build import Build, Options

    project = load_project(folder)
    forward_only = forward_only or (file is not None and bool(kept_in(file)))
    made = make_plan(project, kafka_config(project), costs=not as_json, forward_only=forward_only)
    if file is not None:
        made.check(file)
    say = sayer(as_json=as_json)
    if not made.changed:
        say({"event": "end", "changes": 0}, "nothing to do: what is live is what the folder defines")
        return
    if not as_json:
        for line in lines_of(made):
            click.echo(line, err=True)
    if not yes and sys.stdin.isatty():
        click.confirm("Apply this?", abort=True, err=True)
    elif not yes and file is None:
        raise click.UsageError("nobody can be asked here: kappa apply --yes, or kappa apply FILE with a plan that was seen")
    options = Options("apply", accept_lost=accept_lost, promote=not no_promote, records_per_s=rate)
    feed(project, say, lambda session: Build(session, options).apply(made.builds, forward_only=forward_only))


def lines_of(made: ChangePlan) -> Iterator[str]:
    """The plan for people."""
    shown = [change for change in made.changed if not change.name.endswith(REJECTED)]
    width = max((len(change.name) for change in shown), default=0)
    for change in shown:
        yield f"{change.name.ljust(width)}  {_what(change)}"
        yield from (f"    {line}" for line in change.diff)
    by_letters = [change.name for change in made.changes if change.status == "metadata"]
    if by_letters:
        yield f"{', '.join(by_letters)}: other comments, descriptions or rules that warn than when built: taken by kappa run"
    if shown_kept := [name for name in made.kept if not name.endswith(REJECTED)]:
        yield f"{', '.join(shown_kept)}: keep the rows they have, with null in new columns; the change holds from now on"
    unchanged = [change for change in made.changes if change not in made.changed and not change.name.endswith(REJECTED)]
    yield f"{count(len(shown))} to change, {count(len(unchanged))} unchanged"
    for reading in made.cost.readings:
        yield _reads(reading)
    yield from (f"warning: {warning}" for warning in made.cost.warnings)


def _what(change: Change) -> str:
    if change.follows is not None:
        return f"follows {change.follows}"
    kind = f"{change.kind}, " if change.status in ("new", "removed") or change.kind == "view" else ""
    sentences = [sentence for sentence in change.differences if not (sentence.startswith("SQL changed") and change.diff)]
    return f"{kind}{change.status}{': ' if sentences else ''}{'; '.join(sentences)}"


def _reads(reading: Reading) -> str:
    origin = {"kafka": "Kafka", "archive": f"raw.{reading.source}"}.get(reading.origin, reading.origin)
    records = "an unknown number of" if reading.records is None else f"about {count(reading.records)}"
    what = f"records of {reading.source} from {origin}" if reading.source else f"rows of {origin} for {', '.join(reading.tables)}"
    parts = [f"reads {records} {what}"]
    if reading.nbytes:
        parts.append(size(reading.nbytes))
    if reading.seconds is not None and reading.rate is not None:
        seconds = f"{reading.seconds:,.0f} s" if reading.seconds >= 1 else "less than 1 s"
        parts.append(f"{seconds} at {reading.rate:,.0f} records/s as committed before")
    else:
        parts.append("time unknown")
    if reading.disk_bytes is not None:
        parts.append(f"{size(reading.disk_bytes)} of disk")
    return ", ".join(parts)
