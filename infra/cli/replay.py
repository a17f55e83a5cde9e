"""``kappa replay``: build tables anew from the log, by the definitions that are live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.errors import UsageError
from flows.project import load_project
from infra.cli.feeding import RATE, feed, sayer

if TYPE_CHECKING:
    from infra.changes.ranges import Range


@click.command()
@click.argument("tables", nargs=-1, required=True, metavar="TABLE|SOURCE...")
@click.option("--accept-lost", is_flag=True, help="Build from what the log still holds, and lose the rest.")
@click.option("--no-promote", is_flag=True, help="Build beside the live generations, and leave the switch to kappa promote.")
@click.option(
    "--from", "start", metavar="WHERE", help="Of one append table: replace only the rows from here: earliest, an offset, or a time."
)
@click.option("--to", "end", metavar="WHERE", help="Up to here, which is left out: latest, an offset, or a time.")
@click.option("--take-over", is_flag=True, help="With a range: also what another run may own; that run stops.")
@click.option("--rate", metavar="N", type=click.FloatRange(min=0, min_open=True), help=RATE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: progress, and the result at the end.")
@click.pass_obj
def replay(
    folder: Path,
    tables: tuple[str, ...],
    accept_lost: bool,
    no_promote: bool,
    start: str | None,
    end: str | None,
    take_over: bool,
    rate: float | None,
    as_json: bool,
) -> None:
    """Build new generations of tables, and of all that derives from them, by replaying the log; then switch to them at once.

    The definitions are those that the live generations were built from: changes in the folder are for kappa apply. Readers see the old
    tables until the switch. Stopped or killed, the same command goes on with what is built.

    With --from or --to, the rows of that range of an append table are made anew and take the place of the old ones in the live table, in
    one commit. Offsets are those of every partition; times are those of the records.

    \b
    Examples:
      kappa replay core.flight                a damaged table
      kappa replay flights                    all tables of a source
      kappa replay flights --rate 20000       beside a busy broker
      kappa replay core.event --from 2026-11-01 --to 2026-11-02
    """
    from infra.changes.build import Build, Options
    from infra.changes.ranges import Range

    if start is not None or end is not None:
        _range(folder, tables, Range(start or "earliest", end or "latest", take_over, rate), as_json=as_json)
        return
    options = Options("replay", accept_lost=accept_lost, promote=not no_promote, records_per_s=rate)
    feed(load_project(folder), sayer(as_json=as_json), lambda session: Build(session, options).replay(tables))


def _range(folder: Path, tables: tuple[str, ...], asked: Range, *, as_json: bool) -> None:
    from infra.changes.ranges import RangeReplay

    if len(tables) != 1:
        raise UsageError(
            "a range is of one table", cause=f"these are named: {', '.join(tables)}", next_step="kappa replay TABLE --from --to"
        )
    feed(load_project(folder), sayer(as_json=as_json), lambda session: RangeReplay(session, asked).replay(tables[0]))
