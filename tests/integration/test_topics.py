"""Topics on a real broker."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from connectors.topics import Admin, KafkaUnreachable, TopicMissing, TopicRefused, ensure_topic, log_identity, partitions
from flows.contract import Column, Source

pytestmark = pytest.mark.slow


def source(topic: str, **more) -> Source:
    return Source(name="things", topic=topic, format="json", columns={"id": Column.parse("bigint")}, **more)


def test_a_missing_topic_is_made_once_with_the_sources_settings(kafka, topic_name):
    made = source(topic_name, partitions=3, topic_config={"segment.bytes": "1048576"})
    assert ensure_topic(kafka.config, made) is True
    assert ensure_topic(kafka.config, made) is False
    assert partitions(kafka.config, topic_name) == [0, 1, 2]
    settings = Admin(kafka.config)
    assert settings.max_message_bytes(topic_name) == 2 * made.max_record_bytes + 65_536
    assert topic_setting(kafka, topic_name, "retention.ms") == "-1"
    assert topic_setting(kafka, topic_name, "segment.bytes") == "1048576"


def test_the_source_decides_about_retention(kafka, topic_name):
    ensure_topic(kafka.config, source(topic_name, topic_config={"retention.ms": "86400000"}))
    assert topic_setting(kafka, topic_name, "retention.ms") == "86400000"


def test_a_topic_that_is_made_again_has_another_identity(kafka, topic_name):
    ensure_topic(kafka.config, source(topic_name))
    first = log_identity(kafka.config, [topic_name])
    assert first == log_identity(kafka.config, [topic_name])
    admin = AdminClient(kafka.config)
    admin.delete_topics([topic_name])[topic_name].result()
    while topic_name in admin.list_topics(timeout=10).topics:
        pass
    ensure_topic(kafka.config, source(topic_name))
    second = log_identity(kafka.config, [topic_name])
    assert second.cluster == first.cluster
    assert second.topics[topic_name] != first.topics[topic_name]


def test_errors_name_the_topic_and_the_cause(kafka, topic_name):
    with pytest.raises(TopicMissing) as missing:
        partitions(kafka.config, topic_name)
    assert topic_name in str(missing.value)
    with pytest.raises(TopicRefused) as refused:
        ensure_topic(kafka.config, source(topic_name, topic_config={"retention.ms": "soon"}))
    assert "retention.ms" in str(refused.value)


def test_no_broker_is_an_error_that_names_the_address(monkeypatch):
    monkeypatch.setattr("connectors.topics.ANSWER_TIMEOUT_S", 1.0)
    with pytest.raises(KafkaUnreachable, match=r"127\.0\.0\.1:1 ") as unreachable:
        log_identity({"bootstrap.servers": "127.0.0.1:1", "sasl.password": "hush"}, ["t"])
    assert "hush" not in str(unreachable.value)


def topic_setting(kafka, topic: str, name: str) -> str:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient(kafka.config)  # a client that is collected ends its requests
    return admin.describe_configs([resource])[resource].result()[name].value
