"""``kappa load`` and ``kappa peek`` on a real broker."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from connectors import loads
from connectors.files.errors import FileUnreadable
from connectors.load import FileChanged, Loader, RowsElsewhere, Watch
from connectors.peek import peek
from connectors.topics import Admin, log_identity
from flows.contract import Column, Source
from tests.loading import Loading

pytestmark = pytest.mark.slow


def source(topic: str, kind: str = "csv", **more) -> Source:
    columns = {"id": Column.parse("bigint not null"), "name": Column.parse("varchar")}
    return Source(name=f"s{topic[-8:]}", topic=topic, format=kind, columns=columns, key=("id",), **more)


@pytest.fixture
def loading(tmp_path, kafka, topic_name) -> Loading:
    return Loading.make(tmp_path / "w", kafka.bootstrap, topic_name, 3000)


def test_a_file_is_loaded_once_and_again_only_when_asked(loading):
    assert "3,000 rows sent" in loading.load()
    loading.check()
    assert "already loaded on" in loading.load()
    assert "--again sends it again" in loading.load()
    loading.check()
    loading.load("--again")
    loading.check(times=2)


def test_the_path_is_no_part_of_a_files_identity(kafka, topic_name, tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(b"id,name\n1,x\n")
    loader = Loader(kafka.config, source(topic_name))
    assert not loader.load(tmp_path / "a.csv").already
    assert loader.load(tmp_path / "b.csv").already


@pytest.mark.parametrize("kind", ["csv", "json", "text"])
def test_compressed_files_are_loaded(kafka, topic_name, tmp_path, kind):
    """One after another: each is read to its end, committed, and known the next time."""
    name = {"csv": "csv", "json": "ndjson", "text": "log"}[kind]
    content = {"csv": b"id,name\n1,x\n", "json": b'{"id":1,"name":"x"}\n', "text": b"x\n"}[kind]
    (tmp_path / f"a.{name}.gz").write_bytes(gzip.compress(content))
    (tmp_path / f"b.{name}.zst").write_bytes(pa.Codec("zstd").compress(content, asbytes=True))
    made = source(topic_name, kind)
    if kind == "text":
        made = Source(name=made.name, topic=topic_name, format=kind, columns={"line": Column.parse("varchar")}, key=())
    loader = Loader(kafka.config, made)
    for path in sorted(tmp_path.glob("*.*")):
        assert loader.load(path).sent == 1
        assert loader.load(path).already


def test_nothing_of_a_truncated_archive_is_sent(kafka, topic_name, tmp_path):
    """Else mending it, as the error says, would leave rows behind that the mended file has too."""
    content = b"id,name\n" + b"".join(b"%d,row %d\n" % (n, n * 7919) for n in range(300_000))
    packed = gzip.compress(content, 1)
    (tmp_path / "f.csv.gz").write_bytes(packed[:-1000])
    loader = Loader(kafka.config, source(topic_name))
    with pytest.raises(FileUnreadable, match=r"f\.csv\.gz"):
        loader.load(tmp_path / "f.csv.gz")
    (tmp_path / "f.csv.gz").write_bytes(packed)
    done = loader.load(tmp_path / "f.csv.gz")
    assert (done.sent, done.rows) == (300_000, 300_000)


def test_the_whole_members_of_a_broken_array_are_sent_once(kafka, topic_name, tmp_path):
    path = tmp_path / "f.json"
    path.write_bytes(b'[{"id":1}, {"id":1.10}, {"id":')
    loader = Loader(kafka.config, source(topic_name, "json"))
    for _ in range(2):
        with pytest.raises(FileUnreadable, match="not closed"):
            loader.load(path)
        assert [event.value for event in peek(kafka.config, topic_name, 9, "earliest")] == [b'{"id":1}', b'{"id":1.10}']
    path.write_bytes(b'[{"id":1}, {"id":1.10}, {"id":3}]')
    with pytest.raises(FileChanged):
        loader.load(path)
    assert loader.load(path, again=True).sent == 3


def test_a_file_that_changed_while_half_loaded_is_an_error(loading):
    loading.start(KAPPA_FAULT="load.after-commit:1").communicate(timeout=60)
    sent = len(loading.committed())
    assert 0 < sent < 3000
    loading.write(2000, seed=1)
    output = loading.load(status=1)
    [record] = [state for state in known(loading).states.values() if state.uri == loading.file.as_uri()]
    assert record.load in output
    assert f"has sent {sent} rows" in output
    assert f"kappa load flights {loading.file} --again" in output
    assert len(loading.committed()) == sent
    loading.load("--again")
    assert len(loading.committed()) == sent + 2000
    assert "already loaded" in loading.load()


def known(loading: Loading) -> loads.Loads:
    config = {"bootstrap.servers": loading.bootstrap}
    return loads.read_loads(config, Admin(config))


def test_a_file_that_is_written_to_while_it_is_read_commits_nothing_more(kafka, topic_name, tmp_path, monkeypatch):
    monkeypatch.setattr("connectors.load.COMMIT_ROWS", 1)
    monkeypatch.setattr("connectors.files.records._BLOCK_BYTES", 1000)
    file = tmp_path / "f.csv"
    file.write_bytes(b"id,name\n" + b"".join(b"%d,x\n" % n for n in range(2000)))
    made = source(topic_name, max_record_bytes=1024)
    states = []

    def committed(identity, state):
        states.append(state)
        with file.open("ab") as more:
            more.write(b"9999,y\n")

    with pytest.raises(FileChanged, match=r"f\.csv changed"):
        Loader(kafka.config, made, Watch(committed=committed)).load(file)
    assert len(states) == 1
    assert not states[0].done


def test_kappa_loads_holds_what_the_formats_page_says(kafka, topic_name, tmp_path):
    (tmp_path / "f.csv").write_bytes(b"id,name\n1,NA\n2,x\n")
    made = source(topic_name, csv={"null": ["NA"]})
    done = Loader(kafka.config, made).load(tmp_path / "f.csv")
    events = [event for event in peek(kafka.config, "kappa.loads", 1000, "latest") if done.state.load.encode() in (event.key + event.value)]
    begun, progress = events
    assert json.loads(begun.key) == {"load": done.state.load}
    assert json.loads(begun.value) == {"source": made.name, "uri": (tmp_path / "f.csv").as_uri()}
    content = (tmp_path / "f.csv").read_bytes()
    assert json.loads(progress.key) == {
        "source": made.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "reader": {"delimiter": ",", "null": ["NA"]},
    }
    value = json.loads(progress.value)
    assert value.pop("at") == done.state.at
    assert value.pop("topic_id") == log_identity(kafka.config, [topic_name]).topics[topic_name]
    assert value == {"load": done.state.load, "uri": (tmp_path / "f.csv").as_uri(), "rows": 2, "bytes": len(content), "done": True}


def test_a_row_that_is_too_long_for_the_topic_is_marked_and_the_others_go_through(kafka, topic_name, tmp_path):
    (tmp_path / "f.ndjson").write_bytes(b'{"id":1}\n{"id":2,"name":"' + b"x" * 200_000 + b'"}\n{"id":3}\n')
    made = source(topic_name, "json", topic_config={"max.message.bytes": "100000"})
    assert Loader(kafka.config, made).load(tmp_path / "f.ndjson").broken == 1
    events = peek(kafka.config, topic_name, 10, "earliest")
    assert [event.key for event in events] == [b'{"id":1}', None, b'{"id":3}']
    assert "max.message.bytes is 100000" in dict(events[1].headers)["kappa-broken"].decode()


def test_an_empty_file_is_loaded_too(kafka, topic_name, tmp_path):
    (tmp_path / "f.csv").write_bytes(b"")
    loader = Loader(kafka.config, source(topic_name))
    assert (loader.load(tmp_path / "f.csv").sent, loader.load(tmp_path / "f.csv").already) == (0, True)


def test_another_loads_open_transaction_hides_no_progress(kafka, topic_name, tmp_path):
    """What a load committed behind the beginning of another's open transaction is waited for, and never taken for missing."""
    (tmp_path / "f.csv").write_bytes(f"id,name\n1,{topic_name}\n".encode())
    made = source(topic_name)
    other = Producer({**kafka.config, "log_level": 2, "transactional.id": topic_name, "transaction.timeout.ms": 5000})
    other.init_transactions()

    def begin(progress):
        other.begin_transaction()
        other.produce("kappa.loads", b"{}", b'{"load":"other"}')
        other.flush()

    assert Loader(kafka.config, made, Watch(progress=begin)).load(tmp_path / "f.csv").sent == 1
    assert hidden(kafka, made)
    assert Loader(kafka.config, made).load(tmp_path / "f.csv").already


