"""Bad records of every kind through a real topic and a real run: each a reject with its code, its neighbours kept, memory bounded."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.inprocess import audit, kappa
from tests.warehouse import Warehouse, at_work

pytestmark = pytest.mark.slow
MIB = 1024 * 1024
SOURCE = """
topic = "{topic}"
format = "json"
key = ["id"]
null_values = "{null_values}"
max_record_bytes = {max_record_bytes}
[columns]
id = "bigint not null"
small = "tinyint"
amount = "decimal(6,2)"
ratio = "double"
day = "date"
note = "varchar"
flags = "boolean[]"
place = "struct(lat double, lon double)"
[rules.positive]
check = "amount > 0"
"""
COPY = '/* kind = "append" */ SELECT id, note FROM staging.events'
ITEM = '/* kind = "upsert"\nsequence = "small" */ SELECT id, small, note FROM staging.events'
GOOD = '{"id": %d, "small": 1, "amount": 1.50, "ratio": 0.1, "day": "2024-02-29", "note": "ok", "flags": [true], "place": {"lat": 1}}'
BAD: list[tuple[str, bytes]] = [
    ("invalid_utf8", b'{"id": 1, "note": "\xff\xfe"}'),
    ("invalid_utf8", b'{"id": 1, "note": "\xed\xa0\x80"}'),  # half of a surrogate pair, as bytes
    ("invalid_json", b'{"id": 1, "note": "tru'),
    ("invalid_json", b'{"id": 1'),
    ("invalid_json", b""),
    ("invalid_json", b'{"id": 1} {"id": 2}'),
    ("invalid_json", b'{"id": 1,}'),
    ("invalid_json", b'{"id": 01}'),
    ("not_an_object", b"null"),
    ("not_an_object", b"[1, 2]"),
    ("not_an_object", b'"text"'),
    ("duplicate_field", b'{"id": 1, "note": "a", "note": "b"}'),
    ("duplicate_field", b'{"id": 1, "place": {"lat": 1, "lat": 2}}'),
    ("missing_field", b'{"note": "no id"}'),
    ("null_field", b'{"id": null}'),
    ("wrong_type", b'{"id": "1"}'),
    ("wrong_type", b'{"id": 1.0}'),
    ("wrong_type", b'{"id": true}'),
    ("wrong_type", b'{"id": 1, "note": 5}'),
    ("wrong_type", b'{"id": 1, "flags": [1]}'),
    ("wrong_type", b'{"id": 1, "place": [1, 2]}'),
    ("out_of_range", b'{"id": 9223372036854775808}'),
    ("out_of_range", b'{"id": 1, "small": 128}'),
    ("out_of_range", b'{"id": 1, "amount": 10000.00}'),
    ("out_of_range", b'{"id": 1, "amount": 1.001}'),
    ("out_of_range", b'{"id": 1, "ratio": 1e400}'),
    ("bad_value", b'{"id": 1, "ratio": NaN}'),
    ("bad_value", b'{"id": 1, "ratio": -Infinity}'),
    ("bad_value", b'{"id": 1, "day": "2023-02-29"}'),
    ("rule", b'{"id": 1, "amount": -1.00}'),
]


def make(folder: Path, bootstrap: str, topic: str, null_values: str = "reject", max_record_bytes: int = MIB) -> Warehouse:
    """One source, one table that derives from it, and a topic of one partition that takes 20 MB."""
    for part in ("sources", "core"):
        (folder / part).mkdir(parents=True)
    (folder / "warehouse.toml").write_text('name = "bad"\n[run]\nbatch_rows = 100\nmemory_limit = "512MB"\n')
    source = SOURCE.format(topic=topic, null_values=null_values, max_record_bytes=max_record_bytes)
    (folder / "sources/events.toml").write_text(source)
    (folder / "core/copy.sql").write_text(COPY)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": "2"})
    admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": str(20 * MIB)})])[topic].result(30)
    return Warehouse(folder, bootstrap, topic, 1)


def send(warehouse: Warehouse, values: list[bytes | None]) -> None:
    limits = {"log_level": 2, "message.max.bytes": 20 * MIB, "queue.buffering.max.kbytes": 64 * 1024}
    producer = Producer({"bootstrap.servers": warehouse.bootstrap, **limits})
    for number, value in enumerate(values):
        producer.produce(warehouse.topic, value, key=b'{"id": %d}' % number)
        if value is not None and len(value) > MIB:
            producer.flush(60)
    assert producer.flush(60) == 0


@pytest.fixture
def bootstrap(kafka, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    return kafka.bootstrap


def rejects(warehouse: Warehouse) -> dict[int, dict[str, Any]]:
    return {row["_offset"]: row for row in warehouse.rows("staging.events__rejected")}


def test_every_kind_of_bad_value_between_good_ones(bootstrap: str, topic_name: str, tmp_path: Path) -> None:
    """Each bad value stands between two good ones, and at the beginning and the end of a batch."""
    warehouse = make(tmp_path / "warehouse", bootstrap, topic_name)
    values: list[bytes | None] = []
    for number in range(8):
        for code, value in BAD[number:] + BAD[:number]:
            assert code
            values += [value, (GOOD % len(values)).encode()]
    send(warehouse, values)
    kappa(warehouse.folder, "run", "--until-caught-up")
    codes = {value: code for code, value in BAD}
    good = [offset for offset, value in enumerate(values) if value not in codes]
    assert [(row["_offset"], row["id"]) for row in warehouse.rows("staging.events")] == [(offset, offset - 1) for offset in good]
    refused = rejects(warehouse)
    assert set(refused) == set(range(len(values))) - set(good)
    for offset, row in refused.items():
        value = values[offset]
        assert (row["code"], row["value"], row["key"]) == (codes[value], value, b'{"id": %d}' % offset), row["reason"]
        assert row["reason"]
    assert [row["_offset"] for row in warehouse.rows("core.copy")] == good
    assert not audit(warehouse.folder, "--full")


@pytest.mark.parametrize("policy", ["reject", "delete"])
def test_null_values(bootstrap: str, topic_name: str, tmp_path: Path, policy: str) -> None:
    warehouse = make(tmp_path / "warehouse", bootstrap, topic_name, null_values=policy)
    send(warehouse, [None if number % 3 == 0 else (GOOD % number).encode() for number in range(30)])
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert [row["id"] for row in warehouse.rows("staging.events")] == [number for number in range(30) if number % 3]
    nulls = [number for number in range(30) if number % 3 == 0] if policy == "reject" else []
    assert [(o, row["code"], row["value"]) for o, row in rejects(warehouse).items()] == [(o, "null_value", None) for o in nulls]
    ledgers = {t["table"]: t["partitions"][0] for t in json.loads(kappa(warehouse.folder, "audit", "--full", "--json"))["tables"]}
    counts = {"filtered": 0, "rejected": 10} if policy == "reject" else {"filtered": 10, "rejected": 0}
    for table in ("staging.events", "core.copy"):
        assert {name: ledgers[table][name] for name in counts} == counts
    assert ledgers["raw.events"]["written"] == 30


def test_null_values_delete_rows_of_an_upsert_table(bootstrap: str, topic_name: str, tmp_path: Path) -> None:
    """The newest row of every third key goes, late older ones stay away, a key that comes again is there; the audit proves each of them."""
    warehouse = make(tmp_path / "warehouse", bootstrap, topic_name, null_values="delete")
    (warehouse.folder / "core/item.sql").write_text(ITEM)

    def version(number: int, small: int) -> tuple[bytes, bytes | None]:
        return b'{"id": %d}' % number, b'{"id": %d, "small": %d, "note": "s%d"}' % (number, small, small)

    def gone(number: int) -> tuple[bytes, None]:
        return b'{"id": %d}' % number, None

    first = [version(number, 5) for number in range(30)] + [gone(number) for number in range(0, 30, 3)]
    then = [version(0, 4), version(3, 6), gone(6), (b"not json", None), gone(99)]
    for records in (first, then):
        producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2})
        for key, value in records:
            producer.produce(topic_name, value, key=key)
        assert producer.flush(60) == 0
        kappa(warehouse.folder, "run", "--until-caught-up")
    live = json.loads(kappa(warehouse.folder, "query", "SELECT id, small FROM core.item ORDER BY id", "--format", "json"))
    assert [(row["id"], row["small"]) for row in live] == [(n, 6 if n == 3 else 5) for n in range(30) if n % 3 or n == 3]
    assert [(row["code"], row["_offset"]) for row in rejects(warehouse).values()] == [("invalid_json", 43)]
    ledger = {t["table"]: t["partitions"][0] for t in json.loads(kappa(warehouse.folder, "audit", "--full", "--json"))["tables"]}[
        "core.item"
    ]
    assert (ledger["read"], ledger["written"], ledger["filtered"], ledger["rejected"]) == (45, 44, 0, 1)


def test_empty_texts_in_a_partition_column(bootstrap: str, topic_name: str, tmp_path: Path) -> None:
    """Delta stores them as NULL: such a record is a reject of the table, unless the SQL says NULL itself."""
    warehouse = make(tmp_path / "warehouse", bootstrap, topic_name)
    head = '/* kind = "append"\npartition_by = ["note"] */ SELECT id, '
    (warehouse.folder / "core/copy.sql").write_text(f"{head} note FROM staging.events")
    (warehouse.folder / "core/nulled.sql").write_text(f"{head} NULLIF(note, '') AS note FROM staging.events")
    notes = ["a", "", None, " ", "b", ""]
    send(warehouse, [json.dumps({"id": number, "note": note}).encode() for number, note in enumerate(notes)])
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert [(row["id"], row["note"]) for row in warehouse.rows("core.copy")] == [(n, note) for n, note in enumerate(notes) if note != ""]
    assert [(row["id"], row["note"]) for row in warehouse.rows("core.nulled")] == [(n, note or None) for n, note in enumerate(notes)]
    refused = warehouse.rows("core.copy__rejected")
    assert [(row["_offset"], row["code"]) for row in refused] == [(1, "transform_error"), (5, "transform_error")]
    assert "partition column note" in refused[0]["reason"]
    assert not audit(warehouse.folder, "--full")


def test_values_of_10_mb(bootstrap: str, topic_name: str, tmp_path: Path) -> None:
    """Kept when the contract allows them, else rejects. However many there are, memory stays at the smallest memory_limit and what few such
    records need on their way (measured: 580 to 600 MB)."""
    warehouse = make(tmp_path / "warehouse", bootstrap, topic_name, max_record_bytes=11 * MIB)
    block = os.urandom(500_000).hex().encode()
    values: list[bytes | None] = []
    for number in range(60):
        note = b"short" if number % 3 == 0 else block * (12 if number % 6 == 5 else 10)
        values.append(b'{"id": %d, "note": "%s"}' % (number, note))
    send(warehouse, values)
    with at_work(warehouse.start("run", "--until-caught-up")) as process:
        most = peak_bytes(process)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    kept = {row["id"]: len(row["note"]) for row in warehouse.rows("core.copy")}
    assert kept == {number: 5 if number % 3 == 0 else 10_000_000 for number in range(60) if number % 6 != 5}
    assert {number: row["code"] for number, row in rejects(warehouse).items()} == {n: "too_large" for n in range(60) if n % 6 == 5}
    assert not audit(warehouse.folder, "--full")
    assert most < 512_000_000 + 20 * 10_000_000, f"{most / 1e6:.0f} MB"


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """The greatest resident memory of a process, from the system's own high-water mark; returns when it has ended."""
    status, most = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for line in status.read_text().splitlines() if status.exists() else ():
            if line.startswith("VmHWM:"):
                most = max(most, int(line.split()[1]) * 1024)
        time.sleep(0.02)
    return most
