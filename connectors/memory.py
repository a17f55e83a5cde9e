"""Records that are at hand instead of in Kafka: one partition, for the unit tests of a warehouse."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from bytewax.inputs import DynamicSource, StatelessSourcePartition

from connectors.kafka import Progress
from flows.batch import Batch


class RecordsSource(DynamicSource[Batch]):
    """Gives the records of partition 0 of ``topic``, of schema RECORDS, as one batch that asks the tables to commit, and ends."""

    def __init__(self, topic: str, records: pa.RecordBatch) -> None:
        self.progress = Progress()
        self._batch = Batch(topic, 0, 0, records.num_rows, records, mark=True)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSourcePartition[Batch]:
        """The first worker gets the batch."""
        return _Lane([self._batch] if worker_index == 0 else [])


class _Lane(StatelessSourcePartition[Batch]):
    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def next_batch(self) -> Iterable[Batch]:
        if not self._batches:
            raise StopIteration
        return [self._batches.pop()]
