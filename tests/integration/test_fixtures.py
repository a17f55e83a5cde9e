"""The fixtures themselves: the servers answer real requests."""

from __future__ import annotations

import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic


@pytest.mark.slow
def test_kafka_keeps_what_is_produced(kafka, topic_name):
    admin = AdminClient(kafka.config)
    admin.create_topics([NewTopic(topic_name, 1, 1)])[topic_name].result()
    producer = Producer(kafka.config)
    producer.produce(topic_name, b"hello")
    assert producer.flush(10) == 0
    consumer = Consumer({**kafka.config, "group.id": topic_name, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic_name])
    try:
        message = consumer.poll(20)
        assert message is not None
        assert message.value() == b"hello"
    finally:
        consumer.close()


@pytest.mark.slow
def test_postgres_answers(postgres):
    with psycopg.connect(postgres) as connection:
        assert connection.execute("SELECT 1 + 1").fetchone() == (2,)