def hidden(kafka, made: Source) -> bool:
    """Whether who does not wait sees nothing of a source's loads."""
    found = loads.read_loads(kafka.config, Admin(kafka.config), wait=False)
    return not any(json.loads(key)["source"] == made.name for key in found.states)


def test_a_topic_that_was_made_again_does_not_hold_the_rows(kafka, topic_name, tmp_path):
    (tmp_path / "f.csv").write_bytes(f"id,name\n1,{topic_name}\n".encode())
    made = source(topic_name)
    Loader(kafka.config, made).load(tmp_path / "f.csv")
    admin = AdminClient(kafka.config)
    admin.delete_topics([topic_name])[topic_name].result()
    while topic_name in admin.list_topics(timeout=10).topics:
        pass
    loader = Loader(kafka.config, made)
    with pytest.raises(RowsElsewhere, match="--again"):
        loader.load(tmp_path / "f.csv")
    assert loader.load(tmp_path / "f.csv", again=True).sent == 1
    assert loader.load(tmp_path / "f.csv").already


def test_keys_go_to_the_partitions_of_java_clients(kafka, topic_name, tmp_path):
    (tmp_path / "f.csv").write_bytes(b"id,name\n" + b"".join(b"%d,x\n" % n for n in range(50)))
    Loader(kafka.config, source(topic_name, partitions=5)).load(tmp_path / "f.csv")
    for event in peek(kafka.config, topic_name, 100, "earliest"):
        assert event.partition == (murmur2(event.key) & 0x7FFFFFFF) % 5


