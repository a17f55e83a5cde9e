"""Reading a range of the log again, for proof. It shares no code with the source of a run, so that neither hides the other's mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.clients import reader
from connectors.errors import KafkaFailed
from flows.batch import HEADERS, RECORDS

SILENCE_TIMEOUT_S = 60.0
_WAIT_S = 0.2
T = TypeVar("T")


def committed_records(
    config: Mapping[str, str], topic: str, partition: int, start: int, end: int, chunk_records: int = 20_000
) -> Iterator[pa.RecordBatch]:
    """The committed records with offsets in ``[start, end)``, in order, as batches of RECORDS with up to ``chunk_records`` rows.

    Records of aborted and open transactions are not committed. Raises KafkaFailed when Kafka refuses, falls silent, or holds less.
    """
    yield from _read(config, topic, partition, start, end, chunk_records, _batch)


def committed_offsets(
    config: Mapping[str, str], topic: str, partition: int, start: int, end: int, chunk_records: int = 20_000
) -> Iterator[npt.NDArray[np.int64]]:
    """The offsets of the same records alone, for counting. Raises as ``committed_records``."""
    yield from _read(config, topic, partition, start, end, chunk_records, _offsets)


def _read(
    config: Mapping[str, str], topic: str, partition: int, start: int, end: int, chunk_records: int, made: Callable[[list[Message]], T]
) -> Iterator[T]:
    if start >= end:
        return
    limits = {"queued.max.messages.kbytes": 32_768, "fetch.queue.backoff.ms": 10}
    consumer = reader({**limits, **config, "auto.offset.reset": "error"}, "kappa-audit")
    try:
        consumer.assign([TopicPartition(topic, partition, start)])
        yield from _until(consumer, f"{topic}/{partition}", start, end, chunk_records, made)
    except KafkaException as error:
        raise KafkaFailed(f"reading {topic}/{partition} failed", str(error.args[0])) from error
    finally:
        consumer.close()


def _until(consumer: Consumer, name: str, start: int, end: int, chunk_records: int, made: Callable[[list[Message]], T]) -> Iterator[T]:
    silent_s = 0.0
    position = start
    while position < end:
        messages = consumer.consume(min(chunk_records, end - position), _WAIT_S)
        silent_s = 0.0 if messages else silent_s + _WAIT_S
        if silent_s > SILENCE_TIMEOUT_S:
            raise KafkaFailed(f"reading {name} failed", f"nothing came after offset {position} for {SILENCE_TIMEOUT_S:.0f} s")
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                position = int(message.offset()) + 1
                if position <= end:
                    records.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                position = max(position, int(message.offset()))
                if position < end:
                    raise KafkaFailed(f"reading {name} failed", f"it ends at offset {position}, before {end}")
            else:
                raise KafkaFailed(f"reading {name} failed", error.str())
        if records:
            yield made(records)


def _offsets(messages: list[Message]) -> npt.NDArray[np.int64]:
    return np.fromiter((message.offset() for message in messages), np.int64, len(messages))


def _batch(messages: list[Message]) -> pa.RecordBatch:
    rows = [
        (
            message.offset(),
            message.timestamp()[1] * 1000 if message.timestamp()[1] >= 0 else None,
            message.key(),
            message.value(),
            message.headers() or None,
        )
        for message in messages
    ]
    offsets, timestamps, keys, values, headers = zip(*rows, strict=True)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(offsets, pa.int64()),
            pa.array(timestamps, pa.int64()).cast(RECORDS.field("_timestamp").type),
            pa.array(keys, pa.binary()),
            pa.array(values, pa.binary()),
            pa.array([None if pairs is None else [{"name": n, "value": v} for n, v in pairs] for pairs in headers], HEADERS),
        ],
        schema=RECORDS,
    )
