"""Python's cycle collector, kept out of the way of records."""

from __future__ import annotations

import gc


def calm() -> None:
    """Collect rarely. Kafka messages and the cells of files are tracked by the collector and form no cycles: with the defaults it takes
    half the time of a run and a quarter of the reading of a load (measured).
    """
    gc.freeze()
    gc.set_threshold(500_000, 20, 100)
