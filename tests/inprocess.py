"""``kappa`` in the test's own process: quicker than a subprocess, and open to faults that a test puts into it."""

from __future__ import annotations

import gc
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from click.testing import CliRunner

from flows.control import RunControl
from flows.errors import KappaError
from flows.project import load_project
from infra.addresses import resolve
from infra.cli import cli
from infra.metadata import Mirror
from infra.run.session import Request, Session
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.owner import Owner


def kappa(folder: Path, *arguments: str, status: int = 0) -> str:
    """A command; returns what it printed and the error that it ended with. Fails when its exit status is another."""
    often = gc.get_threshold()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        done = CliRunner().invoke(cli, ["-C", str(folder), *arguments], standalone_mode=False)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        gc.set_threshold(*often)  # the commands collect rarely, which is right for a process of their own
        gc.unfreeze()
    if isinstance(done.exception, KappaError):
        assert done.exception.exit_status == status, f"{done.output}{done.exception}"
        return f"{done.output}{done.exception}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    got = done.exit_code if done.exception is not None else done.return_value or 0
    assert got == status, f"kappa {arguments}: {got}\n{done.output}"
    return done.output


def audit(folder: Path, *arguments: str) -> dict[str, list[str]]:
    """Table -> what the audit finds of it; nothing when all is well."""
    status = 0
    try:
        text = kappa(folder, "audit", "--json", *arguments)
    except AssertionError:
        status, text = 1, kappa(folder, "audit", "--json", *arguments, status=1)
    report: dict[str, Any] = json.loads(text)
    assert report["ok"] == (status == 0)
    return {table["table"]: [finding["what"] for finding in table["findings"]] for table in report["tables"] if table["findings"]}


def committed(folder: Path, table: str = "raw.events") -> int:
    """How many records the live generation of a table has read, by its newest ledger; 0 when there is none."""
    storage = load_project(folder).storage
    try:
        entry = Catalog(storage).read().tables[table]
    except (KeyError, KappaError):
        return 0
    return sum(span.read for span in Owner.read_totals(TableAddress(storage, table, entry.generation)).values())


class Running:
    """A run in a thread, or other ``work`` of a session, stopped at the end of the ``with``. ``notices``: what it said."""

    def __init__(self, folder: Path, *names: str, work: Callable[[Session], None] | None = None) -> None:
        self.notices: list[str] = []
        self.control = RunControl(self.notices.append)
        self._session: Session | None = None
        self._project = load_project(folder)
        self._work = work or (lambda session: session.run(Request(names)))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.control.stop()
        self.join()

    def _run(self) -> None:
        with Mirror.of(self._project, resolve(self._project), self.control.notify) as mirror:
            self._session = Session(self._project, self.control, mirror)
            self._work(self._session)

    def is_reading(self) -> bool:
        """Whether it has claimed its tables and reads on from where they stand."""
        feeds = self._session.feeds if self._session else []
        return bool(feeds) and all(feed.progress.positions for feed in feeds)

    def join(self, seconds: float = 60) -> None:
        """Wait until it has ended by itself."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the run did not end"

    @property
    def fatal(self) -> KappaError:
        """The error that stopped it."""
        error = self.control.fatal
        assert error is not None, self.notices
        return error


def wait_until(reached: Callable[[], object], seconds: float = 60) -> None:
    """Until ``reached`` is true; fails the test when it takes too long."""
    give_up = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)
