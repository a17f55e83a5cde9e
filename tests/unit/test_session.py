"""Small decisions of a run that need no Kafka."""

from __future__ import annotations

import os
import socket

import psutil
import pytest

from flows.ledger import RunIdentity
from infra.run.identity import has_ended


def test_a_process_that_ends_while_it_is_looked_at_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(pid: int) -> psutil.Process:
        raise psutil.NoSuchProcess(pid)

    run = RunIdentity(socket.gethostname(), os.getpid(), "2999-01-01T00:00:00.000000Z")
    assert not has_ended(run)
    monkeypatch.setattr(psutil, "Process", gone)
    assert has_ended(run)
