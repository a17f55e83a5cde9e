"""Random events on a real Kafka, read by real runs: the tables equal what DuckDB makes of the same records, and those of another run
that commits elsewhere, with another number of workers (DESIGN invariants I1, I5)."""

from __future__ import annotations

import tempfile
import uuid
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from confluent_kafka import Producer
from deltalake import DeltaTable
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.oracle import BAD, Value, check_tables, good
from tests.warehouse import Warehouse, write_folder

pytestmark = pytest.mark.slow
SUMMARIES = ("analytics.corner", "analytics.tally")
TABLES = ("raw.events", "staging.events", "staging.events__rejected", "core.event", "core.tag", "core.slot", *SUMMARIES)
TALLY = "SELECT kind, count(*), sum(twice), avg(id), arg_max(id, twice ORDER BY _partition, _offset) FROM event GROUP BY kind"
SETTINGS = "[run]\nworkers = {}\ncommit_rows = {}\nbatch_rows = {}\n"


def produce(bootstrap: str, topic: str, log: list[tuple[int, Value]], *, commit: bool) -> list[int]:
    """Send the records in one transaction. Returns their offsets."""
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": uuid.uuid4().hex})
    producer.init_transactions()
    producer.begin_transaction()
    offsets = [0] * len(log)
    for index, (partition, value) in enumerate(log):

        def delivered(error, message, index=index):
            assert error is None
            offsets[index] = message.offset()

        producer.produce(topic, value.data, key=b"%d" % index, partition=partition, on_delivery=delivered)
    producer.flush()
    producer.commit_transaction() if commit else producer.abort_transaction()
    return offsets


def read(warehouse: Warehouse, table: str) -> pa.Table:
    return DeltaTable(str(warehouse.folder / "data" / warehouse.catalogue()["tables"][table]["path"])).to_pyarrow_table()


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])  # a run takes too long to shrink
@given(data=st.data(), partitions=st.integers(1, 8))
def test_tables_equal_the_oracle_and_those_of_another_run(kafka, data, partitions):
    topic = f"random-{uuid.uuid4().hex[:12]}"
    event = st.tuples(st.integers(0, partitions - 1), good() | BAD)
    sizes = st.tuples(st.integers(1, 40), st.integers(1, 20))
    with tempfile.TemporaryDirectory() as folder:
        one = Warehouse.make(Path(folder) / "one", kafka.bootstrap, topic, partitions, SETTINGS.format(1, *data.draw(sizes)))
        log = []
        for _ in range(2):  # a run goes on where the one before it ended
            sent = data.draw(st.lists(event, min_size=1, max_size=60))
            offsets = produce(kafka.bootstrap, topic, sent, commit=True)
            log += [((partition, offset), value) for (partition, value), offset in zip(sent, offsets, strict=True)]
            produce(kafka.bootstrap, topic, data.draw(st.lists(event, max_size=5)), commit=False)
            one.kappa("run", "--until-caught-up")
        other = replace(one, folder=Path(folder) / "other")
        write_folder(other.folder, topic, partitions, SETTINGS.format(2, *data.draw(sizes)))
        other.kappa("run", "--until-caught-up")
        check_tables(lambda table: read(one, table), log)
        event = read(one, "core.event")
        tallied = [tuple(row.values())[:5] for row in read(one, "analytics.tally").to_pylist()]
        assert sorted(map(repr, tallied)) == sorted(map(repr, duckdb.sql(TALLY).fetchall()))
        for table in TABLES:
            assert one.rows(table) == other.rows(table), table
