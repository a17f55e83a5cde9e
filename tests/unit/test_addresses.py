"""An existing cluster wins over the local stack, and secrets never show."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from connectors.clients import KafkaSettingsWrong
from flows.project import load_project
from infra import addresses
from infra.addresses import ServerUnreachable, StackDown, mask_dsn, resolve

SECRET = "hunter2-very-secret"


@pytest.fixture
def warehouse(tmp_path):
    def make(text: str = ""):
        (tmp_path / "warehouse.toml").write_text(f'name = "shop"\n{text}')
        return load_project(tmp_path)

    return make


def test_nothing_named_nothing_running(warehouse):
    with pytest.raises(StackDown) as raised:
        resolve(warehouse())
    assert raised.value.next_step == "kappa up"


def test_settings_name_both(warehouse):
    found = resolve(
        warehouse('[kafka]\nbootstrap_servers = "k1:9092,k2:9092"\n"sasl.username" = "me"\n[postgres]\ndsn = "postgresql://u:p@h/d"')
    )
    assert found.kafka == {"bootstrap.servers": "k1:9092,k2:9092", "sasl.username": "me"}
    assert found.postgres_dsn == SecretStr("postgresql://u:p@h/d")


def test_the_environment_wins(warehouse, monkeypatch):
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", "other:9092")
    monkeypatch.setenv("KAPPA_KAFKA__SASL_PASSWORD", SECRET)
    monkeypatch.setenv("KAPPA_POSTGRES__DSN", f"postgresql://u:{SECRET}@h/d")
    found = resolve(warehouse('[kafka]\nbootstrap_servers = "k1:9092"'))
    assert found.kafka["bootstrap.servers"] == "other:9092"
    assert found.kafka["sasl.password"] == SECRET
    assert SECRET not in repr(found)


def test_other_settings_go_with_the_local_stack(warehouse, monkeypatch):
    project = warehouse('[kafka]\n"queued.min.messages" = "1000"')
    monkeypatch.setattr("infra.stack.kafka.KafkaServer.process", lambda _: object())
    monkeypatch.setattr("infra.stack.kafka.KafkaServer.bootstrap_servers", "127.0.0.1:4242")
    assert resolve(project).kafka == {"queued.min.messages": "1000", "bootstrap.servers": "127.0.0.1:4242"}


def test_an_unreachable_kafka_is_named_without_its_secrets(warehouse, monkeypatch):
    monkeypatch.setattr(addresses, "ANSWER_TIMEOUT_S", 1)
    text = f'[kafka]\nbootstrap_servers = "127.0.0.1:9"\n"sasl.password" = "{SECRET}"\n"sasl.username" = "u"\n'
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9") as raised:
        addresses.check_kafka(warehouse(text + '"security.protocol" = "sasl_plaintext"\n"sasl.mechanisms" = "PLAIN"'))
    assert SECRET not in str(raised.value)


def test_a_wrong_librdkafka_setting_does_not_show_a_secret_value(warehouse):
    with pytest.raises(KafkaSettingsWrong) as raised:
        addresses.check_kafka(
            warehouse(f'[kafka]\nbootstrap_servers = "127.0.0.1:9"\n"ssl.key.pem" = "{SECRET}"\n"security.protocol" = "ssl"')
        )
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("dsn", [f"postgresql//u:{SECRET}@127.0.0.1/d", f"host=127.0.0.1 port=9 password={SECRET} dbname=d user=u"])
def test_an_unreachable_postgres_is_named_without_its_password(warehouse, dsn):
    with pytest.raises(ServerUnreachable) as raised:
        addresses.check_postgres(warehouse(f'[postgres]\ndsn = "{dsn}"'))
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5433/d", "postgresql://u:***@h:5433/d"),
        (f"host=h user=u password={SECRET} dbname=d", "postgresql://u:***@h/d"),
        ("postgresql://h/d", "postgresql://h/d"),
        (f"postgresql://u@h/d?sslmode=require&sslpassword={SECRET}", "postgresql://u@h/d?sslmode=require&sslpassword=***"),
        (f"postgresql//u:{SECRET}@h", "***"),
        ("postgresql://u@h1:1,h2:2/d", "postgresql://u@h1,h2:1,2/d"),
    ],
)
def test_mask_dsn(dsn, shown):
    assert mask_dsn(SecretStr(dsn)) == shown
