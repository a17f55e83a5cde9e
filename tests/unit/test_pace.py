"""A pace is held on average, evenly, and never when there is none."""

from __future__ import annotations

import time

import pytest

from connectors.pace import PACE_S, Pace


def test_no_pace_never_waits() -> None:
    pace = Pace(None)
    assert pace.most(2000) == 2000
    assert not pace.is_late(10**9)
    assert pace.wait(10**9) == 0.0


def test_turns_are_short_however_slow_it_is() -> None:
    assert Pace(10_000).most(20_000) == 10_000 * PACE_S
    assert Pace(0.1).most(20_000) == 1
    assert Pace(100).is_late(20)
    assert not Pace(100).is_late(19)


def test_each_turn_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    pace = Pace(1000)
    for _ in range(50):
        pace.wait(200)
    assert clock[0] == pytest.approx(110.0)
    clock[0] += 60  # a pause is not made up for by a burst
    pace.wait(200)
    pace.wait(200)
    assert clock[0] == pytest.approx(170.0 + 0.2)
    assert pace.wait(10**9, ended=lambda: True) > 10**5
    assert clock[0] == pytest.approx(170.0 + 0.2), "whoever ends does not wait"
