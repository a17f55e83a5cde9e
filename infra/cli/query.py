"""``kappa query``: ask the tables with SQL."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import click

from flows.errors import KappaError, UsageError
from infra.cli.answer import FORMATS, write_answer
from sinks import Result, Warehouse

_SUFFIXES = {
    ".json": "json",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".csv": "csv",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".parquet": "parquet",
    ".txt": "table",
}


class AnswerNotWritten(KappaError):
    """The file of ``-o`` cannot be written."""


@click.command(short_help="Ask the tables with SQL.")
@click.argument("sql")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the suffix of FILE, else table.")
@click.option(
    "-o", "--output", "file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write here, whole or not at all."
)
@click.option("--rows", default=40, show_default=True, type=click.IntRange(1), help="How many rows a table shows.")
@click.option("--cut", metavar="CUT", help="As of a published cut: its number or name, or a time (the newest at or before it).")
@click.pass_obj
def query(folder: Path, sql: str, form: str | None, file: Path | None, rows: int, cut: str | None) -> None:
    """Ask with one SQL statement (DuckDB's dialect) that only reads; SQL "-" reads it from standard input.

    The schemas are raw, staging, core and analytics; every table is read at one cut, so that the tables of a source agree. What is
    left out of the cut is named on standard error. Big results stream.

    \b
    Examples:
      kappa query "SELECT carrier, count(*) FROM core.flight GROUP BY ALL"
      kappa query "FROM analytics.flight_overview" -o overview.parquet
      kappa query "SELECT code, count(*) FROM staging.flights__rejected GROUP BY ALL" --format json
      kappa query --cut 2026-11-22T18:00:00Z "SELECT count(*) FROM core.flight"
      echo "SHOW ALL TABLES" | kappa query -
    """
    if sql == "-":
        sql = sys.stdin.read()
    form = form or ("table" if file is None else form_of(file))
    if file is None and form in ("arrow", "parquet") and sys.stdout.isatty():
        raise UsageError(f"{form} is not for a terminal", next_step=f"name a file: -o answer.{form}")
    with Warehouse.open(folder) as newest, newest.at(cut) if cut is not None else nullcontext(newest) as warehouse:
        answer = warehouse.sql(sql)
        for warning in warehouse.warnings:
            click.echo(f"warning: {warning}", err=True)
        if file is None:
            _print(answer, form, rows)
        else:
            save(answer, form, file, rows)


def _print(answer: Result, form: str, rows: int) -> None:
    out: BinaryIO = sys.stdout.buffer
    try:
        write_answer(answer, form, out, rows)
        out.flush()
    except BrokenPipeError:  # the reader has seen enough, such as head: what Python still holds must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def form_of(file: Path) -> str:
    """The format that a file's suffix names; ``table`` for any other."""
    return _SUFFIXES.get(file.suffix.lower(), "table")


def save(answer: Result, form: str, file: Path, rows: int = 40) -> None:
    """Beside the file first, then renamed: a query that fails on the way leaves no half answer. Raises AnswerNotWritten, QueryFailed."""
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as out:
            write_answer(answer, form, out, rows)
        part.replace(file)
    except OSError as error:
        raise AnswerNotWritten(f"{file} cannot be written", cause=str(error), next_step="name another file") from None
    finally:
        part.unlink(missing_ok=True)
