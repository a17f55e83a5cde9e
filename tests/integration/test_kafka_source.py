"""The Kafka source against a real broker: ranges join, nothing is skipped, and a changed log is an error."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from connectors.errors import LogCut, LogLost, TopicGone
from connectors.guard import LogGuard
from connectors.kafka import KafkaSource, Limits
from flows.batch import Batch
from flows.control import RunControl

pytestmark = pytest.mark.slow


def make(kafka, topic: str, partitions: int = 1) -> AdminClient:
    admin = AdminClient(kafka.config)
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result()
    return admin


def produce(kafka, topic: str, values: list[bytes | None], partition: int = 0, **more) -> None:
    producer = Producer(kafka.config)
    for value in values:
        producer.produce(topic, value, partition=partition, **more)
    assert producer.flush(30) == 0


def read(source: KafkaSource, seconds: float = 20, until: int | None = None) -> list[Batch]:
    """Everything that one lane gives until it ends, or has given ``until`` records."""
    lane = source.build("log", 0, 1)
    batches: list[Batch] = []
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            got = list(lane.next_batch())
        except StopIteration:
            break
        batches += got
        if until is not None and sum(b.records.num_rows for b in batches) >= until:
            source.control.stop()
        if not got:
            time.sleep(0.002)
    else:
        pytest.fail(f"the lane did not end: {batches}")
    lane.close()
    return batches


def test_ranges_join_and_every_record_is_given(kafka, topic_name):
    make(kafka, topic_name, 3)
    for partition in range(3):
        produce(kafka, topic_name, [b"%d" % i for i in range(1000)], partition, key=b"k", headers=[("a", b"1"), ("b", None)])
    starts, ends = dict.fromkeys(range(3), 0), dict.fromkeys(range(3), 900)
    batches = read(KafkaSource(kafka.config, topic_name, starts, ends, Limits(batch_rows=70), RunControl()))
    for partition in range(3):
        mine = [b for b in batches if b.partition == partition]
        assert mine[0].start == 0
        assert all(before.end == after.start for before, after in pairwise(mine))
        assert mine[-1].end == 900
        assert [v for b in mine for v in b.records.column("value").to_pylist()] == [b"%d" % i for i in range(900)]
    first = batches[0].records
    assert first.column("key")[0].as_py() == b"k"
    assert first.column("headers")[0].as_py() == [{"name": "a", "value": b"1"}, {"name": "b", "value": None}]
    assert batches[-1].mark


def test_null_values_keys_and_headers_stay_null(kafka, topic_name):
    make(kafka, topic_name)
    produce(kafka, topic_name, [None, b"", b"x"])
    batches = read(KafkaSource(kafka.config, topic_name, {0: 0}, {0: 3}, Limits(), RunControl()))
    records = [row for b in batches for row in b.records.to_pylist()]
    assert [r["value"] for r in records] == [None, b"", b"x"]
    assert [r["key"] for r in records] == [None] * 3
    assert [r["headers"] for r in records] == [None] * 3


def test_a_transaction_moves_the_position_beyond_its_marker(kafka, topic_name):
    make(kafka, topic_name)
    producer = Producer({**kafka.config, "transactional.id": topic_name})
    producer.init_transactions()
    for value, commit in ((b"a", True), (b"b", False), (b"c", True)):
        producer.begin_transaction()
        producer.produce(topic_name, value)
        producer.flush()
        producer.commit_transaction() if commit else producer.abort_transaction()
    batches = read(KafkaSource(kafka.config, topic_name, {0: 0}, {0: 6}, Limits(), RunControl()))
    assert [v for b in batches for v in b.records.column("value").to_pylist()] == [b"a", b"c"]
    assert max(b.end for b in batches) == 6


def test_an_open_transaction_is_not_read(kafka, topic_name):
    make(kafka, topic_name)
    produce(kafka, topic_name, [b"before"])
    producer = Producer({**kafka.config, "transactional.id": topic_name})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(topic_name, b"open")
    producer.flush()
    produce(kafka, topic_name, [b"behind"])
    source = KafkaSource(kafka.config, topic_name, {0: 0}, None, Limits(commit_interval_s=0.2), RunControl())
    batches = read(source, until=1)
    assert [v for b in batches for v in b.records.column("value").to_pylist()] == [b"before"]
    producer.abort_transaction()
    end = max(b.end for b in batches)
    more = read(KafkaSource(kafka.config, topic_name, {0: end}, None, Limits(), RunControl()), until=1)
    assert [v for b in more for v in b.records.column("value").to_pylist()] == [b"behind"]


def test_marks_come_by_rows_and_by_time(kafka, topic_name):
    make(kafka, topic_name)
    produce(kafka, topic_name, [b"x"] * 100)
    by_rows = read(KafkaSource(kafka.config, topic_name, {0: 0}, {0: 100}, Limits(commit_rows=10, batch_rows=10), RunControl()))
    assert sum(b.mark for b in by_rows) >= 10
    by_time = KafkaSource(kafka.config, topic_name, {0: 0}, None, Limits(commit_interval_s=0.1), RunControl())
    lane = by_time.build("log", 0, 1)
    give_up = time.monotonic() + 20
    while not any(b.mark for b in lane.next_batch()):
        assert time.monotonic() < give_up
        time.sleep(0.002)
    by_time.control.stop()
    lane.close()


def test_offsets_lost_to_retention_are_named(kafka, topic_name):
    admin = make(kafka, topic_name)
    produce(kafka, topic_name, [b"x"] * 10)
    for future in admin.delete_records([TopicPartition(topic_name, 0, 7)]).values():
        future.result()
    source = KafkaSource(kafka.config, topic_name, {0: 3}, None, Limits(), RunControl())
    assert not any(b.mark for b in read(source))
    assert isinstance(source.control.fatal, LogLost)
    assert f"{topic_name}/0/3" in str(source.control.fatal)
    assert "offsets 3 to 6" in str(source.control.fatal)


def test_a_position_beyond_the_end_is_named(kafka, topic_name):
    make(kafka, topic_name)
    produce(kafka, topic_name, [b"x"] * 10)
    source = KafkaSource(kafka.config, topic_name, {0: 30}, None, Limits(), RunControl())
    read(source)
    assert isinstance(source.control.fatal, LogCut)


def test_a_topic_deleted_while_it_is_idle_stops_the_run(kafka, topic_name):
    admin = make(kafka, topic_name)
    produce(kafka, topic_name, [b"x"])
    control = RunControl()
    guard = LogGuard(kafka.config, topic_name, control)
    source = KafkaSource(kafka.config, topic_name, {0: 0}, None, Limits(), control, guard)
    lane = source.build("log", 0, 1)
    admin.delete_topics([topic_name])[topic_name].result()
    give_up = time.monotonic() + 60
    while control.fatal is None and time.monotonic() < give_up:
        list(lane.next_batch())
        time.sleep(0.01)
    assert isinstance(control.fatal, TopicGone)
    assert topic_name in str(control.fatal)
    lane.close()


def test_partitions_are_shared_out_over_lanes(kafka, topic_name):
    admin = make(kafka, topic_name, 3)
    admin.create_partitions([NewPartitions(topic_name, 5)])[topic_name].result()
    for partition in range(5):
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            try:
                produce(kafka, topic_name, [b"%d" % partition], partition)
                break
            except Exception:
                time.sleep(0.1)
    source = KafkaSource(kafka.config, topic_name, dict.fromkeys(range(5), 0), dict.fromkeys(range(5), 1), Limits(), RunControl())
    lanes = [source.build("log", index, 2) for index in range(2)]
    seen: list[set[int]] = []
    for lane in lanes:
        mine: set[int] = set()
        while True:
            try:
                mine |= {b.partition for b in lane.next_batch() if b.records.num_rows}
            except StopIteration:
                break
            time.sleep(0.002)
        lane.close()
        seen.append(mine)
    assert seen == [{0, 2, 4}, {1, 3}]
