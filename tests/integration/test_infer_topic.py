"""``kappa source infer TOPIC``: a contract from committed events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from flows.plan import analyse
from flows.project import load_project
from infra.cli import cli
from infra.infer.sample import NothingToInfer
from tests.conftest import Kafka


def create(kafka: Kafka, topic: str) -> None:
    admin = AdminClient(kafka.config)  # held, or the request dies with it
    for future in admin.create_topics([NewTopic(topic, 2, 1)]).values():
        future.result()


@pytest.mark.slow
def test_a_topic_of_json_events(tmp_path: Path, kafka: Kafka, topic_name: str) -> None:
    create(kafka, topic_name)
    producer = Producer(kafka.config)
    for number in range(20):
        producer.produce(topic_name, json.dumps({"id": number, "price": number / 4, "seen": "2024-01-01T10:00:00Z"}))
    producer.flush()
    (tmp_path / "warehouse.toml").write_text(f'name = "test"\n[kafka]\nbootstrap_servers = "{kafka.bootstrap}"\n')
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), "source", "infer", topic_name, "--name", "events"], standalone_mode=False)
    assert result.exception is None, result.exception
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/events.toml").write_text(result.output)
    project = load_project(tmp_path)
    assert not analyse(project).findings
    source = project.sources["events"]
    assert (source.topic, source.format, source.key, source.event_time) == (topic_name, "json", ("id",), "seen")
    assert {name: column.text for name, column in source.columns.items()} == {"id": "bigint", "price": "double", "seen": "timestamptz"}


@pytest.mark.slow
def test_an_empty_topic(tmp_path: Path, kafka: Kafka, topic_name: str) -> None:
    create(kafka, topic_name)
    (tmp_path / "warehouse.toml").write_text(f'name = "test"\n[kafka]\nbootstrap_servers = "{kafka.bootstrap}"\n')
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), "source", "infer", topic_name], standalone_mode=False)
    assert isinstance(result.exception, NothingToInfer)
