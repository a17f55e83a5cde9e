"""``kappa tables``, ``show`` and ``rejects`` without Kafka, and the contract of docs/json.md."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from flows.batch import Failure
from flows.errors import UsageError
from flows.fingerprint import definitions
from flows.plan import analyse
from flows.project import load_project
from infra.audit.audit import Audit
from infra.cli import cli
from infra.cli.audit import to_json
from infra.cli.display import age, shorten, size
from tests.stored import Root
from tests.warehouse import write_folder

BY_DATA = ("positions", "ledger", "warned", "definition", "tables", "left_out", "added", "dropped", "samples[]", "row")
DOCS = Path(__file__).parents[2] / "docs/json.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose tables were committed by the real owner, with the fingerprints of their definitions."""
    folder = tmp_path_factory.mktemp("listings")
    write_folder(folder, "t")
    project = load_project(folder)
    plan = analyse(project)
    root = Root(folder / "data")
    for name, definition in definitions(project, plan).items():
        root.table(name, definition.schema, definition.partition_by, definition.fingerprint, definition.json)
    root.tables["staging.events"].commit({0: (0, 20, range(16))}, rejected=4, warned={"odd": 2})
    root.tables["staging.events__rejected"].commit({0: (0, 20, range(16, 20))}, filtered=16)
    root.tables["core.event"].commit({0: (0, 20, range(0, 16, 2))}, filtered=8, rejected=4)
    root.tables["core.tag"].owner.fail(Failure("core.tag", "rule broken", ("t/0/0..20",), "kappa run"))
    root.view("analytics.by_kind", plan.views["analytics.by_kind"].sql)
    return folder


