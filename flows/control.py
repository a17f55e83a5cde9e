"""What the parts of one run tell each other: stop, a fatal error, a failed table, a table that is live no more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from flows.batch import Failure
from flows.errors import KappaError


class RunControl:
    """Shared by every source and sink partition of a run; all methods may be called from any thread.

    ``stop``: commit what is whole, then end. ``abort``: end now and commit nothing more (fenced, log identity, fatal Kafka errors).
    ``fail``: a table's branch has ended, and those of the tables that derive from it; the others go on, and the run stops when there are
    none. ``end``: another generation of a table is live; everything stops, and the run may begin again with what is live (``reopen``).
    """

    def __init__(self, notify: Callable[[str], None] = lambda line: None) -> None:
        self._lock = threading.Lock()
        self._stopping = threading.Event()  # for whichever reason
        self._for_good = False
        self._swapped = False
        self._fatal: KappaError | None = None
        self._failures: dict[str, Failure] = {}
        self._feeding: dict[str, str | None] = {}
        self.notify = notify

    def feed(self, tables: Mapping[str, str | None]) -> None:
        """Tables that the run feeds, each with the one that it derives from. When the branches of all have failed, the run stops."""
        with self._lock:
            self._feeding.update(tables)

    def stop(self) -> None:
        self._for_good = True
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        return self._stopping.is_set()

    @property
    def stopped(self) -> bool:
        """Whether the run is to end, and not to begin again."""
        return self._for_good

    @property
    def swapped(self) -> bool:
        """Whether other generations went live under the run."""
        return self._swapped

    def wait(self, timeout_s: float) -> bool:
        """Sleep unless the run is stopping. Returns whether it is."""
        return self._stopping.wait(timeout_s)

    def abort(self, error: KappaError) -> None:
        """The first error wins: later ones are its echoes."""
        with self._lock:
            if self._fatal is None:
                self._fatal = error
        self.stop()

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
            if table not in self._feeding:
                return
            del self._feeding[table]
        self.follow(f"{table}: {why}")

    def follow(self, why: str) -> None:
        """Other generations are live: everything stops, and the run may begin again with them."""
        with self._lock:
            self._swapped = True
        self._stopping.set()
        self.notify(why)

    def reopen(self) -> bool:
        """Begin again after ``end``: returns whether the run may. Tables that had failed are tried again."""
        with self._lock:
            if self._for_good or not self._swapped:
                return False
            self._swapped = False
            self._feeding.clear()
            self._failures.clear()
            self._stopping.clear()
            if self._for_good:  # meanwhile
                self._stopping.set()
            return not self._for_good

    def _leave(self, table: str) -> None:
        if table in self._feeding:
            del self._feeding[table]
            if not self._feeding:
                self.stop()

    @property
    def failures(self) -> dict[str, Failure]:
        return dict(self._failures)
