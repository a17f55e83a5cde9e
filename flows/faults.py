"""Named places in the code at which a test kills the process, as a machine that loses power would."""

from __future__ import annotations

import os
import signal

_reached: dict[str, int] = {}


def reach(point: str) -> None:
    """Say that ``point`` has been reached. ``KAPPA_FAULT="point:n"`` kills the own process with SIGKILL at the n-th time, n from 1."""
    fault = os.environ.get("KAPPA_FAULT")
    if fault is None:
        return
    name, _, nth = fault.rpartition(":")
    if name != point:
        return
    _reached[point] = _reached.get(point, 0) + 1
    if _reached[point] == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)
