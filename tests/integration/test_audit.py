"""The audit of what a real run made of a real topic, sound and not."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from deltalake import DeltaTable, write_deltalake

from flows import dataflow
from flows.batch import Staged, Transformed
from flows.conform import Conform
from flows.errors import KappaError
from flows.stage import Stage
from infra.cli import cli
from sinks.files import Draft
from sinks.sink import TablePartition
from tests.warehouse import Warehouse, event, write_folder

pytestmark = pytest.mark.slow
Made = Staged | Transformed
Rows = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def topic(kafka, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """A topic with 500 events and, behind them, transactions; and a warehouse that a run has caught up."""
    folder = tmp_path_factory.mktemp("audit")
    made = Warehouse.make(folder, kafka.bootstrap, f"audit-{uuid.uuid4().hex[:8]}")
    made.produce(1, 500)
    made.kappa("run", "--until-caught-up")
    transactions(made)
    made.kappa("run", "--until-caught-up")
    return made


@pytest.fixture
def caught_up(topic: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A copy of it."""
    folder = shutil.copytree(topic.folder, tmp_path / "copy")
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", topic.bootstrap)
    return replace(topic, folder=folder)


@pytest.fixture
def fresh(topic: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A warehouse over the same topic that has not run yet."""
    write_folder(tmp_path, topic.topic, topic.partitions)
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", topic.bootstrap)
    return replace(topic, folder=tmp_path)


def kappa(warehouse: Warehouse, *arguments: str, status: int) -> str:
    """A command in this process; what it printed, and the error that it ended with."""
    done = CliRunner().invoke(cli, ["-C", str(warehouse.folder), *arguments], standalone_mode=False)
    if isinstance(done.exception, KappaError):
        assert done.exception.exit_status == status, done.exception
        return f"{done.stdout}{done.exception}"
    if done.exception is not None:
        raise done.exception
    assert (done.return_value or 0) == status, done.output
    return done.stdout


def audit(warehouse: Warehouse, *arguments: str, status: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kappa(warehouse, "audit", "--json", *arguments, status=status))
    return content


def findings(report: dict[str, Any]) -> dict[str, list[str]]:
    return {table["table"]: [f["what"] for f in table["findings"]] for table in report["tables"] if table["findings"]}


def test_what_runs_made_is_proved(caught_up: Warehouse) -> None:
    report = audit(caught_up, "--full", status=0)
    assert report["ok"]
    assert len(report["tables"]) == 11
    for table in report["tables"]:
        for proof in table["partitions"]:
            assert proof["log_records"] == proof["read"] == proof["written"] + proof["filtered"] + proof["rejected"]
            if table["table"].startswith("analytics."):  # whose rows have no positions
                continue
            assert proof["positions"] == proof["written"] or (table["table"] == "core.slot" and 0 < proof["positions"] < proof["written"])
            assert proof["compared_rows"] == proof["rows"]
            assert proof["commits"] == (2 if proof["partition"] == 0 else 1)
    raw = next(table for table in report["tables"] if table["table"] == "raw.events")
    assert sum(proof["rows"] for proof in raw["partitions"]) == 500 + 40
    assert raw["partitions"][0]["to"] > raw["partitions"][0]["read"]  # markers and aborted records have offsets as well
    text = kappa(caught_up, "audit", "core.event", status=0)
    assert "audited 2 tables, 4 partitions" in text
    assert text.count(" ok\n") == 2
    (event,) = (table["partitions"] for table in report["tables"] if table["table"] == "core.event")
    assert f"{caught_up.topic}, 2 partitions  read {sum(proof['read'] for proof in event)} = written " in text
    assert kappa(caught_up, "audit", "core.event", "--verbose", status=0).count(" ok\n") == 4


def transactions(warehouse: Warehouse) -> None:
    """Four committed transactions and four aborted ones."""
    producer = Producer({"bootstrap.servers": warehouse.bootstrap, "transactional.id": warehouse.topic})
    producer.init_transactions(30)
    for n in range(8):
        producer.begin_transaction()
        for number in range(10):
            producer.produce(warehouse.topic, event(1000 + 10 * n + number), partition=0)
        producer.flush(30)
        (producer.abort_transaction if n % 2 else producer.commit_transaction)(30)


def drop(made: Made) -> Made:
    """A row vanishes, and is called filtered so that the ledger still balances."""
    lost = made.rows.column("_offset").combine_chunks().slice(0, 1)
    return replace(made, rows=made.rows.slice(1), filtered=pa.concat_arrays([made.filtered, lost]))


def double(made: Made) -> Made:
    """A row is there twice."""
    return replace(made, rows=pa.concat_tables([made.rows.slice(0, 1), made.rows]))


def change(made: Made) -> Made:
    """A value of the last row is another one."""
    values = made.rows.column("id").to_pylist()
    values[-1] += 1
    return replace(made, rows=made.rows.set_column(0, made.rows.schema.field(0), pa.array(values, pa.int64())))


def once(method: Callable[..., Any], fault: Callable[[Any], Any]) -> Callable[..., Any]:
    """``method`` with ``fault`` applied to its first result that has rows."""
    done: list[bool] = []

    def faulty(*arguments: Any) -> Any:
        made = method(*arguments)
        if done or made.rows.num_rows == 0:
            return made
        done.append(True)
        return fault(made)

    return faulty


def write_once(table: str, fault: Rows) -> Callable[..., Any]:
    """``Draft.write`` with ``fault`` applied to the rows of one table's first piece."""
    method, done = Draft.write, []

    def faulty(self: Draft, rows: pa.Table) -> Any:
        if self._writer.address.name == table and not done:
            done.append(True)
            rows = fault(rows)
        return method(self, rows)

    return faulty


@pytest.mark.parametrize("fault", [drop, double, change])
@pytest.mark.parametrize(("owner", "method"), [(Stage, "stage"), (Conform, "conform")])
def test_a_fault_in_decode_or_transform_is_found(fresh: Warehouse, owner: type, method: str, fault: Callable[[Made], Made]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, once(getattr(owner, method), fault))
        patch.setattr(dataflow, "check_staged", lambda table, staged, batch: None)  # the run's own guards
        patch.setattr(TablePartition, "_check_rows", lambda self, files: None)
        kappa(fresh, "run", "--until-caught-up", status=0)
    assert findings(audit(fresh, "--full", status=1))


@pytest.mark.parametrize("table", ["raw.events", "core.tag"])
@pytest.mark.parametrize(
    "fault", [lambda rows: rows.slice(1), lambda rows: pa.concat_tables([rows.slice(0, 1), rows])], ids=["drop", "double"]
)
def test_a_fault_in_the_sink_is_found(fresh: Warehouse, table: str, fault: Rows) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draft, "write", write_once(table, fault))
        patch.setattr(TablePartition, "_check_rows", lambda self, files: None)
        kappa(fresh, "run", "--until-caught-up", status=0)
    arguments = ["--full"] if table == "core.tag" else []  # only --full knows how many rows a record gives
    assert list(findings(audit(fresh, *arguments, status=1))) == [table]


