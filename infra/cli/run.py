"""``kappa run``: turn events into Delta tables."""

from __future__ import annotations

from pathlib import Path

import click

from flows.project import load_project
from infra.cli.feeding import feed, sayer


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE|SOURCE]...")
@click.option("--until-caught-up", is_flag=True, help="Stop when everything that is in the topics now has been committed.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: progress, and the result at the end.")
@click.pass_obj
def run(folder: Path, tables: tuple[str, ...], until_caught_up: bool, as_json: bool) -> None:
    """Turn events into Delta tables, exactly once, until stopped.

    Without names every table is fed: the live ones by the definitions that they were built from, and new ones of the folder. What the
    folder defines otherwise waits for kappa apply. Run it twice and the newer run takes over. Ctrl-C commits what is whole and stops; kill
    it in any other way and the next run goes on where the tables stand.

    \b
    Examples:
      kappa run                               all tables, until Ctrl-C
      kappa run --until-caught-up             what is there now, then stop
      kappa run core.flight                   one table
    """
    from infra.run.session import Request

    feed(load_project(folder), sayer(as_json=as_json), lambda session: session.run(Request(tables, until_caught_up)))
