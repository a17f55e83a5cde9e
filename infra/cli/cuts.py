"""``kappa cuts``: moments at which all tables can be asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.project import load_project
from infra.cli.display import count, grid
from infra.run.identity import this_process
from sinks.published import Cuts, PublishedCut


@click.group(invoke_without_command=True, short_help="Moments at which all tables can be asked again.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_context
def cuts(context: click.Context, as_json: bool) -> None:
    """List the published cuts: the versions of all tables that belonged together at a moment, oldest first.

    kappa run publishes one a minute while something changes (run.cut_interval_s), and one at its end. A cut is kept as long as versions
    are (maintenance.keep_cuts_s, else retention_s), or until it is unpinned.

    \b
    Examples:
      kappa cuts
      kappa query --cut 12 "SELECT count(*) FROM core.flight"
      kappa query --cut 2026-11-22T18:00:00Z "FROM analytics.carrier_day"
      kappa cuts publish --pin month-end-2026-11
    """
    if context.invoked_subcommand is not None:
        return
    found = Cuts(load_project(context.obj).storage).all()
    if as_json:
        click.echo(json.dumps({"format": 1, "cuts": [_json(cut) for cut in found]}, indent=2))
        return
    if not found:
        click.echo("no cuts yet; next: kappa run --until-caught-up, or kappa cuts publish")
        return
    rows = [[str(cut.n), cut.created_at, cut.pin or "", str(len(cut.tables)), _offsets(cut), ", ".join(cut.left_out)] for cut in found]
    grid(["cut", "published", "pin", "tables", "offsets read", "left out"], rows, right={0, 3, 4})


@cuts.command(short_help="Publish the present cut.")
@click.option("--pin", "name", metavar="NAME", help="Keep it under this name until it is unpinned.")
@click.option("--json", "as_json", is_flag=True, help="The cut as one JSON object.")
@click.pass_obj
def publish(folder: Path, name: str | None, as_json: bool) -> None:
    """Publish the present cut, unless the newest one is the same and no pin is asked for.

    \b
    Example:
      kappa cuts publish --pin month-end-2026-11
    """
    cut = Cuts(load_project(folder).storage).publish(f"cuts publish, {this_process()}", name)
    _say(cut, as_json=as_json)


@cuts.command(short_help="Keep a cut under a name.")
@click.argument("cut")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="The cut as one JSON object.")
@click.pass_obj
def pin(folder: Path, cut: str, name: str, as_json: bool) -> None:
    """Keep CUT (a number or a time) under NAME: vacuum, log cleanup and retention leave what it names alone.

    The log of every table is kept from there on, so that a pin of long ago makes each commit a little slower.

    \b
    Example:
      kappa cuts pin 12 month-end-2026-11
    """
    project = load_project(folder)
    published = Cuts(project.storage)
    _say(published.pin(published.find(cut), name, project.settings.maintenance.cuts_kept_s), as_json=as_json)


@cuts.command(short_help="Let a pinned cut go.")
@click.argument("cut")
@click.pass_obj
def unpin(folder: Path, cut: str) -> None:
    """Let CUT (a name or a number) go as the others do: what only it names is deleted by the next vacuum.

    \b
    Example:
      kappa cuts unpin month-end-2026-11
    """
    published = Cuts(load_project(folder).storage)
    found = published.find(cut)
    published.unpin(found)
    click.echo(f"cut {found.n} is not pinned" + ("" if found.pin else ", and was not before"))


def _say(cut: PublishedCut, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_json(cut), indent=2))
    else:
        click.echo(f"cut {cut.n} of {cut.created_at}, {len(cut.tables)} tables" + (f", pinned as {cut.pin}" if cut.pin else ""))


def _json(cut: PublishedCut) -> dict[str, Any]:
    stored = cut.to_json()
    return {name: stored[name] for name in ("n", "created_at", "by", "catalog")} | {
        "pin": cut.pin,
        "tables": stored["tables"],
        "positions": {f"{topic}/{p}": offset for topic, each in stored["vectors"].items() for p, offset in each.items()},
        "left_out": stored["left_out"],
    }


def _offsets(cut: PublishedCut) -> str:
    return count(sum(sum(each.values()) for each in cut.vectors.values()))
