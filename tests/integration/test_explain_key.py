"""`kappa explain-row` of keys with a past: deletes without a value, refused records, several rows a record; and events at positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from connectors.peek import at
from flows.batch import Position
from tests.inprocess import kappa

pytestmark = pytest.mark.slow
PARTS = """
topic = "{topic}"
format = "json"
key = ["id"]
partitions = 1
null_values = "delete"
event_time = "seen"
[columns]
id = "bigint not null"
kind = "varchar"
amount = "varchar"
seen = "timestamptz"
"""
PART = (
    "/* kind = \"upsert\" */ SELECT id, kind, CAST(amount AS integer) AS amount, seen FROM staging.parts WHERE kind IS DISTINCT FROM 'test'"
)
LISTS = """
topic = "{topic}-lists"
format = "json"
key = ["id"]
partitions = 1
[columns]
id = "bigint not null"
tags = "varchar[]"
"""
LINE = '/* kind = "upsert"\nkey = ["id", "tag"] */ SELECT id, unnest(tags) AS tag FROM staging.lists'
KINDS = '/* kind = "summary" */ SELECT kind, amount % 2 = 0 AS even, count(*) AS parts FROM core.part GROUP BY kind, even'
LINES = '/* kind = "summary" */ SELECT length(tag) AS size, count(*) AS lines FROM core.line GROUP BY size'


@pytest.fixture
def parts(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Offsets 0 to 8 of the parts: what came when is below; and two lists."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    for part in ("sources", "core", "analytics"):
        (tmp_path / part).mkdir()
    (tmp_path / "warehouse.toml").write_text('name = "parts"\n')
    (tmp_path / "sources/parts.toml").write_text(PARTS.format(topic=topic_name))
    (tmp_path / "sources/lists.toml").write_text(LISTS.format(topic=topic_name))
    (tmp_path / "core/part.sql").write_text(PART)
    (tmp_path / "core/line.sql").write_text(LINE)
    (tmp_path / "analytics/kinds.sql").write_text(KINDS)
    (tmp_path / "analytics/lines.sql").write_text(LINES)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for made in admin.create_topics([NewTopic(topic_name, 1, 1), NewTopic(f"{topic_name}-lists", 1, 1)]).values():
        made.result()
    producer = Producer({"bootstrap.servers": kafka.bootstrap})

    def produce(number: int, **values: Any) -> None:
        value = json.dumps({"id": number, **values}) if values else None
        producer.produce(topic_name, value, key=json.dumps({"id": number}))

    produce(1, kind="a", amount="1", seen="2026-01-03T00:00:00Z")
    produce(2, kind="a", amount="2", seen="2026-01-01T00:00:00Z")
    produce(3, kind="b", amount="three", seen="2026-01-01T00:00:00Z")  # 2: the SQL raises on it
    produce(1)  # 3: deletes what was seen on the 3rd
    produce(1, kind="late", amount="9", seen="2026-01-02T00:00:00Z")  # 4: older than what was deleted
    produce(1, kind="b", amount="4", seen="2026-01-04T00:00:00Z")
    produce(2)  # 6
    produce(3, kind="b", amount="3", seen="2026-01-02T00:00:00Z")
    produce(4, kind="test", amount="1")  # 8: filtered
    for tags in (["a", "a", "bb"], ["a", "c", "c"]):
        producer.produce(f"{topic_name}-lists", json.dumps({"id": 1, "tags": tags}))
    assert producer.flush(60) == 0
    kappa(tmp_path, "run", "--until-caught-up")
    return tmp_path


def explain(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """(offset, part) of the records."""
    found = json.loads(kappa(folder, "explain-row", *arguments, "--json"))
    assert found["total"] >= len(found["records"])
    return [(int(record["position"].rpartition("/")[2]), record["part"]) for record in found["records"]]


def test_all_that_is_known_of_a_key(parts: Path) -> None:
    assert explain(parts, "core.part", "1") == [(5, "row"), (3, "delete"), (0, "outranked"), (4, "outranked")]
    assert explain(parts, "core.part", "1", "--limit", "2") == [(5, "row"), (3, "delete")]
    assert explain(parts, "core.part", "amount=4") == explain(parts, "core.part", "1")
    assert explain(parts, "core.part", "2") == [(6, "delete"), (1, "outranked")]
    assert explain(parts, "core.part", "3") == [(7, "row")]
    assert explain(parts, "core.part__rejected", "0", "2") == [(2, "row")]
    assert explain(parts, "raw.parts", "0", "3") == [(3, "row")]
    assert explain(parts, "analytics.kinds", "b", "true") == [(5, "group")]
    # several rows of one record have the same key: they are told apart by their numbers
    assert explain(parts, "core.line", "1", "a") == [(1, "row"), (0, "outranked"), (0, "outranked")]
    assert explain(parts, "core.line", "1", "bb") == [(0, "row")]
    assert explain(parts, "core.line", "1", "c") == [(1, "row"), (1, "outranked")]
    assert explain(parts, "analytics.lines", "1") == [(1, "group"), (1, "group")]


def test_a_row_that_is_not_there_or_not_the_only_one(parts: Path, topic_name: str) -> None:
    for arguments, what, following in (
        (("core.part", "kind=b"), "2 rows of core.part have kind = b", "core.part 1"),
        (("analytics.kinds", "kind=b"), "2 rows of analytics.kinds have kind = b", "analytics.kinds b false"),
        (("core.part", "one"), "'one' is no value of id", "column id of core.part is BIGINT"),
        (("core.part", "7"), "core.part has no row id = 7", 'kappa query "FROM core.part"'),
        (("staging.parts", "0", "3"), "raw.parts has its record", "kappa explain-row raw.parts 0 3"),
        (("staging.lists", "0", "9"), f"no table between it and topic {topic_name}-lists", "kappa peek"),
        (("core.part__rejected", "0", "7"), "no reject is there", "kappa explain-row staging.parts 0 7"),
    ):
        said = kappa(parts, "explain-row", *arguments, status=2)
        assert what in said, said
        assert following in said, said
    (parts / "core/odd.sql").write_text(
        "/* kind = \"append\" */ SELECT id, CAST(amount AS integer) AS n FROM staging.parts WHERE kind <> 'test'"
    )
    kappa(parts, "run", "--until-caught-up")
    said = kappa(parts, "explain-row", "core.odd", "0", "2", status=2)
    assert "its record was rejected: transform_error" in said
    assert "kappa explain-row core.odd__rejected 0 2" in said
    said = kappa(parts, "explain-row", "core.odd", "0", "8", status=2)
    assert "staging.parts has a row of it: the SQL of core.odd leaves it out" in said


def test_events_at_positions(kafka, topic_name: str) -> None:
    """Committed ones alone, near to each other and far apart, with holes; none that the topic does not hold."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})  # kept: a collected client takes its answers with it
    admin.create_topics([NewTopic(topic_name, 2, 1)])[topic_name].result()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": topic_name})
    producer.init_transactions()
    for name, count in (("a", 700), ("gone", 5), ("b", 2)):  # a 0-699, marker 700, gone 701-705, marker 706, b 707-708, marker 709
        producer.begin_transaction()
        for number in range(count):
            producer.produce(topic_name, f"{name}{number}", partition=1)
        producer.flush(60)
        (producer.abort_transaction if name == "gone" else producer.commit_transaction)(60)
    asked = {3: b"a3", 4: b"a4", 699: b"a699", 700: None, 703: None, 708: b"b1", 709: None, 5000: None}
    found = at(kafka.config, [Position(topic_name, 1, offset) for offset in asked])
    assert {place.offset: event and event.value for place, event in found.items()} == asked
    nowhere = [Position(topic_name, 0, 0), Position(topic_name, 7, 0)]
    assert at(kafka.config, nowhere) == dict.fromkeys(nowhere)
