"""Random edits of definitions over random logs, on a real Kafka: what is promoted is what DuckDB makes of the log by the new definitions,
what is rolled back is that of the old ones, and a reader that asks all the time never sees a mixture (DESIGN invariants I5, I6, I7)."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flows.errors import KappaError
from sinks import Warehouse as Reader
from tests.inprocess import audit, kappa
from tests.warehouse import event, valid

PARTITIONS = 3
QUESTION = """
    SELECT list_sort(list_distinct(flatten([
        (SELECT coalesce(list(DISTINCT tag), []) FROM core.event), (SELECT coalesce(list(DISTINCT tag), []) FROM core.child),
        (SELECT coalesce(list(DISTINCT tag), []) FROM core.slot), (SELECT coalesce(list(DISTINCT tag), []) FROM analytics.tally),
        (SELECT coalesce(list(DISTINCT tag), []) FROM analytics.corner), (SELECT coalesce(list(DISTINCT tag), []) FROM analytics.best),
        (SELECT coalesce(list(DISTINCT tag), []) FROM analytics.seen)]))) AS tags
"""
TABLES = {
    "core.event": "id, kind, twice, tag",
    "core.child": "id, name, tag",
    "core.slot": "slot, kind, id, tag",
    "analytics.tally": "kind, tag, events, total",
    "analytics.corner": "corner, tag, slots, top",
    "analytics.best": "kind, place, tag",
    "analytics.seen": "tag, events",
}


@dataclass(frozen=True)
class Design:
    """One state of the definitions. ``version`` is in every row of every table, so that rows tell which definitions made them."""

    version: int
    kind: str
    modulus: int
    times: int
    most: int
    slots: int
    aggregate: str
    order: str

    def files(self, topic: str) -> dict[str, str]:
        tag = f"'v{self.version}' AS tag"
        return {
            "warehouse.toml": 'name = "random"\n[run]\ncommit_rows = 40\nbatch_rows = 20\n[maintenance]\nkeep_generations = 3\n',
            "sources/events.toml": f"""topic = "{topic}"
                format = "json"
                key = ["id"]
                [columns]
                id = "bigint not null"
                kind = "varchar"
                amount = "decimal(12,2)"
                tags = "varchar[]"
                [rules.small]
                check = "amount < {self.most}"
                """,
            "core/event.sql": f"""/* kind = "append" */
                SELECT id, {self.kind}(kind) AS kind, amount * {self.times} AS twice, {tag}
                FROM staging.events WHERE id % {self.modulus} <> 0""",
            "core/child.sql": '/* kind = "append" */ SELECT id, kind AS name, tag FROM core.event WHERE id % 2 = 0',
            "core/slot.sql": f"""/*
                kind = "upsert"
                key = ["slot"]
                sequence = "amount"
                delete_when = "id % 13 = 0"
                */ SELECT id % {self.slots} AS slot, kind, id, amount, {tag} FROM staging.events WHERE amount IS NOT NULL""",
            "analytics/tally.sql": f"""/* kind = "summary" */
                SELECT kind, tag, count(*) AS events, {self.aggregate}(twice) AS total FROM core.event GROUP BY ALL""",
            "analytics/corner.sql": """/* kind = "summary" */
                SELECT slot % 3 AS corner, tag, count(*) AS slots, max(id) AS top FROM core.slot GROUP BY ALL""",
            "analytics/best.sql": f"""/*
                kind = "materialized"
                key = ["kind"]
                */ SELECT kind, rank() OVER (ORDER BY total {self.order}, kind) AS place, tag FROM analytics.tally""",
            "analytics/seen.sql": '/* kind = "view" */ SELECT tag, CAST(sum(events) AS bigint) AS events FROM analytics.tally GROUP BY tag',
        }


@st.composite
def designs(draw: st.DrawFn) -> Design:
    return Design(
        version=0,
        kind=draw(st.sampled_from(["upper", "lower", "reverse"])),
        modulus=draw(st.integers(2, 6)),
        times=draw(st.integers(1, 4)),
        most=draw(st.sampled_from([300, 700, 1_000_000])),
        slots=draw(st.sampled_from([7, 11, 20])),
        aggregate=draw(st.sampled_from(["sum", "min", "max"])),
        order=draw(st.sampled_from(["ASC", "DESC"])),
    )


@dataclass
class Log:
    """The topic, and what is in it."""

    topic: str
    bootstrap: str
    sent: list[tuple[int, int, bytes]]  # partition, offset, value

    def send(self, numbers: list[int], chance: random.Random) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 0})
        ends = [sum(p == partition for p, _, _ in self.sent) for partition in range(PARTITIONS)]
        for number in numbers:
            partition = chance.randrange(PARTITIONS)
            producer.produce(self.topic, event(number), key=b"%d" % number, partition=partition)
            self.sent.append((partition, ends[partition], event(number)))
            ends[partition] += 1
        assert producer.flush(60) == 0


def expected(design: Design, log: Log) -> dict[str, list[dict[str, Any]]]:
    """The tables by plain DuckDB over plain Python's reading of the events."""
    made = []
    for partition, offset, value in log.sent:
        row = valid(value)
        if row is not None and not (row["amount"] is not None and row["amount"] >= design.most):
            made.append({**row, "_partition": partition, "_offset": offset})
    at = [("_partition", pa.int32()), ("_offset", pa.int64())]
    columns = [("id", pa.int64()), ("kind", pa.string()), ("amount", pa.decimal128(12, 2)), ("tags", pa.list_(pa.string()))]
    schema = pa.schema([*columns, *at])
    files = {path: text.partition("*/")[2] for path, text in design.files(log.topic).items()}
    with duckdb.connect() as database:
        database.execute("CREATE SCHEMA staging; CREATE SCHEMA core; CREATE SCHEMA analytics")
        database.register("given", pa.Table.from_pylist(made, schema=schema))
        database.execute("CREATE TABLE staging.events AS FROM given")
        slot = files["core/slot.sql"].replace("SELECT ", "SELECT _partition, _offset, id % 13 = 0 AS deleted, ")
        files["core/slot.sql"] = (
            "SELECT slot, kind, id, tag FROM (SELECT *, row_number() OVER "
            f"(PARTITION BY slot ORDER BY amount DESC, _partition DESC, _offset DESC) AS nth FROM ({slot})) WHERE nth = 1 AND NOT deleted"
        )
        for table in ("core.event", "core.child", "core.slot", "analytics.tally", "analytics.corner", "analytics.best", "analytics.seen"):
            database.execute(f"CREATE TABLE {table} AS {files[table.replace('.', '/') + '.sql']}")
        return {name: ask(database, name) for name in TABLES}