def murmur2(data: bytes) -> int:
    """Kafka's org.apache.kafka.common.utils.Utils.murmur2."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = (0x9747B28C ^ len(data)) & mask
    for at in range(0, len(data) // 4 * 4, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    tail = data[len(data) // 4 * 4 :]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def test_peek_finds_the_newest_events_behind_transaction_markers(kafka, topic_name, tmp_path):
    loader = Loader(kafka.config, source(topic_name, partitions=2))
    for number in range(12):
        (tmp_path / "f.csv").write_bytes(b"id,name\n%d,x\n" % number)
        loader.load(tmp_path / "f.csv")
    assert sorted(json.loads(event.value)["id"] for event in peek(kafka.config, topic_name, 3, "latest")) == ["10", "11", "9"]
    assert [json.loads(event.value)["id"] for event in peek(kafka.config, topic_name, 2, "earliest")] == ["0", "1"]


def test_a_file_that_cannot_be_read_does_not_stop_the_next_one(loading):
    loading.write(3)
    picture = loading.file.with_suffix(".png")
    picture.write_bytes(b"\x89PNG")
    environment = {**os.environ, "KAPPA_KAFKA__BOOTSTRAP_SERVERS": loading.bootstrap}
    command = [sys.executable, "-m", "infra.cli", "-C", str(loading.folder), "load", "flights", "--json"]
    command += ["/proc/self/mem", str(picture), str(loading.file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert [file["rows"] for file in report["files"]] == [3]
    assert "/proc/self/mem cannot be read" in report["errors"][0]
    assert "image/png" in report["errors"][1]


def test_the_command_line_of_peek(loading):
    loading.load()
    environment = {**os.environ, "KAPPA_KAFKA__BOOTSTRAP_SERVERS": loading.bootstrap}
    command = [sys.executable, "-m", "infra.cli", "-C", str(loading.folder), "peek", "flights", "-n", "2"]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.count("kappa-row=") == 2
    listed = json.loads(subprocess.run([*command, "--json"], env=environment, capture_output=True, text=True, check=True).stdout)
    assert {"partition", "offset", "timestamp", "key", "value", "headers"} == set(listed[0])
    assert len(listed) == 2
    for wrong in (["peek", "nope"], ["source", "infer", "nope"]):
        done = subprocess.run([*command[:5], *wrong], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "topic nope does not exist" in done.stderr


def test_secrets_of_the_configuration_are_in_no_output(loading):
    output = loading.load(
        status=1, KAPPA_KAFKA__SECURITY_PROTOCOL="SASL_PLAINTEXT", KAPPA_KAFKA__SASL_PASSWORD="hush-hush", KAPPA_KAFKA__SASL_USERNAME="u"
    )
    assert "hush-hush" not in output
