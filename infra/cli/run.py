"""``kappa run``: turn events into Delta tables."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from flows.control import RunControl
from flows.project import load_project

if TYPE_CHECKING:
    from infra.run.session import Session

SHOW_EVERY_S = 5.0
M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BYTES = 1024 * 1024
Say = Callable[[dict[str, object], str], None]


@click.command()
@click.argument("tables", nargs=-1, metavar="[TABLE|SOURCE]...")
@click.option("--until-caught-up", is_flag=True, help="Stop when everything that is in the topics now has been committed.")
@click.option(
    "--rebuild",
    is_flag=True,
    help="Build new generations of the tables, and of all that derives from them, beside the live ones; swap; go on.",
)
@click.option("--accept-lost", is_flag=True, help="With --rebuild: build from what the topic still holds.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line: progress, and the result at the end.")
@click.pass_obj
def run(folder: Path, tables: tuple[str, ...], until_caught_up: bool, rebuild: bool, accept_lost: bool, as_json: bool) -> None:
    """Turn events into Delta tables, exactly once, until stopped.

    Without names every table is fed. Run it twice and the newer run takes over. Ctrl-C commits what is whole and stops; kill it in any
    other way and the next run goes on where the tables stand.

    \b
    Examples:
      kappa run                               all tables, until Ctrl-C
      kappa run --until-caught-up             what is there now, then stop
      kappa run core.flight                   one table
      kappa run --rebuild core.flight --until-caught-up
    """
    from infra.addresses import resolve
    from infra.collector import calm
    from infra.metadata import Mirror
    from infra.run.session import Request, Session

    if rebuild and not tables:
        raise click.UsageError("--rebuild needs the tables to build anew: kappa run --rebuild TABLE")
    if accept_lost and not rebuild:
        raise click.UsageError("--accept-lost goes with --rebuild")
    say = _sayer(as_json=as_json)
    control = RunControl(lambda line: say({"event": "notice", "text": line}, line))
    _stop_on_signals(control)
    project = load_project(folder)
    calm()
    _return_large_memory()
    started = time.monotonic()
    with Mirror.of(project, resolve(project), control.notify) as mirror:
        session = Session(project, control, mirror)
        ended = threading.Event()
        shower = threading.Thread(target=_show, args=(session, ended, say), daemon=True)
        shower.start()
        try:
            session.run(Request(tables, until_caught_up, rebuild, accept_lost))
        finally:
            ended.set()
            shower.join()
    records = sum(feed.progress.records for feed in session.feeds)
    seconds = time.monotonic() - started
    failures = [
        {"table": f.table, "cause": f.cause, "positions": list(f.positions), "next": f.next_step} for f in control.failures.values()
    ]
    say(
        {"event": "end", "records": records, "seconds": round(seconds, 3), "failed": failures},
        f"{records:,} record{'' if records == 1 else 's'} in {seconds:.1f} s",
    )
    if control.fatal is not None:
        raise control.fatal
    if failures:
        click.echo(f"{len(failures)} table{'s' if len(failures) > 1 else ''} failed; see kappa tables", err=True)
        sys.exit(1)


def _return_large_memory() -> None:
    """glibc keeps freed blocks of up to 32 MB for itself: with records of 10 MB a run held 250 MB more than it used (measured)."""
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def _sayer(*, as_json: bool) -> Say:
    lock = threading.Lock()

    def say(values: dict[str, object], line: str) -> None:
        with lock:
            if as_json:
                click.echo(json.dumps(values))
            else:
                click.echo(line, err=True)

    return say


def _show(session: Session, ended: threading.Event, say: Say) -> None:
    """A line a source every few seconds while records flow."""
    seen: dict[str, tuple[int, float]] = {}
    while not ended.wait(SHOW_EVERY_S):
        for feed in list(session.feeds):
            progress, now = feed.progress, time.monotonic()
            before, at = seen.get(feed.source.name, (0, now - SHOW_EVERY_S))
            seen[feed.source.name] = (progress.records, now)
            rate = max(0, progress.records - before) / (now - at)
            lag = sum(max(0, end - progress.positions.get(p, 0)) for p, end in feed.extent.stable.items())
            if rate:
                values = {
                    "event": "progress",
                    "source": feed.source.name,
                    "records": progress.records,
                    "records_per_s": round(rate),
                    "lag": lag,
                }
                say(values, f"{feed.source.name}: {progress.records:,} records, {rate:,.0f}/s, {lag:,} to go when the run began")


def _stop_on_signals(control: RunControl) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if control.stopping:
            sys.stderr.write("killed before the last commit; the next run goes on where the tables stand\n")
            sys.stderr.flush()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        sys.stderr.write("stopping: committing what is whole\n")
        control.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
