"""``kappa up | down | status | logs | reset`` as a user calls them, on real servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from infra.stack import postgres
from infra.stack.errors import DataDamaged, FolderUnsuitable
from infra.stack.local import LocalStack

pytestmark = pytest.mark.slow


class Warehouse:
    """A warehouse folder and the ``kappa`` command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "warehouse.toml").write_text('name = "shop"\n[local]\nkafka_heap_mb = 192\n')
        self.stack = LocalStack(folder / ".kappa", kafka_heap_mb=192)

    def spawn(self, *arguments: str, **options) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "infra.cli", "-C", str(self.folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "LC_ALL": "C.UTF-8"},  # in which Java finds a folder with an ö
            **options,
        )

    def kappa(self, *arguments: str, status: int = 0, stdin: str = "", **options) -> str:
        process = self.spawn(*arguments, **options)
        out, err = process.communicate(stdin, timeout=150)
        assert process.returncode == status, out + err
        return out + err

    def status(self, status: int = 0) -> dict:
        process = self.spawn("status", "--json")
        out, err = process.communicate(timeout=60)
        assert process.returncode == status, out + err
        return json.loads(out)

    def pids(self) -> dict[str, int | None]:
        return {name: state["pid"] for name, state in self.status().items()}


@pytest.fixture
def warehouse(tmp_path):
    warehouse = Warehouse(tmp_path / "shöp 1")
    yield warehouse
    warehouse.stack.down()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A warehouse whose stack runs; a test may kill it, and the next one's ``up`` mends it."""
    warehouse = Warehouse(tmp_path_factory.mktemp("shared") / "shop")
    yield warehouse
    warehouse.stack.down()


@pytest.fixture
def running(shared):
    shared.stack.up()
    return shared


def produce(bootstrap: str, topic: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for number in range(count):
        producer.produce(topic, str(number).encode())
    assert producer.flush(30) == 0


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, 30)]
    finally:
        consumer.close()


def test_up_status_logs_down(warehouse):
    assert not warehouse.status(1)["kafka"]["running"]
    out = warehouse.kappa("up")
    password = (warehouse.folder / ".kappa/postgres/password").read_text()
    assert password not in out
    assert stat_mode(warehouse.folder / ".kappa/postgres/password") == 0o600

    status = warehouse.status()
    assert all(state["answers"] and state["kind"] == "local" for state in status.values())
    assert password not in json.dumps(status)
    assert ":***@127.0.0.1:" in status["postgres"]["dsn"]
    produce(status["kafka"]["bootstrap_servers"], "orders", 3)
    assert "orders-0" in warehouse.kappa("logs", "kafka", "-n", "500")
    assert "ready to accept connections" in warehouse.kappa("logs", "postgres")

    pids = warehouse.pids()
    warehouse.kappa("up")
    assert warehouse.pids() == pids

    out = warehouse.kappa("down")
    assert "stopped kafka" in out
    assert "stopped postgres" in out
    assert not any(map(runs, pids.values()))
    assert "nothing" in warehouse.kappa("down")


def test_a_killed_broker_comes_back_with_its_events_and_address(running, topic_name):
    status = running.status()
    bootstrap = status["kafka"]["bootstrap_servers"]
    produce(bootstrap, topic_name, 1000)
    os.kill(status["kafka"]["pid"], signal.SIGKILL)
    running.kappa("up")
    assert running.status()["kafka"]["bootstrap_servers"] == bootstrap
    assert consume(bootstrap, topic_name, 1000) == [str(number).encode() for number in range(1000)]
    assert running.pids()["postgres"] == status["postgres"]["pid"]


def test_a_killed_postgres_comes_back_with_its_rows(running):
    dsn = running.stack.postgres.dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    os.kill(running.pids()["postgres"], signal.SIGKILL)
    running.kappa("up")
    with psycopg.connect(running.stack.postgres.dsn) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_a_pid_file_of_postgres_that_another_program_has_by_now(running):
    """After a reboot the pid in postmaster.pid may be anyone's; PostgreSQL alone would refuse to start for ever."""
    running.stack.down()
    user = 65534 if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["sleep", "600"], user=user, cwd="/")
    try:
        pid_file = running.stack.postgres.data / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{running.stack.postgres.data}\n1700000000\n5432\n\n127.0.0.1\n")
        shutil.chown(pid_file, *(65534, 65534) if os.geteuid() == 0 else (os.getuid(), os.getgid()))
        running.stack.up(kafka=False)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_two_ups_at_once_start_one_stack(shared):
    shared.stack.down()
    ups = [shared.spawn("up") for _ in range(3)]
    for up in ups:
        out, err = up.communicate(timeout=120)
        assert up.returncode == 0, out + err
    pids = shared.pids()
    ours = [p for p in psutil.process_iter(["cmdline"]) if shared.stack.kafka.marker in (p.info["cmdline"] or ())]
    assert [process.pid for process in ours] == [pids["kafka"]]


