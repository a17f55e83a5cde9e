"""The log changes under the tables: every change that breaks the promise stops the run, commits nothing, and says where and what next."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from tests.inprocess import Running, audit, committed, kappa, wait_until
from tests.warehouse import Warehouse, at_work, event

pytestmark = pytest.mark.slow
QUICK = "[run]\ncommit_interval_s = 0.1\n"


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """300 events, none of them in a table yet."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings=QUICK)
    made.produce(1, 300)
    return made


@pytest.fixture
def admin(kafka) -> AdminClient:
    return AdminClient({**kafka.config, "log_level": "2"})


def caught_up(warehouse: Warehouse) -> None:
    kappa(warehouse.folder, "run", "--until-caught-up")


def proved(warehouse: Warehouse) -> None:
    warehouse.check_independently()
    assert not audit(warehouse.folder, "--full")


def make_again(warehouse: Warehouse, admin: AdminClient, records: int) -> None:
    """Delete the topic, make it again, and fill it beyond the old offsets with other events."""
    admin.delete_topics([warehouse.topic])[warehouse.topic].result(30)
    give_up = time.monotonic() + 30
    while True:
        try:
            admin.create_topics([NewTopic(warehouse.topic, warehouse.partitions, 1)])[warehouse.topic].result(30)
            break
        except KafkaException:  # it is deleted in the background
            assert time.monotonic() < give_up
            time.sleep(0.1)
    warehouse.produce(1001, records)


def names_positions(said: str, warehouse: Warehouse) -> bool:
    return f"{warehouse.topic}/0/150, {warehouse.topic}/1/150" in said


def test_a_topic_made_again_between_runs(warehouse: Warehouse, admin: AdminClient) -> None:
    caught_up(warehouse)
    before = warehouse.rows("core.event")
    make_again(warehouse, admin, 800)
    said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert "is not the one that" in said
    assert names_positions(said, warehouse)
    assert "kappa replay --accept-lost" in said
    assert warehouse.rows("core.event") == before
    refused = kappa(warehouse.folder, "replay", "events", status=1)
    assert f"{warehouse.topic}/0/0..150" in refused
    assert warehouse.rows("core.event") == before
    kappa(warehouse.folder, "replay", "--accept-lost", "events")
    assert committed(warehouse.folder) == 800
    proved(warehouse)


def test_a_topic_made_again_under_a_run(warehouse: Warehouse, admin: AdminClient) -> None:
    """A live consumer crosses it without an error of its own."""
    with at_work(warehouse.start("run")) as process:
        wait_until(lambda: committed(warehouse.folder, "core.event") == 300 or process.poll() is not None)
        before = warehouse.rows("core.event")
        make_again(warehouse, admin, 800)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert f"topic {warehouse.topic} is" in said
    assert names_positions(said, warehouse)
    assert "kappa replay --accept-lost" in said
    assert committed(warehouse.folder) == 300
    assert warehouse.rows("core.event") == before


def test_a_replay_that_was_begun_on_another_topic_is_begun_anew(warehouse: Warehouse, admin: AdminClient) -> None:
    caught_up(warehouse)
    killed = warehouse.kappa("replay", "events", status=None, KAPPA_FAULT="after-commit:3")
    assert killed.returncode == -signal.SIGKILL
    make_again(warehouse, admin, 800)
    kappa(warehouse.folder, "replay", "--accept-lost", "events")
    assert committed(warehouse.folder) == 800
    proved(warehouse)


@pytest.mark.parametrize("command", [("run", "--until-caught-up"), ("replay", "events"), ("replay", "--accept-lost", "events")])
def test_a_topic_that_is_gone(warehouse: Warehouse, admin: AdminClient, command: tuple[str, ...]) -> None:
    """It is not made again behind the user's back."""
    caught_up(warehouse)
    admin.delete_topics([warehouse.topic])[warehouse.topic].result(30)
    said = kappa(warehouse.folder, *command, status=1)
    assert f"topic {warehouse.topic} is gone" in said
    assert names_positions(said, warehouse)
    assert warehouse.topic not in admin.list_topics(timeout=10).topics


