"""``kappa init`` and ``kappa check``: a folder that works at once, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flows.batch import RECORDS, Batch
from flows.conform import Conform
from flows.plan import analyse
from flows.project import load_project
from flows.stage import Stage
from infra.cli import cli
from infra.cli.project import FolderNotEmpty
from infra.infer.sample import of_file
from infra.infer.verify import record_batch
from tests.folder import append, write


def kappa(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def test_init_makes_a_warehouse_that_passes_check(tmp_path: Path) -> None:
    made = kappa("init", str(tmp_path / "My Shop 2"))
    assert made.exit_code == 0, made.output
    folder = tmp_path / "My Shop 2"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) == [
        ".gitignore",
        "README.md",
        "analytics/daily_revenue.sql",
        "core/orders.sql",
        "orders.csv",
        "sources/orders.toml",
        "tests/orders.toml",
        "warehouse.toml",
    ]
    assert load_project(folder).settings.name == "my_shop_2"
    checked = kappa("-C", str(folder), "check")
    assert checked.return_value == 0
    assert checked.output == "1 source, 1 append table, 1 view: no errors\n"


def test_the_file_of_init_has_one_bad_row(tmp_path: Path) -> None:
    kappa("init", str(tmp_path / "shop"))
    project = load_project(tmp_path / "shop")
    sample = of_file(tmp_path / "shop/orders.csv")
    batch = Batch("orders", 0, 0, 10, record_batch(sample.values, 0))
    assert batch.records.schema == RECORDS
    staged = Stage(project.sources["orders"]).stage(batch)
    assert [(row["_offset"], row["column"]) for row in staged.rejects.to_pylist()] == [(5, "quantity")]
    node = analyse(project).nodes["core.orders"]
    orders = Conform(node).conform(staged.rows, batch).rows.to_pylist()
    with (tmp_path / "shop/orders.csv").open() as file:
        expected = [int(row["order_id"]) for row in csv.DictReader(file) if row["quantity"].isdigit()]
    assert [row["order_id"] for row in orders] == expected
    assert str(orders[1]["amount"]) == "46.00"


def test_init_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = kappa("init", str(tmp_path))
    assert isinstance(result.exception, FolderNotEmpty)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_check_shows_every_finding(tmp_path: Path, form: str) -> None:
    write(tmp_path, {"core/a.sql": append("SELECT now() AS n,\n random() AS r FROM staging.flights"), "core/b.sql": "SELECT 1"})
    result = kappa("-C", str(tmp_path), "check", *(["--json"] if form == "json" else []))
    assert result.return_value == 1
    if form == "json":
        report = json.loads(result.output)
        assert {key: report[key] for key in ("format", "warehouse", "ok")} == {"format": 1, "warehouse": "test", "ok": False}
        assert [(f["file"], f["line"]) for f in report["findings"]] == [("core/a.sql", 2), ("core/a.sql", 3), ("core/b.sql", 1)]
        assert all(f["cause"] and f["fix"] for f in report["findings"])
    else:
        assert "core/a.sql:2: now depends on the clock" in result.output
        assert result.output.endswith("\n3 errors in 2 files\n")


def test_check_starts_without_kafka_and_delta(tmp_path: Path) -> None:
    write(tmp_path, {})
    code = (
        "import sys; from infra.cli import cli; assert cli(['-C', sys.argv[1], 'check'], standalone_mode=False) == 0\n"
        "print(sorted({'confluent_kafka', 'deltalake', 'psycopg', 'bytewax', 'sqlglot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
