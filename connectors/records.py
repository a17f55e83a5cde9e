"""Kafka messages become Arrow columns. The only code that touches every message as a Python object, so it is kept short."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Message

from flows.batch import HEADERS, RECORDS, Batch


@dataclass(frozen=True, slots=True)
class Run:
    """Records of one partition, in offset order, schema RECORDS."""

    partition: int
    records: pa.RecordBatch

    def batch(self, topic: str, start: int, end: int | None) -> Batch:
        """A batch from ``start``, cut at ``end``: records at or beyond it are dropped and the range ends there."""
        records = self.records
        last = records.column(0)[-1].as_py()
        if end is not None and last >= end:
            records = records.filter(pc.less(records.column(0), end))
            return Batch(topic, self.partition, start, end, records)
        return Batch(topic, self.partition, start, last + 1, records)

    @staticmethod
    def empty(topic: str, partition: int, start: int, end: int) -> Batch:
        """A move of the position alone."""
        return Batch(topic, partition, start, end, _EMPTY)


_EMPTY = pa.RecordBatch.from_arrays([pa.array([], f.type) for f in RECORDS], schema=RECORDS)


def runs(messages: list[Message]) -> tuple[list[Run], list[Message]]:
    """Split messages into one Run a partition (in order of first arrival) and the events (errors, ends of partitions)."""
    events: list[Message] = []
    if any(map(Message.error, messages)):
        events = [message for message in messages if message.error() is not None]
        messages = [message for message in messages if message.error() is None]
        if not messages:
            return [], events
    partitions = np.fromiter(map(Message.partition, messages), np.int32, len(messages))
    edges = [0, *(np.flatnonzero(np.diff(partitions)) + 1).tolist(), len(messages)]
    grouped: dict[int, list[Message]] = {}
    for start, end in pairwise(edges):  # few: messages arrive in stretches of one partition
        grouped.setdefault(int(partitions[start]), []).extend(messages[start:end])
    return [Run(partition, to_records(group)) for partition, group in grouped.items()], events


def to_records(messages: list[Message]) -> pa.RecordBatch:
    """Columns of RECORDS. Null headers stay null; a message without a timestamp has null."""
    count = len(messages)
    milliseconds = np.fromiter([stamp[1] for stamp in map(Message.timestamp, messages)], np.int64, count)
    timestamp = pa.array(milliseconds * 1000, pa.int64(), mask=milliseconds < 0).cast(RECORDS.field("_timestamp").type)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.fromiter(map(Message.offset, messages), np.int64, count)),
            timestamp,
            pa.array(list(map(Message.key, messages)), pa.binary()),
            pa.array(list(map(Message.value, messages)), pa.binary()),
            _headers(messages),
        ],
        schema=RECORDS,
    )


def _headers(messages: list[Message]) -> pa.Array:
    headers = list(map(Message.headers, messages))
    if not any(headers):
        return pa.nulls(len(messages), HEADERS)
    lengths = np.fromiter((len(pairs) if pairs else 0 for pairs in headers), np.int32, len(headers))
    flat = [pair for pairs in headers if pairs for pair in pairs]
    pairs = pa.StructArray.from_arrays(
        [pa.array([name for name, _ in flat], pa.string()), pa.array([value for _, value in flat], pa.binary())],
        fields=list(HEADERS.value_type),
    )
    offsets = np.zeros(len(headers) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pairs, type=HEADERS, mask=pa.array(lengths == 0))