def test_offsets_lost_below_the_tables_positions_do_not_matter(warehouse: Warehouse, admin: AdminClient) -> None:
    caught_up(warehouse)
    lose(warehouse, admin, 100)
    warehouse.produce(301, 50)
    caught_up(warehouse)
    assert not audit(warehouse.folder, "--full")
    assert committed(warehouse.folder) == 350


def test_offsets_lost_above_the_tables_positions(warehouse: Warehouse, admin: AdminClient) -> None:
    caught_up(warehouse)
    before = warehouse.rows("core.event")
    warehouse.produce(301, 100)
    lose(warehouse, admin, 170)
    said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert f"read up to {warehouse.topic}/0/150" in said
    assert "offsets 150 to 169" in said
    assert "kappa replay --accept-lost" in said
    assert warehouse.rows("core.event") == before
    refused = kappa(warehouse.folder, "replay", "events", status=1)
    assert f"{warehouse.topic}/0/0..150" in refused
    said = kappa(warehouse.folder, "replay", "--accept-lost", "events")
    assert f"{warehouse.topic}/0 begins at offset 170" in said
    caught_up(warehouse)
    proved(warehouse)


def test_a_new_table_says_where_its_log_begins(warehouse: Warehouse, admin: AdminClient) -> None:
    """Only a new one, and only where that is not the beginning."""
    lose(warehouse, admin, 100)
    said = kappa(warehouse.folder, "run", "core.tag", "--until-caught-up")
    assert f"{warehouse.topic}/0 begins at offset 100: what was before is not in the new core.tag, core.tag__rejected\n" in said
    said = kappa(warehouse.folder, "run", "--until-caught-up")
    (notice,) = [line for line in said.splitlines() if "begins at offset" in line]
    new = notice.partition("is not in the new ")[2].split(", ")
    summaries = {"analytics.corner", "analytics.tally"}  # which read tables, not the log
    assert set(new) == set(warehouse.catalogue()["tables"]) - {"core.tag", "core.tag__rejected"} - summaries
    assert "begins at offset" not in kappa(warehouse.folder, "run", "--until-caught-up")
    proved(warehouse)


def lose(warehouse: Warehouse, admin: AdminClient, below: int) -> None:
    """As retention does."""
    place = TopicPartition(warehouse.topic, 0, below)
    admin.delete_records([place])[place].result(30)


def test_a_partition_added_between_runs(warehouse: Warehouse, admin: AdminClient) -> None:
    caught_up(warehouse)
    before = warehouse.rows("core.event")
    add_partition(warehouse, admin)
    warehouse.produce(301, 100)
    said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert "added [2]" in said
    assert names_positions(said, warehouse)
    assert "kappa replay" in said
    assert warehouse.rows("core.event") == before
    kappa(warehouse.folder, "replay", "events")
    caught_up(warehouse)
    assert committed(warehouse.folder) == 400
    proved(warehouse)


def test_a_partition_added_under_a_run(warehouse: Warehouse, admin: AdminClient) -> None:
    with Running(warehouse.folder) as run:
        wait_until(lambda: committed(warehouse.folder, "core.event") == 300)
        add_partition(warehouse, admin)
        warehouse.produce(301, 100)
        run.join()
    assert "added [2]" in str(run.fatal)
    assert names_positions(str(run.fatal), warehouse)
    assert committed(warehouse.folder) == 300


def add_partition(warehouse: Warehouse, admin: AdminClient) -> None:
    admin.create_partitions([NewPartitions(warehouse.topic, 3)])[warehouse.topic].result(30)
    warehouse.partitions = 3
    wait_until(lambda: len(admin.list_topics(warehouse.topic, 10).topics[warehouse.topic].partitions) == 3)


