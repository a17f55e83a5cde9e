"""What changes a table's fingerprint, what does not, and how the change is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.batch import RAW, REJECTED
from flows.fingerprint import Definition, definitions, difference
from flows.plan import analyse, require
from tests.folder import append, write

SOURCE = """
topic = "flights"
format = "csv"
key = ["carrier"]
[columns]
carrier = "varchar not null"
delay = "double"
[rules.small]
check = "delay < 100"
[rules.odd]
check = "delay <> 7"
on_failure = "warn"
"""
SQL = "SELECT carrier, delay * 2 AS twice FROM staging.flights WHERE delay > 0"


def made(
    folder: Path, source: str = SOURCE, sql: str = SQL, settings: str = "", other: str = "SELECT twice FROM core.t"
) -> dict[str, Definition]:
    project = write(folder, {"sources/flights.toml": source, "core/t.sql": append(sql, settings), "core/u.sql": append(other)})
    plan = analyse(project)
    require(plan)
    return definitions(project, plan)


def test_every_physical_table_has_a_definition(tmp_path: Path) -> None:
    found = made(tmp_path)
    assert {name: (d.role, d.upstream, d.partition_by) for name, d in found.items()} == {
        "raw.flights": ("raw", None, ("_partition",)),
        "staging.flights": ("staging", None, ()),
        "staging.flights__rejected": ("rejected", None, ()),
        "core.t": ("table", "staging.flights", ()),
        "core.t__rejected": ("rejected", "staging.flights", ()),
        "core.u": ("table", "core.t", ()),
        "core.u__rejected": ("rejected", "core.t", ()),
    }
    assert found["raw.flights"].schema == RAW
    assert found["core.u__rejected"].schema == REJECTED
    assert found["staging.flights"].schema.names == ["carrier", "delay", "_extra", "_partition", "_offset", "_timestamp"]
    assert len({d.fingerprint for d in found.values()}) == len(found)
    assert all(len(d.fingerprint) == 12 for d in found.values())
    assert "raw.flights" not in made(tmp_path, "raw = false\n" + SOURCE)


@pytest.mark.parametrize(
    ("source", "sql"),
    [
        (SOURCE, "select   carrier,\n delay*2 as twice -- doubled\nfrom staging.flights /* all */ where (delay>0)"),
        (SOURCE.replace('check = "delay <> 7"', 'check = "delay <> 8"'), SQL),
        (SOURCE.replace("delay < 100", "(delay<100)"), SQL),
        (SOURCE.replace("[rules.small]", '[rules.small]\ndescription = "small"'), SQL),
        ('description = "x"\npartitions = 4\ncsv = { null = ["NA"], delimiter = ";" }\ntopic_config = { "x" = "y" }\n' + SOURCE, SQL),
        (SOURCE.replace("double", "FLOAT8"), SQL),
        (SOURCE + '[rules.x]\ncheck = "delay > 1"\non_failure = "fail"\n', SQL),
    ],
)
def test_what_does_not_matter(tmp_path: Path, source: str, sql: str) -> None:
    before, after = made(tmp_path / "a"), made(tmp_path / "b", source, sql)
    assert {name: d.fingerprint for name, d in before.items()} == {name: d.fingerprint for name, d in after.items()}
    assert all(difference(before[name].json, after[name].json) == [] for name in before)


@pytest.mark.parametrize(
    ("source", "sentences"),
    [
        (SOURCE.replace('delay = "double"', 'delay = "integer"'), ["column delay: double -> integer"]),
        (SOURCE.replace('delay = "double"', 'delay = "double not null"'), ["column delay: double -> double not null"]),
        (SOURCE.replace('delay = "double"', 'delay = "double"\nmore = "date"'), ["column more added: date"]),
        (
            SOURCE.replace('carrier = "varchar not null"\ndelay = "double"', 'delay = "double"\ncarrier = "varchar not null"'),
            ["order of columns: carrier, delay -> delay, carrier"],
        ),
        (SOURCE.replace("delay < 100", "delay < 10"), ["rule small: (delay < 100) (reject) -> (delay < 10) (reject)"]),
        (SOURCE + '[rules.x]\ncheck = "delay > 1"\n', ["rule x added: (delay > 1) (reject)"]),
        (SOURCE.replace('[rules.small]\ncheck = "delay < 100"\n', ""), ["rule small dropped"]),
        (SOURCE.replace('topic = "flights"', 'topic = "flights2"'), ["topic: flights -> flights2"]),
        (SOURCE.replace('format = "csv"', 'format = "json"'), ["format: csv -> json"]),
        (SOURCE.replace('key = ["carrier"]', 'key = ["carrier", "delay"]'), ["key: (carrier) -> (carrier, delay)"]),
        ('extra = "reject"\n' + SOURCE, ["extra: keep -> reject"]),
        ('null_values = "delete"\n' + SOURCE, ["null_values: reject -> delete"]),
    ],
)
def test_what_matters_to_staging(tmp_path: Path, source: str, sentences: list[str]) -> None:
    before, after = made(tmp_path / "a"), made(tmp_path / "b", source)
    assert difference(before["staging.flights"].json, after["staging.flights"].json) == sentences
    for name in ("staging.flights", "staging.flights__rejected", "core.t", "core.t__rejected", "core.u"):
        assert before[name].fingerprint != after[name].fingerprint
    upstream = difference(before["core.u"].json, after["core.u"].json)
    assert any(sentence.startswith("upstream core.t changed: ") for sentence in upstream)
    assert (before["raw.flights"].fingerprint == after["raw.flights"].fingerprint) == ("topic" not in sentences[0])


def test_what_matters_to_a_table(tmp_path: Path) -> None:
    before = made(tmp_path / "a")
    sql = made(tmp_path / "b", sql=SQL.replace("> 0", "> 1"))
    assert difference(before["core.t"].json, sql["core.t"].json) == [
        f"SQL changed: {before['core.t'].json['sql']} -> {sql['core.t'].json['sql']}"
    ]
    assert before["staging.flights"].fingerprint == sql["staging.flights"].fingerprint
    parted = made(tmp_path / "c", settings='\npartition_by = ["carrier"]')
    assert difference(before["core.t"].json, parted["core.t"].json) == ["partition_by: () -> (carrier)"]
    moved = made(tmp_path / "d", other="SELECT delay AS twice FROM staging.flights")
    assert "upstream table: core.t -> staging.flights" in difference(before["core.u"].json, moved["core.u"].json)


def test_another_duckdb_is_another_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(tmp_path)
    monkeypatch.setattr("duckdb.__version__", "9.9.9")
    after = made(tmp_path)
    assert difference(before["staging.flights"].json, after["staging.flights"].json) == ["DuckDB: 1.5.5 -> 9.9.9"]
    assert before["raw.flights"].fingerprint == after["raw.flights"].fingerprint
