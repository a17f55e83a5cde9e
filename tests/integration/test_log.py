"""Reading a range of a real topic again: transactions, headers, nulls."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.errors import KafkaFailed
from connectors.extent import extent
from connectors.log import committed_records
from flows.batch import RECORDS

pytestmark = pytest.mark.slow


@pytest.fixture
def topic(kafka, topic_name: str) -> Iterator[str]:
    admin = AdminClient(kafka.config)
    admin.create_topics([NewTopic(topic_name, 2, 1)])[topic_name].result(30)
    yield topic_name
    admin.delete_topics([topic_name])[topic_name].result(30)


def test_committed_records_are_exactly_those_of_committed_transactions(kafka, topic: str) -> None:
    seed = random.Random(7)
    producer = Producer({**kafka.config, "transactional.id": topic, "linger.ms": 0})
    producer.init_transactions(30)
    expected: list[bytes] = []
    for n in range(12):
        producer.begin_transaction()
        values = [f"{n}-{i}".encode() for i in range(seed.randint(1, 40))]
        for value in values:
            producer.produce(topic, value, key=None, partition=0, headers=[("h", value), ("h", None)])
        producer.flush(30)
        if seed.random() < 0.4:
            producer.abort_transaction(30)
        else:
            producer.commit_transaction(30)
            expected += values
    end = extent(kafka.config, topic, [0, 1]).stable[0]
    assert end > len(expected) + 12  # each transaction ends with a marker, and some were aborted
    batches = list(committed_records(kafka.config, topic, 0, 0, end, chunk_records=25))
    records = pa.Table.from_batches(batches)
    assert records.schema == RECORDS
    assert records["value"].to_pylist() == expected
    assert records["headers"][0].as_py() == [{"name": "h", "value": expected[0]}, {"name": "h", "value": None}]
    assert max(batch.num_rows for batch in batches) <= 25
    offsets = records["_offset"].to_pylist()
    for start, stop in [(offsets[3], offsets[9]), (offsets[5] + 1, end), (end - 1, end), (4, 4)]:
        part = [o for b in committed_records(kafka.config, topic, 0, start, stop) for o in b.column(0).to_pylist()]
        assert part == [offset for offset in offsets if start <= offset < stop]
    with pytest.raises(KafkaFailed, match="ends at offset"):
        list(committed_records(kafka.config, topic, 0, 0, end + 1))


def test_keys_values_and_timestamps_keep_their_nulls(kafka, topic: str) -> None:
    producer = Producer(kafka.config)
    producer.produce(topic, None, key=b"k", partition=1, timestamp=1_700_000_000_123)
    producer.produce(topic, b"", key=None, partition=1, timestamp=1)
    assert producer.flush(30) == 0
    (batch,) = committed_records(kafka.config, topic, 1, 0, 2)
    assert batch.column("key").to_pylist() == [b"k", None]
    assert batch.column("value").to_pylist() == [None, b""]
    assert batch.column("_timestamp").cast(pa.int64()).to_pylist() == [1_700_000_000_123_000, 1000]
    assert batch.column("headers").to_pylist() == [None, None]