def kappa(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(cli, ["-C", str(folder), *arguments], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def answer(folder: Path, *arguments: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(kappa(folder, *arguments, "--json"))
    return content


def example(command: str) -> Any:
    section = DOCS.read_text().split(f"## {command}\n", 1)[1]
    match = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def same_shape(documented: Any, printed: Any, where: str = "") -> None:
    """Names and types; null fits anything; members of maps that are named by data are compared by one of them."""
    if documented is None or printed is None:
        return
    assert type(documented) is type(printed), where
    if isinstance(documented, dict):
        if where.endswith(BY_DATA):
            if documented and printed and not where.endswith("definition"):
                same_shape(next(iter(documented.values())), next(iter(printed.values())), f"{where}.*")
            return
        assert list(documented) == list(printed), where
        for name in documented:
            same_shape(documented[name], printed[name], f"{where}.{name}")
    if isinstance(documented, list) and documented and printed:
        same_shape(documented[0], printed[0], f"{where}[]")


def test_tables(folder: Path) -> None:
    report = answer(folder, "tables")
    by_name = {table["name"]: table for table in report["tables"]}
    assert by_name["staging.events"]["rows"] == 16
    assert by_name["staging.events"]["positions"] == {"t/0": 20}
    assert by_name["staging.events"]["lag_records"] is None
    assert by_name["core.tag"]["state"] == "failed"
    assert by_name["core.tag"]["failure"]["cause"] == "rule broken"
    assert by_name["core.tag"]["last_commit"] is None
    failed_first = {**report, "tables": sorted(report["tables"], key=lambda table: table["state"])}
    same_shape(example("kappa tables --json"), failed_first)
    text = kappa(folder, "tables")
    assert re.search(r"staging\.events +append +16 +\S+ kB +1 +unknown +\d+ \S+ ago +live", text)
    assert "core.tag failed: rule broken" in text
    assert "next: kappa run" in text
    assert "lag is unknown: Kafka is not running" in text


def test_empty_tables_of_rejects_are_listed_on_demand(folder: Path) -> None:
    text, every = kappa(folder, "tables"), kappa(folder, "tables", "--all")
    empty = ["core.event__rejected", "core.slot__rejected", "core.tag__rejected"]
    assert [name in text for name in empty] == [False] * 3
    assert [name in every for name in empty] == [True] * 3
    assert "staging.events__rejected" in text
    assert "3 empty tables of rejects not shown" in text
    assert "not shown" not in every
    assert {*empty, "staging.events__rejected"} <= {table["name"] for table in answer(folder, "tables")["tables"]}


def test_show(folder: Path) -> None:
    it = answer(folder, "show", "staging.events")
    same_shape(example("kappa show TABLE --json"), it)
    assert it["reads"] == ["topic t"]
    assert it["read_by"] == ["core.event", "core.slot", "core.tag"]
    assert it["warned"] == {"odd": 2}
    assert it["ledger"]["t/0"] == {"from": 0, "to": 20, "read": 20, "written": 16, "filtered": 0, "rejected": 4}
    it = answer(folder, "show", "core.event")
    same_shape(example("kappa show TABLE --json"), it)
    assert {"name": "twice", "type": "decimal(18,2)", "from": ["staging.events.amount"]} in it["columns"]
    text = kappa(folder, "show", "core.event")
    assert "read by: analytics.by_kind" in text
    assert re.search(r"t/0 +0 +20 +20 +8 +8 +4", text)


def test_show_a_view(folder: Path) -> None:
    it = answer(folder, "show", "analytics.by_kind")
    same_shape(example("kappa show TABLE --json"), it)
    assert it["reads"] == ["core.event"]
    assert it["status"] is None
    assert "count_star" in kappa(folder, "show", "analytics.by_kind")


def test_show_an_unknown_table(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean core\.event"):
        kappa(folder, "show", "core.evnt")


def test_show_says_when_the_folder_has_changed(folder: Path) -> None:
    file = folder / "core/event.sql"
    before = file.read_text()
    try:
        file.write_text(before.replace("% 5", "% 7"))
        notes = answer(folder, "show", "core.event")["notes"]
    finally:
        file.write_text(before)
    assert any("kappa plan" in note for note in notes)


def test_rejects(folder: Path, tmp_path: Path) -> None:
    report = answer(folder, "rejects", "events", "--limit", "2")
    same_shape(example("kappa rejects SOURCE --json"), report)
    assert report["total"] == 4
    assert [one["position"] for one in report["examples"]] == ["t/0/19", "t/0/18"]
    assert report["examples"][0]["reason"] == "reason 19"
    assert answer(folder, "rejects", "events", "--code", "code 17")["total"] == 1
    assert answer(folder, "rejects", "events", "--code", "it's")["total"] == 0
    for suffix, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv)):
        file = tmp_path / f"rejects{suffix}"
        assert "wrote 4 rejects to " in kappa(folder, "rejects", "events", "--export", str(file))
        assert read(file)["position"].to_list() == ["t/0/16", "t/0/17", "t/0/18", "t/0/19"]
    with pytest.raises(UsageError, match="no source 'flights'"):
        kappa(folder, "rejects", "flights")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nope"),
        ("rejects", "nope"),
        ("load", "nope", "x.csv"),
        ("audit", "nope"),
        ("maintain", "nope"),
        ("query", "FROM core.nope"),
        ("load", "events", "x.csv"),
        ("nope",),
        ("show", "core.event", "--nope"),
    ],
)
def test_a_wrong_name_is_wrong_usage(folder: Path, arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_query_as_documented(folder: Path) -> None:
    sql = """SELECT 'UA' AS carrier, 58665 AS flights, 0.17419 AS share,
        TIMESTAMPTZ '2013-01-01 10:00:00Z' AS first, ['a'] AS tags, NULL AS none"""
    assert json.loads(kappa(folder, "query", sql, "--format", "json")) == example("kappa query --format json")


def test_audit_as_documented(folder: Path) -> None:
    project = load_project(folder)
    audit = Audit(project.storage, Root(folder / "data").catalog.read(), {})
    table = audit.table("core.event")
    audit.close()
    assert table.findings == []
    table.proofs["t", 0].find("1 rows are there twice", [17])
    same_shape(example("kappa audit --json"), to_json([table]))


def test_maintain_as_documented(folder: Path) -> None:
    same_shape(example("kappa maintain --json"), answer(folder, "maintain", "--dry-run"))


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 12_345_678)] == ["0 B", "999 B", "1 kB", "12.3 MB"]
    assert [age(s) for s in (None, 0.4, 119, 120, 7200, 200_000)] == ["never", "0 s ago", "119 s ago", "2 min ago", "2 h ago", "2 days ago"]
    assert shorten("abcdef", 4) == "abc…"