def ask(database: Any, table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = database.sql(f"SELECT {TABLES[table]} FROM {table} ORDER BY ALL").to_arrow_table().to_pylist()
    return [{name: Decimal(value) if isinstance(value, int) else value for name, value in row.items()} for row in rows]


def stored(folder: Path) -> dict[str, list[dict[str, Any]]]:
    with Reader.open(folder) as reader:
        assert not reader.warnings
        found = {}
        for table, columns in TABLES.items():
            rows = reader.sql(f"SELECT {columns} FROM {table} ORDER BY ALL").arrow().to_pylist()
            found[table] = [{name: Decimal(value) if isinstance(value, int) else value for name, value in row.items()} for row in rows]
        return found


@contextmanager
def polled(folder: Path) -> Iterator[list[list[str]]]:
    """Ask all tables in one query, again and again, each time at the newest cut."""
    seen: list[list[str]] = []
    over = threading.Event()

    def poll() -> None:
        try:
            with Reader.open(folder / "data") as reader:
                while not over.wait(0.02):  # a moment for those who change something
                    reader.refresh()
                    (row,) = reader.sql(QUESTION).arrow().to_pylist()
                    if not seen or seen[-1] != row["tags"]:
                        seen.append(row["tags"])
        except KappaError as error:
            seen.append([f"{error}"])

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(60)


def write(folder: Path, design: Design, topic: str) -> None:
    for name, text in design.files(topic).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.slow
@given(st.lists(designs(), min_size=2, max_size=3), st.integers(20, 120), st.integers(0, 60), st.integers(0, 2**32))
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],  # an example takes seconds: what it was is printed, and not made smaller
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_what_is_promoted_and_what_is_rolled_back(
    kafka, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, made: list[Design], count: int, late: int, seed: int
) -> None:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    chance = random.Random(seed)
    folder = tmp_path_factory.mktemp("changes")
    log = Log(f"random-{folder.name}", kafka.bootstrap, [])
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})  # kept: a collected client takes its answers with it
    admin.create_topics([NewTopic(log.topic, PARTITIONS, 1)])[log.topic].result(30)
    log.send([chance.randrange(1, 300) for _ in range(count)], chance)
    steps = [replace(design, version=version) for version, design in enumerate(made)]
    write(folder, steps[0], log.topic)
    kappa(folder, "run", "--until-caught-up")
    assert stored(folder) == expected(steps[0], log)
    with polled(folder) as seen:
        for design in steps[1:]:
            write(folder, design, log.topic)
            log.send([chance.randrange(1, 300) for _ in range(late)], chance)
            kappa(folder, "run", "--until-caught-up")
            assert stored(folder) == expected(steps[design.version - 1], log), "the folder changes nothing by itself"
            kappa(folder, "apply", "--yes")
            assert stored(folder) == expected(design, log)
        kappa(folder, "rollback", "--all")
        kappa(folder, "run", "--until-caught-up")
        assert stored(folder) == expected(steps[-2], log)
        log.send([chance.randrange(1, 300) for _ in range(late)], chance)
        kappa(folder, "run", "--until-caught-up")
        assert stored(folder) == expected(steps[-2], log)
        kappa(folder, "promote")
        assert stored(folder) == expected(steps[-1], log)
    assert all(tags in [[f"v{step.version}"] for step in steps] for tags in seen if tags), f"readers saw a mixture: {seen}"
    assert [tags for tags in seen if tags]
    assert not audit(folder, "--full")
