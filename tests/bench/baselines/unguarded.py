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
from sinks.files import OldFile, WrittenFile
from sinks.log import Action, DeltaLog, commit_info, encode, now_ms
from sinks.owner import CommitInfo, Owner, Rewrite
from sinks.record import CommitRecord, Partition
from sinks.table import open_or_create


class UnguardedOwner(Owner):
    """Puts files into the table as its next version, and nothing else."""

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

    def commit(
        self,
        files: Sequence[WrittenFile],
        spans: Mapping[Partition, Span],
        warned: Mapping[str, int] | None = None,
        replaced: Sequence[OldFile] = (),
        basis: int | None = None,
        tombstones: int | None = None,
        upstream: int | None = None,
    ) -> CommitInfo:
        """The files, without positions."""
        assert not replaced, "only append tables are fed without guarantees"
        return self._plain("WRITE", [file.add(now_ms(), data_change=True) for file in files], files)

    def rewrite(self, work: Rewrite) -> CommitInfo:
        """The same files as the real owner's."""
        files = [file for file, _ in work.files]
        adds = [file.add(order_ms, data_change=False) for file, order_ms in work.files]
        return self._plain("OPTIMIZE", [*adds, *(old.remove(now_ms(), data_change=False) for old in work.replaced)], files)

    def _plain(self, operation: str, actions: Sequence[Action], files: Sequence[WrittenFile]) -> CommitInfo:
        self._version = self._own_version = self._version + 1
        assert self._log.put(self._version, encode([commit_info(operation, now_ms(), {}), *actions]))
        rows, nbytes = sum(file.rows for file in files), sum(file.nbytes for file in files)
        return CommitInfo(self._version, datetime.now(UTC), self._record, rows, len(files), nbytes)


def uncounted(part: Slice) -> Span:
    """No ledger: where the slice ends and how many rows it has, of which the sink keeps account."""
    return Span(part.start, part.end, 0, part.rows.num_rows, 0, 0)


def take_the_promise_out() -> None:
    """Replace the owner, the count and the look at the catalogue in this process."""
    _replace(infra.run.session, "Owner", UnguardedOwner)
    _replace(infra.run.session.Publisher, "still_live", lambda self, fed: None)
    _replace(sinks.sink, "count", uncounted)


def _replace(where: object, name: str, by: object) -> None:
    assert hasattr(where, name), f"{where} has no {name} any more: R4 would compare the guarded with itself"
    setattr(where, name, by)


if __name__ == "__main__":
    take_the_promise_out()
    main()