def rewrite(warehouse: Warehouse, table: str, change: Rows) -> None:
    """Change a live data file in place, behind Delta's back."""
    uri = warehouse.folder / "data" / warehouse.catalogue()["tables"][table]["path"]
    (file, *_) = sorted(DeltaTable(str(uri)).file_uris())
    rows = pq.ParquetFile(file).read()
    pq.write_table(change(rows), file)


def set_value(rows: pa.Table, name: str, value: object) -> pa.Table:
    values = rows.column(name).to_pylist()
    values[1] = value
    index = rows.schema.get_field_index(name)
    return rows.set_column(index, rows.schema.field(index), pa.array(values, rows.schema.field(index).type))


@pytest.mark.parametrize(
    ("table", "change", "full", "expected"),
    [
        ("staging.events", lambda rows: rows.slice(1), False, "distinct positions"),
        ("staging.events", lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]), False, "twice"),
        ("core.tag", lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]), False, "twice"),
        ("core.event", lambda rows: set_value(rows, "_offset", 10_000_000), False, "outside of the committed range"),
        ("core.event", lambda rows: set_value(rows, "_partition", 7), False, "does not know"),
        ("core.event", lambda rows: set_value(rows, "kind", "other"), True, "in kind"),
        ("core.slot", lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]), False, "has 2 rows"),
        ("core.slot", lambda rows: set_value(rows, "_deleted", value=True), False, "tombstones, and the ledger says"),
        ("core.slot", lambda rows: set_value(rows, "_offset", 10_000_000), False, "outside of the committed range"),
        ("core.slot", lambda rows: rows.slice(1), True, "rows are missing that the log gives"),
        ("core.slot", lambda rows: set_value(rows, "_offset", 0), True, "rows are missing that the log gives"),
        ("core.slot", lambda rows: set_value(rows, "id", -5), True, "in id"),
        ("analytics.tally", lambda rows: rows.slice(1), True, "1 groups are missing that its upstream gives"),
        ("analytics.tally", lambda rows: set_value(rows, "events", 7), True, "1 groups differ from what its upstream gives, in events"),
        ("analytics.tally", lambda rows: set_value(rows, "top", 7), True, "1 groups differ from what its upstream gives, in top"),
        ("analytics.corner", lambda rows: rows.slice(1), True, "1 groups are missing that its upstream gives"),
        ("analytics.corner", lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]), False, "has 2 rows"),
        ("analytics.corner", lambda rows: set_value(rows, "kind", "other"), True, "groups are there that its upstream does not give"),
        ("analytics.corner", lambda rows: set_value(rows, "top", 5_000_000), True, "1 groups differ from what its upstream gives, in top"),
        ("analytics.corner", lambda rows: set_value(rows, "mean", 0.25), True, "1 groups differ from what its upstream gives, in mean"),
        ("raw.events", lambda rows: set_value(rows, "value", b"{}"), True, "in value"),
        ("staging.events__rejected", lambda rows: set_value(rows, "reason", "none"), True, "in reason"),
    ],
)
def test_an_altered_file_is_found(caught_up: Warehouse, table: str, change: Rows, full: bool, expected: str) -> None:
    rewrite(caught_up, table, change)
    found = findings(audit(caught_up, *(["--full"] if full else []), status=1))
    summaries = {"core.slot": {"analytics.corner"}, "core.event": {"analytics.tally"}}
    derived = summaries.get(table, set())  # they are other functions of an altered table
    assert {table} <= set(found) <= {table} | derived
    assert any(expected in what for what in found[table]), found


