"""Nested and semi-structured columns from the topic to every kind of table, and as any Delta reader sees them."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable

from tests.inprocess import audit, kappa
from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow
SOURCE = """
topic = "{topic}"
format = "json"
key = ["id"]
[columns]
id = "bigint not null"
place = "struct(lat double, tags varchar[])"
prices = "map(varchar, decimal(6,2))"
parts = "map(varchar, struct(n integer, doc json)[])"
doc = "json"
"""
TABLES = {
    "core/event": "/* kind = \"append\" */ SELECT id, place, prices, parts, doc, prices['eur'] AS eur FROM staging.events",
    "core/item": '/* kind = "upsert" */ SELECT id % 5 AS item, id, place, prices, parts, doc, map([doc], [id]) AS made FROM staging.events',
    "analytics/last": '/* kind = "summary" */ SELECT id % 3 AS third, max_by(prices, id) AS m, count(*) AS n FROM core.event GROUP BY 1',
    "analytics/items": '/* kind = "summary" */ SELECT id % 2 AS half, arg_max(parts, id) AS parts, count(*) AS n FROM core.item GROUP BY 1',
}
KEYED = 'kind = "upsert"\nkey = ["item"]\nsequence = "id"'


def value(number: int) -> bytes:
    parts = b'{"a":[{"n":%d,"doc":{"x":1.10}},null],"":null}' % number if number % 3 else b"null"
    prices = b'{"eur":%d.5,"\xc3\xa9 \\"":null}' % number if number % 4 else b"{}"
    return b'{"id":%d,"place":{"lat":1.5,"tags":["a",null]},"prices":%b,"parts":%b,"doc":[1.10]}' % (number, prices, parts)


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    admin = AdminClient(kafka.config)
    admin.create_topics([NewTopic(topic_name, 1, 1)])[topic_name].result(30)
    files = {"warehouse.toml": 'name = "nested"\n', "sources/events.toml": SOURCE.format(topic=topic_name)}
    files |= {f"{table}.sql": sql.replace('kind = "upsert"', KEYED) for table, sql in TABLES.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return Warehouse(tmp_path, kafka.bootstrap, topic_name, 1)


def produce(warehouse: Warehouse, numbers: range) -> None:
    producer = Producer({"bootstrap.servers": warehouse.bootstrap})
    for number in numbers:
        producer.produce(warehouse.topic, value(number))
    assert producer.flush(60) == 0


def test_nested_columns_in_every_kind_of_table(warehouse: Warehouse) -> None:
    for numbers in (range(100), range(100, 130)):
        produce(warehouse, numbers)
        kappa(warehouse.folder, "run", "--until-caught-up")
    rows = warehouse.rows("core.event")
    assert len(rows) == 130
    assert rows[7]["place"] == {"lat": 1.5, "tags": ["a", None]}
    assert rows[7]["prices"] == [("eur", Decimal("7.50")), ('é "', None)]
    assert rows[7]["parts"] == [("a", [{"n": 7, "doc": '{"x":1.10}'}, None]), ("", None)]
    assert (rows[7]["doc"], rows[7]["eur"]) == ("[1.10]", Decimal("7.50"))
    assert (rows[8]["prices"], rows[9]["parts"]) == ([], None)
    assert not audit(warehouse.folder, "--full")

    def answer(sql: str) -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(kappa(warehouse.folder, "query", sql, "--format", "json"))
        return found

    items = answer("SELECT item, id, prices, made FROM core.item ORDER BY item")
    assert [item["id"] for item in items] == [125, 126, 127, 128, 129]
    assert items[0]["prices"] == [["eur", 125.5], ['é "', None]]
    assert items[0]["made"] == [["[1.10]", 125]]
    assert answer("SELECT third, m, n FROM analytics.last ORDER BY third") == [
        {"third": 0, "m": [["eur", 129.5], ['é "', None]], "n": 44},
        {"third": 1, "m": [["eur", 127.5], ['é "', None]], "n": 43},
        {"third": 2, "m": [], "n": 43},
    ]
    assert answer("SELECT half, parts['a'][1].n AS n FROM analytics.items ORDER BY half") == [{"half": 0, "n": 128}, {"half": 1, "n": 127}]
    kappa(warehouse.folder, "query", "FROM core.event", "--format", "parquet", "--output", str(warehouse.folder / "events.parquet"))
    path = str(warehouse.folder / "events.parquet")
    assert duckdb.sql(f"SELECT sum(map_values(prices)[1]) FROM '{path}'").fetchall() == [
        (Decimal(sum(n + 0.5 for n in range(130) if n % 4)),)
    ]


def test_compaction_keeps_maps(warehouse: Warehouse) -> None:
    for start in range(0, 40, 10):
        produce(warehouse, range(start, start + 10))
        kappa(warehouse.folder, "run", "--until-caught-up")
    before = warehouse.rows("core.event")
    report = json.loads(kappa(warehouse.folder, "maintain", "core.event", "--take-over", "--json"))
    assert report["tables"][0]["compaction"]["replaced"]["files"] == 4
    assert warehouse.rows("core.event") == before
    assert not audit(warehouse.folder, "--full")
    path = warehouse.folder / "data" / warehouse.catalogue()["tables"]["core.event"]["path"]
    assert len(DeltaTable(str(path)).file_uris()) == 1
