"""What a run publishes beside its commits: cuts, at most one in ``run.cut_interval_s``, and only when something has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from flows.errors import KappaError
from flows.settings import Settings
from sinks.published import Cuts


class CutPublisher:
    """Publishes cuts, and lets old ones go. What fails is said, and changes nothing for the tables."""

    def __init__(self, root: str, settings: Settings, by: str, notify: Callable[[str], None]) -> None:
        self._cuts = Cuts(root)
        self._settings = settings
        self._by = by
        self._notify = notify
        self._due = time.monotonic() + settings.run.cut_interval_s

    def publish_when_due(self) -> None:
        """Called every few seconds. Another run may have published in the meantime: then it is not due."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + self._settings.run.cut_interval_s
        last = self._cuts.newest()
        if last is None or (datetime.now(UTC) - last.at).total_seconds() >= self._settings.run.cut_interval_s / 2:
            self.publish()

    def publish(self) -> None:
        """Now, unless nothing has changed."""
        try:
            self._cuts.publish(self._by)
            self._cuts.expire(self._settings.maintenance.cuts_kept_s)
        except KappaError as error:
            self._notify(f"no cut is published: {error.what}: {error.cause}")
