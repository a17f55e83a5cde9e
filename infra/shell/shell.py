"""One session of ``kappa shell``: takes statements and commands, and writes answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import click

from flows.errors import KappaError
from infra.cli.answer import write_answer
from infra.cli.query import form_of, save
from sinks import Warehouse

INTERRUPT_EVERY_S = 0.1


class Quit(Exception):
    """The user wants to leave."""


class FileUnusable(KappaError):
    """A file that a command names cannot be read or written."""

    def __init__(self, file: Path, doing: str, cause: str) -> None:
        super().__init__(f"{file} cannot be {doing}", cause=cause, next_step="name another file")


@dataclass(slots=True)
class Shell:
    """What the commands change. ``form`` and ``rows``: how answers are shown; ``hold``: keep the cut; ``once``: the file of the next
    answer, ``output``: of all of them; ``failed``: how many statements and commands have failed.
    """

    warehouse: Warehouse
    form: str = "table"
    rows: int = 40
    timing: bool = False
    hold: bool = False
    once: Path | None = None
    output: BinaryIO | None = None
    failed: int = 0
    reading: list[Path] = field(default_factory=list)  # the files of .read that are being read, outermost first
    _warned: set[str] = field(default_factory=set)

    def run(self, statements: Iterable[str]) -> None:
        """Take one statement or command after the other. What fails is said and counted. Raises Quit, KeyboardInterrupt."""
        from infra.shell.commands import take

        for statement in statements:
            try:
                if statement.startswith("."):
                    take(self, statement)
                else:
                    self.ask(statement)
            except KappaError as error:
                self.failed += 1
                click.echo(f"error: {error}", err=True)

    def ask(self, statement: str) -> None:
        """Answer one SQL statement, at the newest cut unless it is held. Ctrl-C ends the query.

        Raises what ``Warehouse.sql`` and ``write_answer`` raise, and KeyboardInterrupt once the query has ended.
        """
        started = time.monotonic()
        try:
            interruptible(lambda: self._answer(statement), self.warehouse.interrupt)
        finally:
            if self.timing:
                click.echo(f"time: {time.monotonic() - started:.3f} s", err=True)

    def refresh(self) -> None:
        """Take the newest cut. Raises what reading the catalogue raises."""
        before = self.warehouse.snapshot.cut
        self.warehouse.refresh()
        if self.warehouse.snapshot.cut != before:
            self._warned.clear()

    def _answer(self, statement: str) -> None:
        if not self.hold:
            self.refresh()
        answer = self.warehouse.sql(statement)
        for warning in self.warehouse.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                click.echo(f"warning: {warning}", err=True)
        if self.once is not None:
            file, self.once = self.once, None
            form = form_of(file)
            save(answer, self.form if form == "table" else form, file, self.rows)
            return
        sys.stdout.flush()
        out = self.output or sys.stdout.buffer
        try:
            write_answer(answer, self.form, out, self.rows)
            out.flush()
        except OSError as error:
            if self.output is None:
                raise
            raise FileUnusable(Path(self.output.name), "written", error.strerror or str(error)) from None

    def close(self) -> None:
        """End what ``.output`` has begun."""
        if self.output is not None:
            self.output.close()
            self.output = None


def interruptible(work: Callable[[], None], interrupt: Callable[[], None]) -> None:
    """Do ``work`` in a thread, so that Ctrl-C is seen at once: then ``interrupt`` is called until the work has ended.

    DuckDB looks for signals in some of its calls only: while Arrow reads from it, Ctrl-C would wait for the query's end (measured).
    Raises what ``work`` raises, and KeyboardInterrupt when it was interrupted.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            future.result()
        except KeyboardInterrupt:
            while not future.done():
                with suppress(KeyboardInterrupt, Exception):
                    interrupt()
                    future.exception(INTERRUPT_EVERY_S)
            raise