def test_transactions_open_and_aborted(warehouse: Warehouse) -> None:
    """Until caught up ends at the last stable offset; what lies behind an open transaction comes with a later run."""
    producer = Producer({"bootstrap.servers": warehouse.bootstrap, "transactional.id": warehouse.topic, "log_level": 2})
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        send(warehouse, producer, 1000 + 10 * number)
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(30)
    producer.begin_transaction()
    send(warehouse, producer, 2000)
    warehouse.produce(3000, 40)  # behind it, in both partitions
    caught_up(warehouse)
    assert committed(warehouse.folder) == 300 + 30 + 20  # partition 1 has no transaction
    proved(warehouse)
    producer.commit_transaction(30)
    caught_up(warehouse)
    assert committed(warehouse.folder) == 300 + 30 + 40 + 10
    proved(warehouse)
    producer.begin_transaction()
    send(warehouse, producer, 4000)
    producer.abort_transaction(30)
    caught_up(warehouse)
    assert committed(warehouse.folder) == 300 + 30 + 40 + 10
    proved(warehouse)


def send(warehouse: Warehouse, producer: Producer, first: int) -> None:
    for number in range(first, first + 10):
        producer.produce(warehouse.topic, event(number), partition=0)
    assert producer.flush(30) == 0


def test_what_retention_took_is_replayed_from_the_raw_table(warehouse: Warehouse, admin: AdminClient) -> None:
    """Every table built anew equals the one that was built from the whole topic; a new one has the whole history, too."""
    caught_up(warehouse)
    lose(warehouse, admin, 100)
    warehouse.produce(301, 50)
    caught_up(warehouse)
    kappa(warehouse.folder, "maintain")
    said = kappa(warehouse.folder, "replay", "events", "--no-promote")
    assert f"{warehouse.topic}/0 begins at offset 100: what was before, from 0, is read from raw.events" in said
    for table in warehouse.catalogue()["tables"]:
        kappa(warehouse.folder, "diff", table)  # exit status 0: equal
    kappa(warehouse.folder, "promote")
    (warehouse.folder / "core/late.sql").write_text('/* kind = "append" */ SELECT id FROM staging.events')
    caught_up(warehouse)
    assert len(warehouse.rows("core.late")) == len(warehouse.rows("staging.events"))
    assert not audit(warehouse.folder, "--full")


def test_a_gap_between_topic_and_raw_table_is_named(warehouse: Warehouse, admin: AdminClient) -> None:
    """Raw was switched off while records came that the topic lost before it was on again."""
    source = warehouse.folder / "sources/events.toml"
    text = source.read_text()
    caught_up(warehouse)
    source.write_text(f"raw = false\n{text}")
    warehouse.produce(301, 100)
    caught_up(warehouse)
    lose(warehouse, admin, 180)
    warehouse.produce(401, 50)
    caught_up(warehouse)
    said = kappa(warehouse.folder, "replay", "core.event", status=1)
    assert f"{warehouse.topic}/0/0..180" in said
    assert "neither the topic nor a raw table has" in said
    source.write_text(text)
    kappa(warehouse.folder, "replay", "raw.events", "--accept-lost")
    (warehouse.folder / "core/event.sql").write_text((warehouse.folder / "core/event.sql").read_text().replace("upper", "lower"))
    said = kappa(warehouse.folder, "apply", "--yes", status=1)
    assert f"{warehouse.topic}/0/0..180" in said


def test_raw_switched_off_and_on_without_a_loss_is_whole(warehouse: Warehouse, admin: AdminClient) -> None:
    source = warehouse.folder / "sources/events.toml"
    text = source.read_text()
    caught_up(warehouse)
    source.write_text(f"raw = false\n{text}")
    warehouse.produce(301, 100)
    caught_up(warehouse)
    source.write_text(text)
    caught_up(warehouse)
    lose(warehouse, admin, 180)
    kappa(warehouse.folder, "replay", "core.event", "--no-promote")
    kappa(warehouse.folder, "diff", "core.event")
    kappa(warehouse.folder, "promote")
    assert not audit(warehouse.folder, "--full")
