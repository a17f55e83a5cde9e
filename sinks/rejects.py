"""What the tables of one generation say of rejected positions: asked for corrections of records that lie before a run's first ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake.exceptions import DeltaError

from flows.stage.corrections import Rejected
from sinks.address import TableAddress
from sinks.errors import TableUnreadable
from sinks.history import newest
from sinks.table import open_table


class StoredRejects:
    """``flows.stage.corrections.Stored`` over Delta tables, each time at their newest versions.

    ``staging`` and ``rejects``: None when there is no such generation; ``begins``: where a generation without a commit begins.
    """

    def __init__(self, topic: str, staging: TableAddress | None, rejects: TableAddress | None, begins: Mapping[int, int]) -> None:
        self._topic = topic
        self._staging = staging
        self._rejects = rejects
        self._begins = begins

    def reach(self, partition: int) -> int:
        """The offset up to which both tables hold the partition. Raises TableUnreadable."""
        return min(self._reach(address, partition) for address in (self._staging, self._rejects))

    def _reach(self, address: TableAddress | None, partition: int) -> int:
        last = newest(address) if address is not None else None
        positions = last.record.positions if last is not None and last.record is not None else {}
        return positions.get((self._topic, partition), self._begins.get(partition, 0))

    def rejected(self, partition: int, offsets: Collection[int]) -> dict[int, Rejected]:
        """Those of ``offsets`` that were rejected. Raises TableUnreadable."""
        rows = _rows(self._rejects, ["_offset", "code", "headers"], partition, "_offset", offsets)
        return {row["_offset"]: Rejected(row["code"], row["headers"]) for row in rows.to_pylist()}

    def corrected(self, partition: int, offsets: Collection[int], before: int) -> dict[int, int]:
        """Those of ``offsets`` for which a row of staging before ``before`` stands, each with that row's offset. Raises TableUnreadable."""
        rows = _rows(self._staging, ["_offset", "_corrects"], partition, "_corrects", offsets)
        return {row["_corrects"]: row["_offset"] for row in rows.to_pylist() if row["_offset"] < before}


def _rows(address: TableAddress | None, columns: list[str], partition: int, name: str, wanted: Collection[int]) -> pa.Table:
    """The rows of a partition whose column ``name`` is one of ``wanted``; files and row groups without one are passed over."""
    if address is None or newest(address) is None or not wanted:
        return pa.table({column: [] for column in columns})
    column = ds.field(name)
    within = (column >= min(wanted)) & (column <= max(wanted)) & column.isin(pa.array(sorted(wanted), pa.int64()))
    try:
        return open_table(address).to_pyarrow_dataset().to_table(columns=columns, filter=(ds.field("_partition") == partition) & within)
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise TableUnreadable(address.name, f"its rows cannot be read: {error}") from error