def test_a_finding_names_positions_and_the_next_command(caught_up: Warehouse) -> None:
    rewrite(caught_up, "staging.events", lambda rows: pa.concat_tables([rows, rows.slice(5, 1)]))
    text = kappa(caught_up, "audit", "staging.events", status=1)
    assert f"FINDING staging.events {caught_up.topic}/0: 1 rows are there twice" in text
    assert f"for example: {caught_up.topic}/0/" in text
    assert "next: kappa replay staging.events" in text
    assert "1 finding" in text


@pytest.mark.parametrize("full", [False, True])
def test_a_lost_or_damaged_table_is_a_finding_and_the_others_are_proved(caught_up: Warehouse, full: bool) -> None:
    tables = caught_up.catalogue()["tables"]
    shutil.rmtree(caught_up.folder / "data" / tables["core.tag"]["path"])
    for file in (caught_up.folder / "data" / tables["staging.events"]["path"]).glob("*.parquet"):
        file.write_bytes(file.read_bytes()[:500])
    found = findings(audit(caught_up, *(["--full"] if full else []), status=1))
    assert set(found) == {"core.tag", "staging.events"}
    assert all(what.startswith("it cannot be read: ") for each in found.values() for what in each)
    assert "build the table anew: kappa replay core.tag" in kappa(caught_up, "show", "core.tag", status=1)


