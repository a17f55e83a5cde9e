"""Which process commits: this one, and whether another is still at work."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

import psutil

from flows.ledger import RunIdentity


def this_process() -> RunIdentity:
    """How this process signs its commits."""
    return RunIdentity(socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"))


def is_here(run: RunIdentity) -> bool:
    """Whether a run is, or was, a process of this machine."""
    return run.host == socket.gethostname()


def has_ended(run: RunIdentity) -> bool:
    """Whether a run of this machine surely runs no more."""
    if not is_here(run):
        return False
    started_at = datetime.fromisoformat(run.started_at).timestamp()
    try:
        process = psutil.Process(run.pid)
        return process.create_time() > started_at or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
