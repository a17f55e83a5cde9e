"""Clients of Kafka: settings that librdkafka refuses, in every command, and waiting that ends when the run is to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from connectors.clients import KafkaSettingsWrong, answer, client
from flows.control import RunControl
from flows.fingerprint import definitions
from flows.plan import analyse
from flows.project import load_project
from tests.inprocess import kappa
from tests.stored import Root
from tests.warehouse import write_folder

NOWHERE = '[kafka]\nbootstrap_servers = "127.0.0.1:1"\n'
WRONG = {"bogus.setting": '"bogus.setting" = 1', "queued.min.messages": '"queued.min.messages" = "abc"'}


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Path]:
    """A folder with [kafka] settings, a file to load, and a table that was committed once."""

    def made(setting: str) -> Path:
        write_folder(tmp_path, "events", settings=f"{NOWHERE}{setting}\n")
        (tmp_path / "events.csv").write_text("id\n1\n")
        project = load_project(tmp_path)
        raw = definitions(project, analyse(project))["raw.events"]
        root = Root(tmp_path / "data")
        root.table(raw.name, raw.schema, raw.partition_by, raw.fingerprint, raw.json)
        root.tables["raw.events"].commit({0: (0, 3, range(3))})
        return tmp_path

    return made


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize(
    "command",
    ["up", "load events {folder}/events.csv", "peek events", "run", "tables", "show raw.events", "audit", "source infer events"],
)
def test_a_wrong_setting_is_named(make: Callable[[str], Path], command: str, name: str) -> None:
    folder = make(WRONG[name])
    text = kappa(folder, *command.format(folder=folder).split(), status=1)
    for part in (name, "[kafka] in warehouse.toml", "kappa status"):
        assert part in text
    assert text.count(name) == 1, text


@pytest.mark.parametrize("name", WRONG)
def test_check_finds_a_wrong_setting_without_a_broker(make: Callable[[str], Path], name: str) -> None:
    text = kappa(make(WRONG[name]), "check", status=1)
    assert "warehouse.toml:" in text
    assert name in text
    assert "1 error in 1 file" in text
    assert "no errors" in kappa(make('"socket.timeout.ms" = 5000'), "check", status=0)


def test_status_names_a_wrong_setting(make: Callable[[str], Path]) -> None:
    assert "bogus.setting" in kappa(make(WRONG["bogus.setting"]), "status", status=1)


def test_secrets_stay_out_of_the_message() -> None:
    with pytest.raises(KafkaSettingsWrong) as raised:
        client(AdminClient, {"bootstrap.servers": "127.0.0.1:1", "security.protocol": "ssl", "ssl.key.pem": "hunter2"})
    assert "ssl.key.pem" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    with pytest.raises(KafkaSettingsWrong, match=r"group\.id"):
        client(Consumer, {})


def test_waiting_says_for_whom_and_ends_with_the_run() -> None:
    said: list[str] = []
    control = RunControl(lambda line: (said.append(line), control.stop())[0])
    with pytest.raises(TimeoutError):
        answer(Future[int](), 3600, "k1:9092", control)
    assert said == ["waiting for Kafka at k1:9092"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_for_kafka_can_be_stopped(tmp_path: Path, number: signal.Signals) -> None:
    write_folder(tmp_path, "events", settings=NOWHERE)
    command = [sys.executable, "-m", "infra.cli", "-C", str(tmp_path), "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting for Kafka at 127.0.0.1:1\n"
        process.send_signal(number)
        text, _ = process.communicate(timeout=10)  # unasked it gives up after 15 s
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Kafka at 127.0.0.1:1 does not answer" in text
