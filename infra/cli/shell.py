"""``kappa shell``: ask one question after the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from sinks import Warehouse


@click.command(short_help="Ask one question after the other.")
@click.option("--format", "form", type=click.Choice(("table", "json", "csv")), default="table", show_default=True, help="As .mode.")
@click.option("--rows", default=40, show_default=True, type=click.IntRange(1), help="How many rows a table shows.")
@click.pass_obj
def shell(folder: Path, form: str, rows: int) -> int:
    """Ask the tables with SQL, statement after statement, each ended by a semicolon.

    What may be asked is what kappa query takes. Each statement is answered at the newest cut of all tables; .hold on keeps one. Tab
    completes the names of tables and columns; .help lists the commands. Ctrl-C ends a query, not the shell; Ctrl-D or .quit leaves.

    Without a terminal it reads statements from standard input, shows no prompt, goes on after an error, and ends with exit status 1 when
    a statement has failed.

    \b
    Examples:
      kappa shell
      kappa shell < report.sql
      echo ".tables" | kappa shell
    """
    from infra.shell.shell import Quit, Shell
    from infra.shell.statements import read

    with Warehouse.open(folder) as warehouse:
        session = Shell(warehouse, form, rows)
        try:
            if sys.stdin.isatty() and sys.stdout.isatty():
                from infra.shell.terminal import converse

                click.echo(f"{folder.resolve().name}: {len(warehouse.tables())} tables and views; .help lists the commands, Ctrl-D leaves")
                converse(session)
                return 0
            session.run(read(sys.stdin))
        except Quit:
            pass
        except BrokenPipeError:  # the reader has seen enough: what Python still holds must not fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            session.close()
        return 1 if session.failed else 0
