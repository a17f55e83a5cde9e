"""How tables stand, asked beside a run that commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.inventory import read_status
from sinks.log import DeltaLog
from tests.owned import address, claim, commit


def test_a_table_is_opened_at_the_version_that_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at what deltalake lists by itself: beside fast commits it may see one without the one before it, and refuses the gap."""
    owner = claim(address(tmp_path))
    for offset in range(3):
        commit(owner, range(offset, offset + 1))
    monkeypatch.setattr(DeltaLog, "versions", lambda log: [0, 1, 2, 3])
    status = read_status(owner.address, "append", {})
    assert (status.version, status.rows, status.files) == (3, 2, 2)
