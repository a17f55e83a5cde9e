"""``kappa load``: files become events, exactly once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.errors import KappaError
from flows.project import ProjectInvalid, load_project

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    from connectors.load import Loaded, Progress

SAY_EVERY_S = 10.0


@click.command()
@click.argument("source")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--again", is_flag=True, help="Send files again that are loaded already.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def load(folder: Path, source: str, paths: tuple[str, ...], again: bool, as_json: bool) -> int:
    """Send files to a source's topic, exactly once: CSV, NDJSON, JSON arrays, text, Parquet and spreadsheets; files,
    folders, globs; .gz and .zst.

    A file is known by its content: loaded already, it is skipped. Kill a load at any moment and run it again: it goes on after the last
    row sent. A row that cannot be read becomes an event too, and ends in the source's rejects with its file and line.

    \b
    Examples:
      kappa load flights flights.csv
      kappa load flights 2013/ 'archive/*.csv.gz'
      kappa load flights s3://landing/2013/       AWS_ENDPOINT_URL and credentials from the environment
      kappa load flights flights.csv --again      all of its rows a second time
    """
    from connectors.files.paths import find_files
    from connectors.load import Loader, Watch
    from infra.addresses import resolve
    from infra.collector import calm
    from infra.metadata import Mirror

    project = load_project(folder)
    if source not in project.sources and project.findings:
        raise ProjectInvalid(project.findings)
    definition = project.source(source)
    results: list[Loaded] = []
    failures: list[KappaError] = []
    files = find_files(paths, failures.append)
    addresses = resolve(project)
    calm()
    display = _Bar() if sys.stderr.isatty() else _Lines()
    with display, Mirror.of(project, addresses, display.say) as mirror:
        for unreadable in failures:
            display.say(f"error: {unreadable}")
        loader = Loader(addresses.kafka, definition, Watch(display.say, display.show, mirror.load))
        for file in files:
            started_at = time.monotonic()
            try:
                done = loader.load(file, again=again)
            except KappaError as error:
                failures.append(error)
                display.say(f"error: {error}")
                continue
            finally:
                display.clear()
            results.append(done)
            if not as_json:
                click.echo(_line(done, time.monotonic() - started_at))
    if as_json:
        click.echo(json.dumps({"source": source, "files": [_json(done) for done in results], "errors": [str(error) for error in failures]}))
    return 1 if failures and results else max((error.exit_status for error in failures), default=0)


def _line(done: Loaded, took_s: float) -> str:
    if done.already:
        return f"{done.path}: already loaded on {done.state.at} ({done.rows:,} rows, load {done.state.load}); --again sends it again"
    broken = f", {done.broken:,} of them unreadable: kappa rejects shows them" if done.broken else ""
    return (
        f"{done.path}: {done.sent:,} rows sent in {took_s:.1f} s ({done.sent / max(took_s, 0.001):,.0f}/s), load {done.state.load}{broken}"
    )


def _json(done: Loaded) -> dict[str, Any]:
    state = done.state
    return {
        "path": str(done.path),
        "uri": state.uri,
        "load": state.load,
        "rows": state.rows,
        "sent": done.sent,
        "broken": done.broken,
        "already_loaded": done.already,
        "at": state.at,
    }


class _Lines:
    """Without a terminal: a line now and then, on standard error."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __enter__(self) -> None:
        """Nothing to open."""

    def __exit__(self, *_: object) -> None:
        self.clear()

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def show(self, progress: Progress) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            self.say(f"{progress.path}: {progress.rows:,} rows, {progress.bytes / max(progress.bytes_total, 1):.0%}")

    def clear(self) -> None:
        """Nothing stays on the screen but lines."""


class _Bar(_Lines):
    """On a terminal: a bar while a file is being sent, gone when it is."""

    def __init__(self) -> None:
        from rich.console import Console

        super().__init__()
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = _bar(self._console)
            self._bar.start()
            self._task = self._bar.add_task(progress.path.name, total=progress.bytes_total, rows=0)
        assert self._task is not None
        self._bar.update(self._task, completed=progress.bytes, rows=progress.rows)

    def clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    rows = TextColumn("{task.fields[rows]:,} rows")
    columns = (TextColumn("{task.description}"), BarColumn(), rows, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Bar(*columns, console=console, transient=True)