def test_half_made_data_folders_are_made_anew(warehouse):
    for name in ("kafka", "postgres"):
        folder = warehouse.folder / ".kappa" / name
        for half in (folder / "forming", folder / "data"):
            half.mkdir(parents=True)
            (half / "half").write_text("made")
    (warehouse.folder / ".kappa/kafka/data/__cluster_metadata-0").mkdir()
    (warehouse.folder / ".kappa/postgres/data/PG_VERSION").write_text("18\n")
    warehouse.kappa("up")
    assert all(state["answers"] for state in warehouse.status().values())


def test_a_folder_with_a_comma_is_named(tmp_path):
    with pytest.raises(FolderUnsuitable, match=r"a,b/state") as caught:
        LocalStack(tmp_path / "a,b/state").up()
    assert "comma" in caught.value.cause
    assert not (tmp_path / "a,b").exists()


def test_a_folder_with_spaces_and_percent_signs(tmp_path):
    stack = LocalStack(tmp_path / "a b %20 %i" / "state", kafka_heap_mb=384)
    try:
        assert len(stack.up()) == 2
        assert (stack.kafka.folder / "kafka.log").exists()
    finally:
        stack.down()


def test_events_without_meta_properties_are_not_deleted(tmp_path):
    stack = LocalStack(tmp_path)
    log = tmp_path / "kafka/data/orders-0/00000000000000000000.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"events")
    with pytest.raises(DataDamaged, match=r"meta\.properties"):
        stack.up(postgres=False)
    assert log.read_bytes() == b"events"


def test_an_up_that_is_interrupted_anywhere_is_mended_by_the_next(warehouse):
    for after_s, number in ((0.6, signal.SIGINT), (1.2, signal.SIGKILL), (1.8, signal.SIGINT), (2.4, signal.SIGKILL)):
        up = warehouse.spawn("up")
        time.sleep(after_s)
        os.killpg(up.pid, number)
        out, err = up.communicate(timeout=60)
        assert up.returncode in (0, 130, -number), out + err
    warehouse.kappa("up")
    pids = warehouse.pids()
    for server in warehouse.stack.servers:
        ours = [p.pid for p in psutil.process_iter(["cmdline", "name"]) if is_main_process(p, server.marker)]
        assert ours == [pids[server.name]]


def test_reset_asks_and_then_deletes(running):
    out = running.kappa("reset", stdin="n\n", status=2)
    assert "nothing was deleted" in out
    pids = running.pids()
    running.kappa("reset", "--yes")
    assert not any(map(runs, pids.values()))
    assert not running.stack.kafka.folder.exists()
    assert not running.stack.postgres.folder.exists()


def test_an_existing_cluster_is_used_and_left_alone(running, tmp_path):
    status = running.status()
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "warehouse.toml").write_text('name = "client"\n[postgres]\ndsn_file = "dsn"\n')
    (folder / "dsn").write_text(running.stack.postgres.dsn)
    environment = {**os.environ, "KAPPA_KAFKA__BOOTSTRAP_SERVERS": status["kafka"]["bootstrap_servers"]}

    def kappa(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "infra.cli", "-C", str(folder), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    up = kappa("up")
    assert up.returncode == 0, up.stderr
    assert up.stdout.count("an existing one") == 2
    seen = json.loads(kappa("status", "--json").stdout)
    assert seen["kafka"]["kind"] == seen["postgres"]["kind"] == "existing"
    assert seen["kafka"]["bootstrap_servers"] == status["kafka"]["bootstrap_servers"]
    assert seen["postgres"]["dsn"] == status["postgres"]["dsn"]
    assert "left alone" in kappa("down").stdout
    assert not (folder / ".kappa").exists()
    assert running.pids() == {name: state["pid"] for name, state in status.items()}


def test_folders_that_only_their_owner_may_enter(tmp_path, monkeypatch):
    """A clone with its .venv and state under mode 0700, as in /root: PostgreSQL must still start, and not as root."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    package = postgres.binaries().parents[1]
    for folder in package.parent.glob(f"{package.name}*"):  # the package, and the libraries that its wheel keeps beside it
        shutil.copytree(folder, closed / folder.name, symlinks=True)
    monkeypatch.setattr(postgres, "binaries", lambda: closed / package.name / "pginstall18" / "bin")
    stack = LocalStack(closed / ".kappa")
    try:
        stack.up(kafka=False)
        assert stack.postgres.answers()
        process = stack.postgres.process()
        assert process.exe().startswith(str(closed))
        assert process.uids().real != 0
    finally:
        stack.down()


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def is_main_process(process: psutil.Process, marker: str) -> bool:
    """PostgreSQL's children rewrite their command line, so only the postmaster carries the marker."""
    return marker in (process.info["cmdline"] or ()) and process.info["name"] in ("java", "postgres")
