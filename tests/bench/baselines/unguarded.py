"""``kappa run`` with the promise taken out: a bench-only owner without claim, transactions or ledger, and no check of the log's identity.

``python -m tests.bench.baselines.unguarded -C DIR run --until-caught-up --json``. Never use it for data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import pyarrow as pa

import infra.run.session
import sinks.sink
from flows.batch import Slice
from flows.ledger import LogIdentity, RunIdentity, Span
from infra.cli import main
from sinks.address import TableAddress
from sinks.files import WrittenFile
from sinks.log import DeltaLog, commit_info, encode, now_ms
from sinks.owner import CommitInfo, Owner
from sinks.record import CommitRecord, Partition
from sinks.table import open_or_create


class UnguardedOwner(Owner):
    """Adds files as the next version, and nothing else."""

    @classmethod
    def claim(
        cls,
        address: TableAddress,
        schema: pa.Schema,
        partition_by: Sequence[str],
        run: RunIdentity,
        log: LogIdentity,
        verify_log: Callable[[], None] = lambda: None,
        *,
        retention_s: float = 3600,
        durable: bool = False,
    ) -> UnguardedOwner:
        """Open the table; nobody is fenced."""
        table = open_or_create(address, schema, partition_by, retention_s)
        return cls(address, DeltaLog(address.folder, durable), table.version(), CommitRecord("", 0, run, log), 0)

    def commit(self, files: Sequence[WrittenFile], spans: Mapping[Partition, Span], warned: Mapping[str, int] | None = None) -> CommitInfo:
        """The files, without positions."""
        adds = [file.add(now_ms(), data_change=True) for file in files]
        self._version += 1
        assert self._log.put(self._version, encode([commit_info("WRITE", {}), *adds]))
        return CommitInfo(
            self._version, datetime.now(UTC), self._record, sum(f.rows for f in files), len(files), sum(f.nbytes for f in files)
        )


def uncounted(part: Slice) -> Span:
    """No ledger: only where the slice ends."""
    return Span(part.start, part.end, 0, 0, 0, 0)


if __name__ == "__main__":
    infra.run.session.Owner = UnguardedOwner
    infra.run.session.Session._still_live = lambda self, fed: None
    sinks.sink.count = uncounted
    main()
