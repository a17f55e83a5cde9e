"""A command at a real pseudo-terminal, typed to and read from as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[=>()][0B]?")


@dataclass
class Terminal:
    """``raw``: everything that was shown, escapes included."""

    process: subprocess.Popen[bytes]
    master: int
    raw: str = ""
    _seen: int = 0

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, text: str, seconds: float = 30) -> str:
        """Wait until ``text`` is shown after what was expected before; returns what was shown until then, without escapes."""

        def shown() -> bool:
            return text in _ESCAPE.sub("", self.raw[self._seen :])

        self.wait(shown, seconds, lambda: f"{text!r} was not shown, but {self.raw[self._seen :]!r}")
        part, self._seen = self.raw[self._seen :], len(self.raw)
        return _ESCAPE.sub("", part)

    def wait(self, reached: Callable[[], bool], seconds: float = 30, why: Callable[[], str] = lambda: "it did not happen") -> None:
        """Read what is shown until ``reached`` is true."""
        give_up = time.monotonic() + seconds
        while not reached():
            assert time.monotonic() < give_up, why()
            if select.select([self.master], [], [], 0.02)[0]:
                try:
                    self.raw += os.read(self.master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed
                    assert reached(), why()

    def is_edited(self) -> bool:
        """Whether a line editor has the terminal: then Ctrl-C is a key, and no signal."""
        return not termios.tcgetattr(self.master)[3] & termios.ISIG

    def cpu_s(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def status(self) -> int:
        """Its exit status, once it has ended."""
        self.wait(lambda: self.process.poll() is not None)
        return self.process.returncode


@contextmanager
def at_terminal(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    """Start a command that has a terminal of its own, so that Ctrl-C typed there reaches it as a signal; it does not outlive the test."""
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (40, 120))
        tty = os.ttyname(slave)
        script = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1'  # what a session's first process opens is its terminal
        settings = {**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
        ignored = signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests in the background may have been told to ignore it
        try:
            process = subprocess.Popen(["sh", "-c", script, "sh", tty, *command], start_new_session=True, env=settings)
        finally:
            signal.signal(signal.SIGINT, ignored)
        try:
            yield Terminal(process, master)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a pipe's other commands, too
            process.wait()
    finally:
        os.close(slave)
        os.close(master)
