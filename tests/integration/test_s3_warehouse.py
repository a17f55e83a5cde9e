"""A whole warehouse with its storage root on S3: real Kafka, every command, upsert tables and summaries, and SIGKILL."""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from flows.objects import parse_url
from sinks import Warehouse as Reader
from tests.faults.owner_worker import ROWS
from tests.faults.test_owner_kill import COMMITS, ENDLESS, check, start
from tests.inprocess import audit, committed, kappa
from tests.owned import TOPIC, address, claim
from tests.s3 import ACCESS, SECRET, S3Server, servers
from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow
EVENTS = 400
SETTINGS = "[run]\ncommit_rows = 100000\ncommit_interval_s = 60\n[maintenance]\ncompact_files = 1000\nretention_s = 0\n"


@dataclass
class Stored(Warehouse):
    """The check reads the bucket with boto3 and deltalake alone."""

    bucket: str = ""
    server: S3Server | None = None

    def catalogue(self) -> dict[str, Any]:
        assert self.server is not None
        client = self.server.client()
        keys = [found["Key"] for found in client.list_objects_v2(Bucket=self.bucket, Prefix="flights/_kappa/catalog/")["Contents"]]
        content: dict[str, Any] = json.loads(client.get_object(Bucket=self.bucket, Key=max(keys))["Body"].read())
        return content

    def objects(self) -> set[str]:
        """The keys of all that is below the tables."""
        assert self.server is not None
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {found["Key"] for page in pages for found in page["Contents"] if not found["Key"].startswith("flights/_kappa/")}

    def delta(self, path: str) -> DeltaTable:
        assert self.server is not None
        return DeltaTable(f"s3://{self.bucket}/flights/{path}", storage_options={**self.server.environment, "AWS_ALLOW_HTTP": "true"})


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Stored:
    """Its storage root is named as the documentation says: in the environment."""
    monkeypatch.setenv("KAPPA_STORAGE", f"{s3}/flights")
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    made = Stored.make(tmp_path, kafka.bootstrap, topic_name, settings=SETTINGS)
    made.bucket, made.server = parse_url(s3).bucket, s3_server
    return made


@pytest.mark.parametrize("s3_server", servers()[-1:], indirect=True)  # moto takes three times as long
def test_a_warehouse_on_a_bucket(warehouse: Stored, s3: str) -> None:
    """Upsert tables and summaries too; the check shares no code with kappa."""
    folder, said = warehouse.folder, ""
    for first in (1, 201):
        warehouse.produce(first, 200)
        said += kappa(folder, "run", "--until-caught-up")
    assert committed(folder) == EVENTS
    assert not (folder / "data").exists()
    warehouse.check_independently()
    assert not audit(folder, "--full")
    said += check_reading(folder, s3)
    said += kappa(folder, "replay", "analytics.corner")
    check_maintaining(warehouse)
    source = folder / "sources/events.toml"
    source.write_text(source.read_text().replace('kind = "varchar"', 'kind = "varchar"\nnote = "varchar"'))
    assert "core.slot keeps the " in kappa(folder, "apply", "--yes", "--forward-only")
    warehouse.produce(EVENTS + 1, 50)
    kappa(folder, "run", "--until-caught-up")
    warehouse.check_independently()
    assert not audit(folder, "--full")
    assert SECRET not in said
    assert ACCESS not in said


def check_reading(folder: Path, s3: str) -> str:
    """Returns what the commands said."""
    answer = json.loads(kappa(folder, "query", "SELECT sum(events) AS n FROM analytics.by_kind", "--format", "json"))
    with Reader.open(folder) as reader, Reader.open(f"{s3}/flights") as direct:
        assert not reader.warnings
        rows = reader.sql("SELECT count(*) AS n FROM core.event").arrow().to_pylist()
        assert rows == direct.sql("SELECT count(*) AS n FROM core.event").arrow().to_pylist()
    assert rows == [{"n": int(answer[0]["n"])}]
    tables = {table["name"]: table for table in json.loads(kappa(folder, "tables", "--json"))["tables"]}
    assert tables["raw.events"]["rows"] == EVENTS
    assert {table["state"] for table in tables.values() if table["kind"] != "view"} == {"live"}
    return kappa(folder, "show", "core.event") + kappa(folder, "rejects", "events")


def check_maintaining(warehouse: Stored) -> None:
    """Compaction, checkpoints, vacuum and log cleanup; a dry run says the same and changes nothing."""
    names = ("core.event", "core.slot", "analytics.corner")

    def maintain(*options: str) -> dict[str, Any]:
        text = kappa(warehouse.folder, "maintain", "--take-over", "--json", *options, *names)
        return {table["table"]: table for table in json.loads(text)["tables"]}

    before = warehouse.objects()
    dry = maintain("--dry-run")
    assert warehouse.objects() == before
    done = maintain()
    for tables in (dry, done):
        assert tables["core.event"]["compaction"]["replaced"]["files"] == 2
        assert tables["core.slot"]["removed"]["files"] > 0
        assert tables["core.slot"]["removed"]["bytes"] > 0
        assert not any(table["error"] for table in tables.values())
    left, catalogue = warehouse.objects(), warehouse.catalogue()["tables"]
    for name in names:
        path = f"flights/{catalogue[name]['path']}/"
        mine = {key.removeprefix(path) for key in left if key.startswith(path)}
        live = {uri.partition(path)[2] for uri in warehouse.delta(catalogue[name]["path"]).file_uris()}
        assert {key for key in mine if not key.startswith("_delta_log/")} == live
        assert any(key.endswith(".checkpoint.parquet") for key in mine)


@pytest.mark.parametrize("fault", ["files-written:3", "before-commit:3", "after-commit:2", "during-compaction:1"])
def test_a_kill_at_a_named_point_loses_and_doubles_nothing(s3: str, fault: str) -> None:
    assert start(s3, fault, commits=ENDLESS).wait() == -signal.SIGKILL
    done = claim(address(s3)).positions.get((TOPIC, 0), 0) // ROWS
    more = done + COMMITS // 4
    assert start(s3, commits=more).wait() == 0
    check(s3, more)
