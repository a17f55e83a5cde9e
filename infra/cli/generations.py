"""``kappa generations | promote | rollback | drop-generation``: the builds of tables, and which of them are live."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.errors import UsageError
from flows.project import load_project
from infra.changes import generations as builds
from infra.changes.generations import Generation
from infra.changes.rollback import Rollback, all_back, some_back
from infra.cli.display import count, grid
from infra.cli.feeding import feed, sayer
from infra.run.identity import this_process
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.errors import TableUnreadable
from sinks.history import newest


@click.command(short_help="List the builds of each table.")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def generations(folder: Path, tables: tuple[str, ...], as_json: bool) -> None:
    """List the generations of tables: each is one build from one definition, with its own data and its own positions in the log.

    \b
    live     readers see it
    built    newer than the live one, which kappa promote makes live
    old      kappa rollback goes back to it
    dropped  its data is deleted

    \b
    Examples:
      kappa generations
      kappa generations core.flight --json
    """
    root = load_project(folder).storage
    known = Catalog(root).defined()
    for table in tables:
        if table not in known:
            raise UsageError(f"no table {table}", cause=f"there are: {', '.join(known) or 'none'}", next_step="kappa generations")
    found = builds.generations(root, tables)
    if as_json:
        click.echo(json.dumps({"format": 1, "generations": [_json(generation) for generation in found]}, indent=2))
        return
    if not found:
        click.echo("no tables yet; next: kappa run --until-caught-up")
        return
    rows = [[g.table, g.name, g.state, _offset(g), g.live_from or "", g.live_until or ""] for g in found]
    grid(["table", "generation", "state", "offsets read", "live from", "until"], rows, right={3})


def _json(generation: Generation) -> dict[str, Any]:
    record = generation.last.record if generation.last is not None else None
    return {
        "table": generation.table,
        "generation": generation.name,
        "state": generation.state,
        "live_from": generation.live_from,
        "live_until": generation.live_until,
        "positions": {f"{topic}/{partition}": offset for (topic, partition), offset in record.positions.items()} if record else {},
    }


def _offset(generation: Generation) -> str:
    record = generation.last.record if generation.last is not None else None
    return count(sum(span.end - span.start for span in record.totals.values())) if record is not None else ""


@click.command(short_help="Switch to what was built beside the live tables.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: progress, and the result at the end.")
@click.pass_obj
def promote(folder: Path, as_json: bool) -> None:
    """Switch to the generations that kappa apply --no-promote or kappa replay --no-promote has built, or to those that a rollback left.

    They are first brought to where the live ones stand, and checked. Everything is switched at once.

    \b
    Example:
      kappa apply --yes --no-promote && kappa diff core.flight && kappa promote
    """
    from infra.changes.build import Build, Options

    feed(load_project(folder), sayer(as_json=as_json), lambda session: Build(session, Options("promote")).promote())


@click.command(short_help="Go back to the generations before.")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--all", "everything", is_flag=True, help="All tables and views, as they were before the last swap.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def rollback(folder: Path, tables: tuple[str, ...], everything: bool, dry_run: bool, as_json: bool) -> None:
    """Make the generations live that were live before, at once: readers see all of the old set or all of the new one.

    With TABLE…, these tables, and what would not fit them otherwise: tables that derive from them, and their upstreams. The older
    generations stand where they were left; kappa run goes on from there. The newer ones stay, for kappa promote.

    \b
    Examples:
      kappa rollback --all
      kappa rollback core.flight --dry-run
    """
    if everything == bool(tables):
        raise click.UsageError("name the tables, or say --all")
    project = load_project(folder)
    catalog = Catalog(project.storage)
    going = all_back(catalog) if everything else some_back(catalog, tables)
    n = going.base.n
    if not dry_run:
        n = going.publish(catalog, by=f"rollback, {this_process()}").n
    if as_json:
        click.echo(json.dumps(_rollback_json(project.storage, going, n, dry=dry_run), indent=2))
        return
    for name, entry in going.back.items():
        was = going.base.tables.get(name)
        behind = _behind(project.storage, going, name)
        lag = f", {count(behind)} offsets behind" if behind else ""
        click.echo(f"{name}: {was.generation if was else 'none'} -> {entry.generation if entry else 'leaves the catalogue'}{lag}")
    changed = sorted(name for name in {**going.base.views, **going.views} if going.base.views.get(name) != going.views.get(name))
    if changed:
        click.echo(f"views as they were: {', '.join(changed)}")
    click.echo("dry run: nothing was changed" if dry_run else f"catalogue {n} is as catalogue {going.to} was; next: kappa run")


def _rollback_json(root: str, going: Rollback, n: int, *, dry: bool) -> dict[str, Any]:
    return {
        "format": 1,
        "dry_run": dry,
        "catalogue": n,
        "as": going.to,
        "tables": [
            {
                "table": name,
                "from": going.base.tables[name].generation if name in going.base.tables else None,
                "to": entry.generation if entry is not None else None,
                "behind": _behind(root, going, name),
            }
            for name, entry in going.back.items()
        ],
    }


def _behind(root: str, going: Rollback, name: str) -> int | None:
    """By how many offsets the older generation has read less than the newer one; None when that is unknown."""
    was, entry = going.base.tables.get(name), going.back[name]
    if was is None or entry is None:
        return None
    try:
        last, older = (newest(TableAddress(root, name, each.generation)) for each in (was, entry))
    except TableUnreadable:
        return None
    if last is None or older is None or last.record is None or older.record is None:
        return None
    then = older.record.positions
    return sum(max(0, offset - then.get(place, 0)) for place, offset in last.record.positions.items())


@click.command("drop-generation", short_help="Delete the data of old builds.")
@click.argument("table")
@click.argument("names", nargs=-1, metavar="[GENERATION]...")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop_generation(folder: Path, table: str, names: tuple[str, ...], yes: bool) -> None:
    """Delete the data of generations of TABLE; none named: of all that are not live. Their definitions stay.

    The live generation and one that is being built are refused. Queries that began on a dropped generation fail. kappa apply drops by
    itself what is older than the last maintenance.keep_generations.

    \b
    Examples:
      kappa drop-generation core.flight
      kappa drop-generation core.flight 3f9a0c12b7de-1 --yes
    """
    root = load_project(folder).storage
    going = builds.droppable(root, table, names)
    if not going:
        click.echo(f"{table} has no generation that could be dropped")
        return
    if not yes:
        click.confirm(f"Delete {', '.join(generation.name for generation in going)} of {table}?", abort=True, err=True)
    for generation in going:
        builds.drop(root, generation)
        click.echo(f"dropped {generation.name} of {table}")
