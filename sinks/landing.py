"""From pending rows to a commit: again when another program has rewritten the table's files meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flows.faults import reach
from flows.ledger import Span
from sinks.errors import CommitFailed, RewriteStale
from sinks.files import Change, Pending
from sinks.owner import CommitInfo, Owner
from sinks.record import Partition, UpstreamVersion

ATTEMPTS = 5  # each lost to a rewrite of another program


def land(
    pending: Pending,
    owner: Owner,
    spans: Mapping[Partition, Span],
    warned: Mapping[str, int] | None = None,
    *,
    upstream: UpstreamVersion | None = None,
    check: Callable[[Change], None] = lambda change: None,
) -> CommitInfo:
    """Commit pending rows, which ``check`` may refuse. Raises what writing them and ``Owner.commit`` raises."""
    for attempt in range(1, ATTEMPTS + 1):
        change = pending.change()
        check(change)
        reach("files-written")
        try:
            info = owner.commit(change.files, spans, warned, change.replaced, change.basis, change.tombstones, upstream)
        except RewriteStale:
            if attempt == ATTEMPTS:
                raise
            continue
        except CommitFailed:  # it may have landed, and then it names the files
            pending.abandon()
            raise
        pending.landed(info.version)
        return info
    raise AssertionError("the last attempt returns or raises")
