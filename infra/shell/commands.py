"""The commands that begin with a dot."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from flows.errors import KappaError, UsageError
from infra.cli.answer import FORMATS
from infra.cli.display import grid
from infra.shell.shell import FileUnusable, Quit, Shell
from infra.shell.statements import read

ON_SCREEN = tuple(form for form in FORMATS if form not in ("arrow", "parquet"))
_SWITCH = {"on": True, "off": False}


class CommandRefused(UsageError):
    """A command that begins with a dot does not exist, or was called wrongly."""


@dataclass(frozen=True, slots=True)
class Command:
    """``arguments``: as --help writes them; ``most``: how many it takes."""

    arguments: str
    what: str
    do: Callable[[Shell, list[str]], None]
    least: int = 0
    most: int = 1


def take(shell: Shell, line: str) -> None:
    """Do what a line such as ``.mode csv`` says. Raises CommandRefused, FileUnusable, Quit, and what reading a table raises."""
    try:
        name, *arguments = shlex.split(line)
    except ValueError as error:
        raise CommandRefused(f"{line} cannot be read", cause=str(error), next_step=".help") from None
    command = COMMANDS.get(name)
    if command is None:
        near = difflib.get_close_matches(name, COMMANDS, n=3)
        cause = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(COMMANDS)}"
        raise CommandRefused(f"no command {name}", cause=cause, next_step=".help")
    if not command.least <= len(arguments) <= command.most:
        raise CommandRefused(f"wrong arguments: {line}", cause=command.what, next_step=f"{name} {command.arguments}".strip())
    command.do(shell, arguments)


def _help(shell: Shell, arguments: list[str]) -> None:
    click.echo("SQL ends with ; and may have many lines. Each statement is answered at the newest cut of all tables.\n")
    grid(["command", "what it does"], [[f"{name} {command.arguments}".strip(), command.what] for name, command in COMMANDS.items()])
    click.echo("\nTab completes, Up and Ctrl-R find what was typed before, Ctrl-C ends a query or drops the line, Ctrl-D leaves.")


def _tables(shell: Shell, arguments: list[str]) -> None:
    if not shell.hold:
        shell.refresh()
    snapshot = shell.warehouse.snapshot
    kinds = {name: entry.kind for name, entry in snapshot.tables.items()}
    kinds |= dict.fromkeys(snapshot.views, "view") | dict.fromkeys(snapshot.lost, "unreadable")
    rows = [[name, kind] for name, kind in sorted(kinds.items()) if all(part in name for part in arguments)]
    if rows:
        grid(["table", "kind"], rows)
    else:
        click.echo(f"no table has {arguments[0]} in its name" if arguments else "no tables yet; next: kappa run --until-caught-up")


def _schema(shell: Shell, arguments: list[str]) -> None:
    if not shell.hold:
        shell.refresh()
    for number, name in enumerate(arguments or shell.warehouse.tables()):
        try:
            relation = shell.warehouse.sql(f"FROM {name}").relation
        except KappaError as error:
            if arguments:
                raise
            click.echo(f"error: {error}", err=True)
            continue
        click.echo("\n" * (number > 0) + name)
        grid(["  column", "type"], [[f"  {column}", str(kind)] for column, kind in zip(relation.columns, relation.types, strict=True)])


def _mode(shell: Shell, arguments: list[str]) -> None:
    if not arguments:
        click.echo(shell.form)
    elif arguments[0] in ON_SCREEN:
        shell.form = arguments[0]
    elif arguments[0] in FORMATS:
        form = arguments[0]
        raise CommandRefused(f"{form} is for a file", cause=f"a {form} file holds one answer", next_step=f".once answer.{form}")
    else:
        raise CommandRefused(f"no mode {arguments[0]}", cause=f"there are: {', '.join(ON_SCREEN)}", next_step=".mode table")


def _rows(shell: Shell, arguments: list[str]) -> None:
    if not arguments:
        click.echo(shell.rows)
    elif arguments[0].isdecimal() and int(arguments[0]) > 0:
        shell.rows = int(arguments[0])
    else:
        raise CommandRefused(f"{arguments[0]} is no number of rows", next_step=".rows 40")


def _switch(name: str) -> Callable[[Shell, list[str]], None]:
    def switch(shell: Shell, arguments: list[str]) -> None:
        if not arguments:
            click.echo("on" if getattr(shell, name) else "off")
        elif arguments[0] in _SWITCH:
            setattr(shell, name, _SWITCH[arguments[0]])
        else:
            raise CommandRefused(f".{name} is on or off, not {arguments[0]}", next_step=f".{name} on")

    return switch


def _read(shell: Shell, arguments: list[str]) -> None:
    file = Path(arguments[0]).expanduser()
    if file.resolve() in shell.reading:
        raise CommandRefused(
            f"{file} reads itself", cause=" -> ".join(str(each) for each in shell.reading), next_step="take that .read out"
        )
    shell.reading.append(file.resolve())
    try:
        with file.open(encoding="utf-8") as lines:
            shell.run(_reading(file, read(lines)))
    except OSError as error:
        raise FileUnusable(file, "read", error.strerror or str(error)) from None
    finally:
        shell.reading.pop()


def _reading(file: Path, statements: Iterator[str]) -> Iterator[str]:
    try:
        yield from statements
    except UnicodeDecodeError as error:
        raise FileUnusable(file, "read", str(error)) from None


def _once(shell: Shell, arguments: list[str]) -> None:
    shell.once = Path(arguments[0]).expanduser()


def _output(shell: Shell, arguments: list[str]) -> None:
    shell.close()
    if not arguments:
        return
    file = Path(arguments[0]).expanduser()
    try:
        shell.output = file.open("wb")
    except OSError as error:
        raise FileUnusable(file, "written", error.strerror or str(error)) from None


def _quit(shell: Shell, arguments: list[str]) -> None:
    raise Quit


COMMANDS: dict[str, Command] = {
    ".tables": Command("[WORD]", "tables and views, those with WORD in their name", _tables),
    ".schema": Command("[TABLE]", "columns and types of a table, or of all", _schema),
    ".mode": Command(f"[{'|'.join(ON_SCREEN)}]", "how answers are written", _mode),
    ".rows": Command("[N]", "how many rows a table shows", _rows),
    ".timing": Command("[on|off]", "say how long each statement took", _switch("timing")),
    ".hold": Command("[on|off]", "keep the cut, so that several statements see the same rows", _switch("hold")),
    ".once": Command("FILE", "write the next answer to FILE, whole or not at all; .parquet, .csv, .json, .arrow", _once, least=1),
    ".output": Command("[FILE]", "write all answers to FILE from now on; without FILE here again", _output),
    ".read": Command("FILE", "take statements and commands from FILE", _read, least=1),
    ".help": Command("", "this", _help, most=0),
    ".quit": Command("", "leave", _quit, most=0),
    ".exit": Command("", "leave", _quit, most=0),
}
