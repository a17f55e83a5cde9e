"""The mirror of loads, against a real Kafka: what a load reports is what kappa.loads holds."""

from __future__ import annotations

import uuid

import psycopg
import pytest
from confluent_kafka import Producer
from pydantic import SecretStr

from connectors.load import Loader, Watch
from connectors.loads import TOPIC, Identity
from flows.contract import Source
from infra.metadata import Mirror, rebuild
from infra.metadata.history import WarehouseHistory

pytestmark = pytest.mark.slow


@pytest.fixture
def dsn(postgres):
    """An empty database."""
    name = f"metadata_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return psycopg.conninfo.make_conninfo(postgres, dbname=name)


def loads_of(dsn, source):
    with psycopg.connect(dsn) as connection:
        query = "SELECT uri, length(sha256), rows, bytes, done, replaced_by FROM kappa.loads WHERE source = %s ORDER BY uri, updated_at"
        return connection.execute(query, [source]).fetchall()


def test_rebuild_from_kappa_loads_holds_what_the_loads_reported(kafka, dsn, topic_name, tmp_path):
    source = Source(name=f"s_{uuid.uuid4().hex[:8]}", topic=topic_name, format="csv", columns={"n": "integer"})
    with Mirror(SecretStr(dsn), warehouse="test") as mirror:
        loader = Loader(kafka.config, source, Watch(committed=mirror.load))
        for name in ("a", "b"):
            file = tmp_path / f"{name}.csv"
            file.write_text("n\n1\n2\n", encoding="utf-8")
            loader.load(file, again=name == "b")  # the same content: b replaces a in the compacted topic
    reported = loads_of(dsn, source.name)
    assert [(row[1:5]) for row in reported] == [(64, 2, 6, True)] * 2
    with psycopg.connect(dsn) as connection:
        connection.execute("DROP SCHEMA kappa CASCADE")
    history = WarehouseHistory(str(tmp_path / "root"), lambda: kafka.config)
    open_transaction = Producer({**kafka.config, "transactional.id": topic_name, "transaction.timeout.ms": 20_000})
    open_transaction.init_transactions(20)
    open_transaction.begin_transaction()
    hidden = Identity(source.name, "0" * 64, {})
    open_transaction.produce(TOPIC, b'{"load":"x"}', hidden.key(), partition=0)
    assert open_transaction.flush(10) == 0
    try:
        rebuild(SecretStr(dsn), "test", history)  # waits for nobody's transaction
    finally:
        open_transaction.abort_transaction(20)
    assert loads_of(dsn, source.name) == [(reported[0][0], None, None, None, None, None), reported[1]]


def test_there_are_no_loads_before_the_first(kafka, tmp_path, topic_name, monkeypatch):
    monkeypatch.setattr("infra.metadata.history.TOPIC", topic_name)
    assert list(WarehouseHistory(str(tmp_path), lambda: kafka.config).loads()) == []
