"""What keeps records of a topic that Kafka has dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import pyarrow as pa


class Archive(Protocol):
    """Committed records of one topic, by position. ``spans``: partition -> the range ``[start, end)`` of offsets that it holds whole."""

    @property
    def spans(self) -> Mapping[int, tuple[int, int]]: ...

    def records(self, partition: int, start: int, end: int) -> Iterator[pa.RecordBatch]:
        """The records in ``[start, end)``, which lies in the partition's span, in offset order, as batches of RECORDS of bounded size.

        May be called by several threads at once. Raises what reading the storage raises.
        """
