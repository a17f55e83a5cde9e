"""The shell at a terminal: a line editor with history, completion and colours; what Ctrl-C and Ctrl-D mean."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.lexers import PygmentsLexer

from infra.shell.completion import Names
from infra.shell.shell import Quit, Shell
from infra.shell.statements import read, split

PROMPT, MORE = "kappa> ", "   ...> "


class Lines(FileHistory):
    """A history file that is never in the way: what cannot be written is known until the shell ends."""

    def store_string(self, string: str) -> None:
        """Append an entry to the file."""
        with suppress(OSError):
            super().store_string(string)


def history_file(environment: Mapping[str, str]) -> Path:
    """``$XDG_STATE_HOME/kappa/shell_history``, by default in ``~/.local/state``."""
    state = environment.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "kappa" / "shell_history"


def open_history(file: Path) -> History:
    """The history in ``file``, which only its user may read: SQL may hold anything. In memory when the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        file.chmod(0o600)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        click.echo(f"the history is not kept: {error}", err=True)
        return InMemoryHistory()
    return Lines(str(file))


def converse(shell: Shell) -> None:
    """Ask for statements until Ctrl-D or ``.quit``."""
    session = _session(shell)
    while True:
        try:
            shell.run(read([session.prompt()]))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
        except (EOFError, Quit):
            return


def _session(shell: Shell) -> PromptSession[str]:
    return PromptSession(
        PROMPT,
        history=open_history(history_file(os.environ)),
        completer=Names(shell),
        complete_while_typing=False,
        lexer=PygmentsLexer.from_filename("statement.sql"),  # without colours when NO_COLOR is set
        multiline=Condition(lambda: bool(split(get_app().current_buffer.text)[1])),  # Enter goes on until the statement has its ;
        prompt_continuation=MORE,
    )
