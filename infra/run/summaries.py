"""The summaries of one source in a run: each follows the commits of its upstream, in the upstream's thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flows.batch import Failure
from flows.control import RunControl
from flows.errors import KappaError
from infra.run.selection import Fed
from sinks.follow import Follower
from sinks.maintenance import Maintenance
from sinks.owner import CommitInfo
from sinks.record import CommitRecord
from sinks.sink import write_failure


@dataclass(slots=True)
class Followed:
    """A summary that a run keeps. ``still_live`` returns why its generation is live no more, or None."""

    fed: Fed
    follower: Follower
    maintenance: Maintenance
    control: RunControl
    still_live: Callable[[Fed], str | None]
    committed: Callable[[Fed, CommitInfo], None]
    over: bool = False

    @property
    def upstream(self) -> str:
        return self.follower.summary.upstream

    def follow(self, version: int, record: CommitRecord) -> None:
        """Bring it to a version of its upstream. Never raises: what goes wrong is the summary's failure, or ends the run."""
        if self._is_over():
            return
        try:
            info = self.follower.follow(version, record)
            if info is not None:
                self.committed(self.fed, info)
                self.maintenance.after_commit(self.fed.owner)
        except Exception as error:  # noqa: BLE001 - errors are data: its upstream and the others go on
            self._stop_for(error)

    def upstream_failed(self) -> None:
        """Its upstream, and so it, too, has failed: say so in its table."""
        self._is_over()

    def finish(self) -> None:
        """Give maintenance its end."""
        if self._is_over():
            return
        try:
            self.maintenance.finish(self.fed.owner)
        except Exception as error:  # noqa: BLE001 - errors are data
            self._stop_for(error)

    def end(self, why: str) -> None:
        """Its upstream has ended."""
        if not self.over:
            self.over = True
            self.control.end(self.fed.target.name, why)

    def _is_over(self) -> bool:
        name = self.fed.target.name
        if self.over or self.control.fatal is not None:
            return True
        failure = self.control.failures.get(name)
        if failure is not None:
            self.over = True
            write_failure(self.fed.owner, failure, self.control)
        elif (why := self.still_live(self.fed)) is not None:
            self.end(why)
        return self.over

    def _stop_for(self, error: Exception) -> None:
        if isinstance(error, KappaError) and error.stops_run:
            self.control.abort(error)
            return
        failure = Failure.of(self.fed.target.name, error)
        self.over = True
        self.control.fail(failure)
        write_failure(self.fed.owner, failure, self.control)
