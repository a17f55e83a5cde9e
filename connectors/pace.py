"""Reading no faster than one is told to, to spare a broker that others use."""

from __future__ import annotations

import time
from collections.abc import Callable

PACE_S = 0.2


class Pace:
    """Holds a thread back to a number of records a second (None: never). A record that librdkafka has fetched ahead counts once it is
    taken: its queue is short, and a full one asks the broker for nothing.
    """

    def __init__(self, records_per_s: float | None) -> None:
        self._records_per_s = records_per_s
        self._next = time.monotonic()

    def most(self, records: int) -> int:
        """How many of ``records`` to take at once, so that a slow pace is an even one."""
        return records if self._records_per_s is None else min(records, max(1, round(self._records_per_s * PACE_S)))

    def is_late(self, records: int) -> bool:
        """Whether ``records`` are enough for one turn."""
        return self._records_per_s is not None and records >= max(1, round(self._records_per_s * PACE_S))

    def wait(self, records: int, ended: Callable[[], bool] = lambda: False) -> float:
        """Until it is time for the next ones, after ``records``, or until ``ended``. Returns these seconds."""
        if self._records_per_s is None:
            return 0.0
        now = time.monotonic()
        self._next = max(self._next, now - PACE_S) + records / self._records_per_s
        while (left := self._next - time.monotonic()) > 0 and not ended():
            time.sleep(min(left, PACE_S))
        return max(0.0, self._next - now)