def test_a_damaged_commit_is_a_finding_and_the_others_are_proved(caught_up: Warehouse) -> None:
    tables = caught_up.catalogue()["tables"]
    for name in ("core.tag", "raw.events"):
        max((caught_up.folder / "data" / tables[name]["path"] / "_delta_log").glob("*.json")).write_bytes(b"{")
    found = findings(audit(caught_up, status=1))
    assert set(found) == {"core.tag", "raw.events"}
    assert all(what.startswith("it cannot be read: ") for each in found.values() for what in each)
    said = [line.split() for line in kappa(caught_up, "audit", status=1).splitlines()]
    assert ["core.tag", "cannot", "be", "read"] in said
    listed = {table["name"]: table for table in json.loads(kappa(caught_up, "tables", "--json", status=0))["tables"]}
    assert (listed["core.tag"]["state"], listed["core.tag"]["rows"]) == ("unreadable", None)
    assert (listed["core.event"]["state"], listed["core.event"]["lag_records"]) == ("live", 0)
    text = kappa(caught_up, "tables", status=0)
    assert "core.tag cannot be read: its Delta log cannot be used" in text
    assert "kappa replay core.tag" in text


def test_another_programs_append_is_found(caught_up: Warehouse) -> None:
    uri = str(caught_up.folder / "data" / caught_up.catalogue()["tables"]["core.event"]["path"])
    rows = pa.table(DeltaTable(uri).to_pyarrow_table()).slice(0, 1)
    write_deltalake(uri, rows, mode="append")
    found = findings(audit(caught_up, status=1))
    assert any("written by another program" in what for what in found["core.event"])
    assert any("twice" in what for what in found["core.event"])


@pytest.fixture
def own(kafka, tmp_path: Path, topic_name: str, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A warehouse with a topic of its own, caught up, for tests that harm the topic."""
    made = Warehouse.make(tmp_path, kafka.bootstrap, topic_name)
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made.produce(1, 500)
    kappa(made, "run", "--until-caught-up", status=0)
    return made


def test_a_topic_made_again_is_found(own: Warehouse) -> None:
    admin = AdminClient({"bootstrap.servers": own.bootstrap})
    admin.delete_topics([own.topic])[own.topic].result(30)
    found = findings(audit(own, status=1))
    assert all("cannot be read" in what for whats in found.values() for what in whats)
    assert f"lag is unknown: topic {own.topic} does not exist" in kappa(own, "tables", status=0)
    make(admin, own.topic)
    own.produce(1, 700)  # beyond the old offsets: it looks normal
    found = findings(audit(own, status=1))
    assert len(found) == 11
    assert all("not the one that it was built from" in what for whats in found.values() for what in whats)
    assert f"lag is unknown: topic {own.topic} was made again" in kappa(own, "tables", status=0)


def make(admin: AdminClient, topic: str) -> None:
    """A topic is deleted in the background: making it again may have to wait."""
    for _ in range(50):
        try:
            admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(30)
            return
        except KafkaException:
            time.sleep(0.2)
    raise AssertionError(topic)


def test_what_the_topic_has_lost_comes_from_raw(own: Warehouse) -> None:
    admin = AdminClient({"bootstrap.servers": own.bootstrap})
    place = TopicPartition(own.topic, 0, 100)
    admin.delete_records([place])[place].result(30)
    report = audit(own, "--full", status=0)
    proof = next(t for t in report["tables"] if t["table"] == "core.event")["partitions"][0]
    assert proof["log_records"] == proof["read"]
    raw = next(t for t in report["tables"] if t["table"] == "raw.events")["partitions"][0]
    assert raw["compared_rows"] == raw["rows"] - 100
    assert "no longer holds" in raw["notes"][0]


def test_lag_is_what_the_tables_have_not_read(own: Warehouse) -> None:
    own.produce(501, 11)
    tables = json.loads(kappa(own, "tables", "--json", status=0))["tables"]
    assert {table["lag_records"] for table in tables} == {11}
    kappa(own, "run", "core.event", "--until-caught-up", status=0)
    lags = {table["name"]: table["lag_records"] for table in json.loads(kappa(own, "tables", "--json", status=0))["tables"]}
    assert (lags["core.event"], lags["core.tag"]) == (0, 11)


def test_wrong_names(caught_up: Warehouse) -> None:
    assert "did you mean core.event" in kappa(caught_up, "audit", "core.evnt", status=2)
    assert "is a view" in kappa(caught_up, "audit", "analytics.by_kind", status=2)
    assert "audited 11 tables" in kappa(caught_up, "audit", "events", status=0)
