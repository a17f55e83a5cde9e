"""``kappa maintain``: compaction, checkpoint, vacuum and log cleanup on demand."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

import click

from flows.errors import KappaError
from flows.ledger import RunIdentity
from flows.project import load_project
from infra.cli.display import count, grid, size
from infra.cli.names import stored_tables
from infra.run.identity import has_ended, is_here, this_process
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.compaction import Stopped
from sinks.upkeep import Amount, Upkeep, Upkeeper

Done = Mapping[TableAddress, Upkeep | KappaError]


@click.command(short_help="Compact, vacuum and checkpoint tables.")
@click.argument("tables", nargs=-1, metavar="[TABLE|SOURCE]...")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--take-over", is_flag=True, help="Compact also what another run may own: that run stops.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def maintain(folder: Path, tables: tuple[str, ...], dry_run: bool, take_over: bool, as_json: bool) -> int:
    """Tidy tables up, without a run: merge small files, write a checkpoint of the log, delete what no kept version needs.

    \b
    compacted   neighbouring small files of append tables become files of up to maintenance.target_file_bytes
    checkpoint  the log's newest version, so that readers open the table at once
    removed     data files that only versions older than maintenance.retention_s need, and what killed runs left a day ago
    log         commits from before a checkpoint of that age

    A run does all of it by itself, as its tables grow; this is for tables that no run feeds, and for now instead of later. Younger versions
    stay readable. A compaction needs the table: where a run is at work, or its last run was on another machine and may be, it is left
    to that run, unless --take-over. Ctrl-C deletes what is half written; whatever kills it, call it again. A second call has nothing to do.

    TABLES are names (core.flight, with its rejects) or sources (flights: all of its tables); none: all. Exit status 1 when one failed.

    \b
    Examples:
      kappa maintain --dry-run
      kappa maintain core.flight
    """
    project = load_project(folder)
    state = Catalog(project.storage).read()
    names = stored_tables(tables, state, project, "maintain")
    done: dict[TableAddress, Upkeep | KappaError] = {}
    with _stopped_by_signals() as stop:
        keeper = Upkeeper(project.settings.maintenance, this_process(), lambda run: _why_left(run, take_over=take_over), dry_run, stop)
        for name in names:
            address = TableAddress(project.storage, name, state.tables[name].generation)
            try:
                done[address] = keeper.tend(address, compacts=state.tables[name].kind == "append")
            except Stopped:
                break
            except KappaError as error:
                done[address] = error
            if stop.is_set():
                break
    if as_json:
        click.echo(json.dumps(to_json(done, dry=dry_run), indent=2))
    else:
        _show(done, dry=dry_run, retention_s=project.settings.maintenance.retention_s)
    if stop.is_set():
        raise click.Abort
    return 1 if any(isinstance(each, KappaError) for each in done.values()) else 0


def _why_left(run: RunIdentity, *, take_over: bool) -> str | None:
    if take_over or has_ended(run):
        return None
    if is_here(run):
        return f"{run} is at work on it, and compacts it by itself"
    return f"its last run, {run}, was on another machine and may be at work"


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Set by Ctrl-C and SIGTERM: a commit is never cut in two. The second one ends the process at once."""
    stop = Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        sys.stderr.write("stopping\n")
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def to_json(done: Done, *, dry: bool) -> dict[str, Any]:
    """The contract of ``kappa maintain --json`` (docs/json.md)."""
    return {"dry_run": dry, "tables": [_table_json(address, each) for address, each in done.items()]}


def _table_json(address: TableAddress, done: Upkeep | KappaError) -> dict[str, Any]:
    it = done if isinstance(done, Upkeep) else Upkeep(-1)
    error = {"what": done.what, "cause": done.cause, "next_step": done.next_step} if isinstance(done, KappaError) else None
    return {
        "table": address.name,
        "generation": address.generation,
        "version": it.version if error is None else None,
        "compaction": {"replaced": _amount_json(it.merged), "by": _amount_json(it.into), "left": it.left or None},
        "checkpoint": it.checkpoint,
        "removed": _amount_json(it.removed),
        "log": _amount_json(it.log),
        "kept": _amount_json(it.kept),
        "error": error,
    }


def _amount_json(amount: Amount) -> dict[str, Any]:
    return {"files": amount.files, "bytes": amount.nbytes}


def _show(done: Done, *, dry: bool, retention_s: float) -> None:
    tended = {address.name: each for address, each in done.items() if isinstance(each, Upkeep)}
    rows = [_row(name, it) for name, it in tended.items() if it.anything or it.left]
    if rows:
        grid(["table", "compacted", "checkpoint", "removed", "log"], rows)
    for name, it in tended.items():
        if it.left:
            click.echo(f"{name} is not compacted: {it.left}")
    if idle := len(tended) - len(rows):
        click.echo(f"{count(idle)} table{'' if idle == 1 else 's'}: nothing to do")
    kept = [it.kept for it in tended.values() if it.kept.files]
    if kept:
        all_kept = Amount(sum(each.files for each in kept), sum(each.nbytes or 0 for each in kept))
        click.echo(f"kept for versions of the last {retention_s:g} s: {_text(all_kept)}")
    for each in done.values():
        if isinstance(each, KappaError):
            click.echo(f"error: {each}", err=True)
    if dry:
        click.echo("dry run: nothing was changed")


def _row(name: str, it: Upkeep) -> list[str]:
    compacted = "left" if it.left else f"{_text(it.merged)} -> {_text(it.into)}" if it.merged.files else ""
    checkpoint = "" if it.checkpoint is None else f"version {it.checkpoint}"
    return [name, compacted, checkpoint, _text(it.removed), _text(it.log)]


def _text(amount: Amount) -> str:
    if not amount.files:
        return ""
    files = f"{count(amount.files)} file{'' if amount.files == 1 else 's'}"
    return files if amount.nbytes is None else f"{files}, {size(amount.nbytes)}"
