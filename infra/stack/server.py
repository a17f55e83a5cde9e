"""One server of the local stack: a process in its own session that outlives the command, found again by pid and start time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from infra.stack.errors import ServerFailed

Say = Callable[[str], None]

START_TIME_TOLERANCE_S = 1.0
POLL_INTERVAL_S = 0.05
PORT_ATTEMPTS = 4
PROGRAMS = ("java", "postgres")


@dataclass(slots=True)
class Record:
    """What is remembered of a server between commands, in ``server.json`` of its folder."""

    ports: dict[str, int] = field(default_factory=dict)
    pid: int | None = None
    started_at: float | None = None


class Server(ABC):
    """Starts, finds and stops one server whose data are in ``folder`` (``data/`` beside ``server.json`` and the logs)."""

    name: str
    port_names: tuple[str, ...]
    start_timeout_s: float = 60
    # Each with how long it may take, in seconds, before the next.
    stop_signals: tuple[tuple[signal.Signals, float], ...]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / f"{self.name}.log"
        self.output = folder / f"{self.name}.out"

    @abstractmethod
    def make_data(self, say: Say) -> None:
        """Make ``data/`` whole, atomically, unless it is whole already."""

    @abstractmethod
    def command(self, ports: dict[str, int], say: Say) -> list[str]:
        """Write the server's settings and return its command line, which holds ``marker`` as one argument."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether this very server (not a stranger on its port) answers a real request."""

    @property
    @abstractmethod
    def marker(self) -> str:
        """An argument of the command line that no other process has: a path inside ``folder``."""

    def record(self) -> Record:
        """What was remembered; empty when nothing was, or the file is not readable."""
        try:
            return Record(**json.loads((self.folder / "server.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Record()

    def process(self) -> psutil.Process | None:
        """The running server, None when there is none.

        A remembered pid counts only with its start time, because the system gives pids out again. A server whose ``up`` was
        killed before it could remember it is found by its command line.
        """
        record = self.record()
        if record.pid is not None and record.started_at is not None:
            _reap(record.pid)
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(record.pid)
                if abs(process.create_time() - record.started_at) < START_TIME_TOLERANCE_S and is_alive(process):
                    return process
        if not self.folder.is_dir():  # which is made before a server is started: most commands need not look at every process
            return None
        for process in psutil.process_iter(["cmdline"]):
            if self.marker in (process.info["cmdline"] or ()) and _is_server(process) and is_alive(process):
                return process
        return None

    def start(self, say: Say) -> bool:
        """Start the server unless it runs, and wait until it answers. True when it was started now.

        Raises ServerFailed, with the end of its log, when it dies or does not answer in time; nothing of it runs then.
        """
        process = self.process()
        if process is not None and self.record().ports.keys() != set(self.port_names):
            self.stop()  # its ports were forgotten (server.json is gone): nobody could reach it
        elif process is not None and self._becomes_ready(process):
            self._remember(self.record().ports, process)
            return False
        say(f"starting {self.name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.make_data(say)
        ports = self.record().ports
        for _ in range(PORT_ATTEMPTS):
            ports = self._choose_ports(ports, say)
            process = self._spawn(self.command(ports, say), ports)
            try:
                if self._becomes_ready(process):
                    return True
            except BaseException:  # also Ctrl-C: what does not answer yet is not left behind
                self.stop()
                raise
            if "in use" not in self.tail(60):
                break
            ports = {}  # another program took the port between its choice and the start
        raise self._failed("stopped while starting")

    def stop(self) -> bool:
        """Stop the server, gently first. True when there was one."""
        process = self.process()
        if process is None:
            return False
        for number, patience_s in self.stop_signals:
            self._signal(process, number)
            if wait_until(lambda: not is_alive(process), patience_s):
                self._write(Record(self.record().ports))
                return True
        raise ServerFailed(f"{self.name} (pid {process.pid}) does not stop", cause="it outlived SIGKILL", next_step="kappa status")

    def tail(self, lines: int = 15) -> str:
        """The end of what the server wrote."""
        text = "\n".join(path.read_text(errors="replace") for path in dict.fromkeys((self.output, self.log)) if path.exists())
        return "\n".join(text.splitlines()[-lines:])

    def environment(self) -> dict[str, str]:
        """The server's environment variables."""
        return dict(os.environ)

    def _choose_ports(self, remembered: dict[str, int], say: Say) -> dict[str, int]:
        if remembered.keys() == set(self.port_names) and all(_is_free(port) for port in remembered.values()):
            return remembered
        if remembered:
            say(f"{self.name}: port {', '.join(map(str, remembered.values()))} is taken by another program: choosing another")
        return dict(zip(self.port_names, _free_ports(len(self.port_names)), strict=True))

    def _spawn(self, command: list[str], ports: dict[str, int]) -> psutil.Process:
        # posix_spawn, not subprocess: the child is meant to outlive us, in its own session, where Ctrl-C does not reach it.
        self._write(Record(ports))
        output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        with open(os.devnull) as null:  # noqa: PTH123
            pid = os.posix_spawn(
                command[0],
                command,
                self.environment(),
                setsid=True,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
            )
        os.close(output)
        process = psutil.Process(pid)
        self._remember(ports, process)
        return process

    def _signal(self, process: psutil.Process, number: signal.Signals) -> None:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass
        except psutil.AccessDenied as error:
            raise ServerFailed(
                f"{self.name} (pid {process.pid}) cannot be stopped", cause="another user started it", next_step="kappa down, as that user"
            ) from error

    def _remember(self, ports: dict[str, int], process: psutil.Process) -> None:
        self._write(Record(ports, process.pid, process.create_time()))

    def _write(self, record: Record) -> None:
        temporary = self.folder / "server.json.new"
        temporary.write_text(json.dumps(asdict(record)), encoding="utf-8")
        temporary.replace(self.folder / "server.json")

    def _becomes_ready(self, process: psutil.Process) -> bool:
        """Wait until the server answers. False when it died; raises ServerFailed when it does neither in time."""
        if not wait_until(lambda: not is_alive(process) or self.answers(), self.start_timeout_s):
            raise self._failed(f"did not answer within {self.start_timeout_s:.0f} s")
        return is_alive(process)

    def _failed(self, what: str) -> ServerFailed:
        return ServerFailed(f"{self.name} {what}", cause=f"its last words:\n{self.tail()}", next_step=f"kappa logs {self.name}")


def _is_server(process: psutil.Process) -> bool:
    """Neither a shell nor an editor that happens to name the path: only our two kinds of program."""
    with contextlib.suppress(psutil.Error):
        return process.name().startswith(PROGRAMS)
    return False


def is_alive(process: psutil.Process) -> bool:
    """False for a zombie too: under a container's first process nobody may ever collect it."""
    _reap(process.pid)
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _reap(pid: int) -> None:
    """Collect our own dead child; a process of somebody else is none of our business."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """True when the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_INTERVAL_S)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
