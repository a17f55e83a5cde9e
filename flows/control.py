"""What the parts of one run tell each other: stop, a fatal error, a failed table."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from flows.batch import Failure
from flows.errors import KappaError


class RunControl:
    """Shared by every source and sink partition of a run; all methods may be called from any thread.

    ``stop``: commit what is whole, then end. ``abort``: end now and commit nothing more (fenced, log identity, fatal Kafka errors).
    ``fail``: a table's branch has ended, and those of the tables that derive from it. ``end``: one table's branch has ended. The others go
    on, and the run stops when there are none.
    """

    def __init__(self, notify: Callable[[str], None] = lambda line: None) -> None:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._fatal: KappaError | None = None
        self._failures: dict[str, Failure] = {}
        self._feeding: dict[str, str | None] = {}
        self.notify = notify

    def feed(self, tables: Mapping[str, str | None]) -> None:
        """Tables that the run feeds, each with the one that it derives from. When the branches of all have ended, the run stops."""
        with self._lock:
            self._feeding.update(tables)

    def stop(self) -> None:
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Sleep unless the run is stopping. Returns whether it is."""
        return self._stopping.wait(timeout_s)

    def abort(self, error: KappaError) -> None:
        """The first error wins: later ones are its echoes."""
        with self._lock:
            if self._fatal is None:
                self._fatal = error
        self._stopping.set()

    @property
    def fatal(self) -> KappaError | None:
        return self._fatal

    def fail(self, failure: Failure) -> bool:
        """Record a failed table, and that those which derive from it fail too. Returns False when it had failed already."""
        with self._lock:
            if failure.table in self._failures:
                return False
            failed = [failure]
            for each in failed:  # it grows
                self._failures[each.table] = each
                self._leave(each.table)
                failed += [each.inherited_by(table) for table, parent in self._feeding.items() if parent == each.table]
        for each in failed:
            self.notify(f"{each.table} failed: {each.cause}; next: {each.next_step}")
        return True

    def end(self, table: str, why: str) -> None:
        """A table's branch ends without a failure: its generation is live no more."""
        with self._lock:
            self._leave(table)
        self.notify(f"{table}: {why}")

    def _leave(self, table: str) -> None:
        if table in self._feeding:
            del self._feeding[table]
            if not self._feeding:
                self._stopping.set()

    @property
    def failures(self) -> dict[str, Failure]:
        return dict(self._failures)
