"""What the commands that feed tables share: signals, progress, the mirror, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import click

from flows.control import RunControl
from flows.project import Project

if TYPE_CHECKING:
    from infra.run.session import Session

SHOW_EVERY_S = 5.0
RATE = "Read at most N records a second from Kafka, to spare the broker."
M_MMAP_THRESHOLD = -3  # of malloc.h
LARGE_BYTES = 1024 * 1024
Say = Callable[[dict[str, object], str], None]


def sayer(*, as_json: bool) -> Say:
    """How a command tells what happens: a JSON object a line on standard output, or a line for people on standard error."""
    lock = threading.Lock()

    def say(values: dict[str, object], line: str) -> None:
        with lock:
            if as_json:
                click.echo(json.dumps(values))
            else:
                click.echo(line, err=True)

    return say


def feed(project: Project, say: Say, work: Callable[[Session], None]) -> None:
    """Let ``work`` drive a session of the warehouse, with progress, until it ends or a signal stops it. Exits with 1 when a table failed.

    Raises what stops a run.
    """
    from infra.addresses import resolve
    from infra.collector import calm
    from infra.metadata import Mirror
    from infra.run.session import Session

    control = RunControl(lambda line: say({"event": "notice", "text": line}, line))
    _stop_on_signals(control)
    calm()
    _return_large_memory()
    started = time.monotonic()
    with Mirror.of(project, resolve(project), control.notify) as mirror:
        session = Session(project, control, mirror)
        ended = threading.Event()
        shower = threading.Thread(target=_show, args=(session, ended, say), daemon=True)
        shower.start()
        try:
            work(session)
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
                left_s = lag / rate
                values = {
                    "event": "progress",
                    "source": feed.source.name,
                    "records": progress.records,
                    "records_per_s": round(rate),
                    "lag": lag,
                    "seconds_left": round(left_s, 1),
                }
                text = f"{feed.source.name}: {progress.records:,} records, {rate:,.0f}/s"
                say(values, f"{text}, {lag:,} to go, about {left_s:,.0f} s" if lag else text)


def _stop_on_signals(control: RunControl) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        if control.stopped:
            sys.stderr.write("killed before the last commit; the next run goes on where the tables stand\n")
            sys.stderr.flush()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        sys.stderr.write("stopping: committing what is whole\n")
        control.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
