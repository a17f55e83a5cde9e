"""What docs/tables.md says is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from click.testing import CliRunner

from flows.sql.functions import ROW_LOCAL
from infra.cli import cli
from tests.folder import append, plan, view, write

PAGE = (Path(__file__).parents[2] / "docs/tables.md").read_text(encoding="utf-8")
FLIGHTS = """topic = "flights"
format = "csv"
[columns]
carrier = "varchar"
flight = "integer"
origin = "varchar"
{column}
time_hour = "timestamptz"
minute = "integer"
dep_delay = "integer"
distance = "integer"
"""


def test_the_list_of_functions() -> None:
    listed = re.findall(r"`([^`]+)`", PAGE.partition("## Functions")[2].partition("\n\n**")[2])
    assert sorted(listed) == sorted(ROW_LOCAL)


def test_the_first_example_is_a_table(tmp_path: Path) -> None:
    files = {"sources/flights.toml": FLIGHTS.format(column=""), "core/flight.sql": re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)[0]}
    found = plan(tmp_path, files)
    assert not found.findings, list(map(str, found.findings))
    assert found.nodes["core.flight"].partition_by == ("origin",)


def test_the_findings_are_those_that_check_prints(tmp_path: Path) -> None:
    files = {
        "sources/flights.toml": FLIGHTS.format(column='dep_time = "time"'),
        "sources/other.toml": FLIGHTS.format(column=""),
        "core/late.sql": append("SELECT carrier,\n now() AS seen FROM staging.other"),
        "core/per_day.sql": append("SELECT carrier FROM staging.other GROUP BY carrier"),
    }
    write(tmp_path, files)
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), "check"], standalone_mode=False)
    assert result.output.strip() in PAGE


def test_the_json_of_check(tmp_path: Path) -> None:
    files = {
        "sources/flights.toml": FLIGHTS.format(column=""),
        "core/flight.sql": append("SELECT carrier FROM staging.flights"),
        "core/late.sql": append("SELECT carrier,\n now() AS seen FROM staging.flights"),
        "analytics/flight_overview.sql": view("SELECT * FROM core.flight"),
        "warehouse.toml": 'name = "flights"\n',
    }
    write(tmp_path, files)
    result = CliRunner().invoke(cli, ["-C", str(tmp_path), "check", "--json"], standalone_mode=False)
    shown = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    assert json.loads(result.output) == json.loads(shown[1])
