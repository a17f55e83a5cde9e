"""The local stack of one state folder: start, stop, look, delete; safe against itself run twice at once."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from infra.stack.errors import FolderUnsuitable, StackBusy
from infra.stack.kafka import KafkaServer
from infra.stack.postgres import PostgresServer
from infra.stack.server import Say, Server

BUSY_TIMEOUT_S = 180


def quiet(_: str) -> None:
    """Says nothing."""


class LocalStack:
    """The servers under ``state_dir`` (made when needed)."""

    def __init__(self, state_dir: Path, *, kafka_heap_mb: int = 512) -> None:
        self.state_dir = state_dir.resolve()
        self.kafka = KafkaServer(self.state_dir / "kafka", kafka_heap_mb)
        self.postgres = PostgresServer(self.state_dir / "postgres")

    @property
    def servers(self) -> tuple[Server, ...]:
        """In the order of starting; they are stopped in the reverse."""
        return (self.kafka, self.postgres)

    def up(self, say: Say = quiet, *, kafka: bool = True, postgres: bool = True) -> list[Server]:
        """Start what does not run yet and wait until it answers. Returns what was started now.

        Raises a KappaError of infra.stack.errors. What was started before the error stays.
        """
        wanted: list[Server] = [*([self.kafka] if kafka else []), *([self.postgres] if postgres else [])]
        if not wanted:
            return []
        if kafka and "," in str(self.state_dir):
            raise FolderUnsuitable(
                f"Kafka cannot keep its data in {self.state_dir}",
                cause="Kafka reads a comma in log.dirs as the end of one folder and the beginning of the next",
                next_step="rename the folder, or set [local] state_dir in warehouse.toml to one without a comma; then: kappa up",
            )
        with self._alone(say):
            return [server for server in wanted if server.start(say)]

    def down(self, say: Say = quiet) -> list[Server]:
        """Stop what ``up`` started. Returns what was stopped now."""
        if not self.state_dir.exists():
            return []
        with self._alone(say):
            return self._stop()

    def reset(self, say: Say = quiet) -> None:
        """Stop, then delete the servers' data, logs, passwords and ports."""
        if not self.state_dir.exists():
            return
        with self._alone(say):
            self._stop()
            for server in self.servers:
                shutil.rmtree(server.folder, ignore_errors=True)

    def _stop(self) -> list[Server]:
        return [server for server in reversed(self.servers) if server.stop()]

    @contextlib.contextmanager
    def _alone(self, say: Say) -> Iterator[None]:
        """One up, down or reset at a time; the system drops the lock of a process that dies."""
        self.state_dir.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        with (self.state_dir / "lock").open("w") as lock:
            told = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        say("another kappa is starting or stopping this stack: waiting for it")
                        told = True
                    if time.monotonic() > deadline:
                        raise StackBusy(
                            f"the stack in {self.state_dir} is busy for {BUSY_TIMEOUT_S} s",
                            cause="another kappa up, down or reset holds it (is it stopped?)",
                            next_step="end that process, then: kappa up",
                        ) from None
                    time.sleep(0.1)
            yield
