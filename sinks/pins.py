"""What vacuum and log cleanup must keep, because a published cut names it."""

from __future__ import annotations

from sinks.address import TableAddress
from sinks.compaction import live_files
from sinks.errors import TableUnreadable
from sinks.log import DeltaLog
from sinks.published import Cuts
from sinks.table import open_table


class Pins:
    """What the published cuts that have not expired name of one table generation."""

    def __init__(self, address: TableAddress, keep_s: float) -> None:
        """``keep_s``: how long a cut that is not pinned is kept."""
        self._keep_s = keep_s
        self._address = address
        self._cuts = Cuts(address.root)
        self._files: dict[int, frozenset[str]] = {}

    def expire(self) -> None:
        """Delete the cuts that have expired, before what they name."""
        self._cuts.expire(self._keep_s)

    def versions(self) -> list[int]:
        """Ascending."""
        named = (cut.tables.get(self._address.name) for cut in self._cuts.standing(self._keep_s))
        return sorted({at.version for at in named if at is not None and at.generation == self._address.generation})

    def files(self) -> frozenset[str]:
        """The paths of the data files that these versions name, as the Delta log writes them. Raises TableUnreadable."""
        versions = self.versions()
        self._files = {version: self._files.get(version) or self._named(version) for version in versions}
        return frozenset().union(*self._files.values())

    def keep_log_from(self, own_version: int) -> int:
        """The log is kept from here on: ``own_version``, or the checkpoint that the least of these versions is read from."""
        versions = self.versions()
        if not versions:
            return own_version
        below = [version for version in DeltaLog(self._address.folder).checkpoints() if version <= versions[0]]
        return min(own_version, max(below, default=0))

    def _named(self, version: int) -> frozenset[str]:
        try:
            return frozenset(file.path for file in live_files(open_table(self._address, version)))
        except TableUnreadable:  # of a cut whose version was lost otherwise: nothing can be kept for it
            return frozenset()
