"""The plan of a warehouse: tables in order, their columns, lineage and views; what is wrong with sources, names and references."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from flows.plan import analyse, require
from flows.project import ProjectInvalid, load_project
from tests.folder import FLIGHTS, append, plan, view

SYSTEM = ["_partition", "_offset", "_timestamp"]


def texts(found: object) -> list[str]:
    return [str(finding) for finding in found.findings]  # type: ignore[attr-defined]


def test_a_star_gives_the_contract_and_not_what_begins_with_an_underscore(tmp_path: Path) -> None:
    node = plan(tmp_path, {"core/t.sql": append("SELECT * FROM staging.flights")}).nodes["core.t"]
    assert node.schema.names == ["carrier", "flight", "seen", "dep_delay", "amount", "code", "tags", "scores", "plane", "payload", *SYSTEM]
    assert node.picks is not None
    assert node.computed_sql is None
    assert not node.has_row


def test_stars_with_exclude_replace_and_rename(tmp_path: Path) -> None:
    star = "* EXCLUDE (tags, scores, plane, payload) REPLACE (upper(code) AS code) RENAME (seen AS at_utc)"
    sql = f"SELECT {star}, f.flight + 1 AS n FROM staging.flights AS f"
    node = plan(tmp_path, {"core/t.sql": append(sql)}).nodes["core.t"]
    assert node.schema.names == ["carrier", "flight", "at_utc", "dep_delay", "amount", "code", "n", *SYSTEM]
    assert node.lineage["code"] == ("staging.flights.code",)


@pytest.mark.parametrize(
    ("expression", "stored"),
    [
        ("flight::utinyint", pa.int16()),
        ("flight::usmallint", pa.int32()),
        ("flight::uinteger", pa.int64()),
        ("flight::ubigint", pa.decimal128(20, 0)),
        ("sum_of", pa.decimal128(38, 0)),
        ("payload -> '$.a'", pa.string()),
        ("[flight::utinyint]", pa.list_(pa.int16())),
        ("{'a': flight::uinteger, 'b': [seen]}", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.timestamp("us", tz="UTC")))])),
        ("amount * 2", pa.decimal128(18, 2)),
        ("seen::date", pa.date32()),
        ("_timestamp", pa.timestamp("us", tz="UTC")),
        ("_extra", pa.string()),
        ("plane.seats", pa.int32()),
        ("1", pa.int32()),
    ],
)
def test_the_types_that_are_stored(tmp_path: Path, expression: str, stored: pa.DataType) -> None:
    sql = f"SELECT {expression} AS x FROM (SELECT *, _extra AS extra, list_sum(scores) AS sum_of FROM staging.flights)"
    if expression in ("_timestamp", "_extra"):
        sql = f"SELECT {expression} AS x FROM staging.flights"
    found = plan(tmp_path, {"core/t.sql": append(sql)})
    assert not found.findings, texts(found)
    assert found.nodes["core.t"].schema.field("x").type == stored


def test_lineage_goes_down_to_the_source(tmp_path: Path) -> None:
    files = {
        "core/a.sql": append(
            "SELECT carrier || code AS id, dep_delay AS delay, tags, _timestamp AS loaded FROM staging.flights WHERE flight > 0"
        ),
        "core/b.sql": append(
            "WITH c AS (SELECT id, delay * 2 AS twice, tags, loaded FROM core.a)\n"
            "SELECT id, twice, twice > 1 AS late, loaded, unnest(list_transform(tags, t -> t || id)) AS tag, 1 AS one FROM c"
        ),
    }
    found = plan(tmp_path, files)
    assert not found.findings, texts(found)
    assert list(found.nodes) == ["core.a", "core.b"]
    node = found.nodes["core.b"]
    assert (node.source, node.upstream, node.has_row) == ("flights", "core.a", True)
    assert node.schema.field("_row") == pa.field("_row", pa.int32(), nullable=False)
    s = "staging.flights."
    assert node.lineage == {
        "id": (f"{s}carrier", f"{s}code"),
        "twice": (f"{s}dep_delay",),
        "late": (f"{s}dep_delay",),
        "loaded": (f"{s}_timestamp",),
        "tag": (f"{s}carrier", f"{s}code", f"{s}tags"),
        "one": (),
    }


def test_names_are_found_as_duckdb_finds_them(tmp_path: Path) -> None:
    sql = """WITH c(X, y) AS (SELECT flights.carrier, staging.flights.flight, CODE FROM staging.flights)
SELECT t.x AS carrier, "Y" AS flight, upper(code) AS code, code || '!' AS shouted, plain
FROM (SELECT *, y + 1 AS next, next * 2 AS plain FROM c WHERE next > 3) AS t"""
    found = plan(tmp_path, {"core/t.sql": append(sql)})
    assert not found.findings, texts(found)
    node = found.nodes["core.t"]
    assert node.schema.names == ["carrier", "flight", "code", "shouted", "plain", *SYSTEM]
    assert node.lineage["plain"] == ("staging.flights.flight",)


def test_an_arrow_of_json_is_not_a_lambda(tmp_path: Path) -> None:
    sql = """SELECT payload AS p, p -> '$.a' AS a, list_transform(string_split(p ->> '$.l', ','), p -> p || code) AS l
FROM staging.flights WHERE (p -> '$.b') IS NOT NULL"""
    found = plan(tmp_path, {"core/t.sql": append(sql)})
    assert not found.findings, texts(found)
    s = "staging.flights."
    assert found.nodes["core.t"].lineage == {"p": (f"{s}payload",), "a": (f"{s}payload",), "l": (f"{s}code", f"{s}payload")}


def test_a_row_number_passes_on(tmp_path: Path) -> None:
    files = {
        "core/tag.sql": append("SELECT flight, unnest(tags) AS tag FROM staging.flights"),
        "core/loud.sql": append("SELECT flight, upper(tag) AS tag FROM core.tag WHERE tag <> 'x'"),
    }
    found = plan(tmp_path, files)
    assert found.nodes["core.loud"].has_row
    assert not found.nodes["core.loud"].unnests


def test_unnest_of_a_struct_gives_columns_and_no_rows(tmp_path: Path) -> None:
    node = plan(tmp_path, {"core/t.sql": append("SELECT flight, unnest(plane) FROM staging.flights")}).nodes["core.t"]
    assert node.schema.names == ["flight", "model", "seats", *SYSTEM]
    assert node.lineage["seats"] == ("staging.flights.plane",)
    assert not node.filter_sqls


def test_views_see_what_queries_see(tmp_path: Path) -> None:
    files = {
        "core/f.sql": append("SELECT carrier, flight, dep_delay FROM staging.flights"),
        "analytics/z.sql": view("SELECT carrier, sum(dep_delay) AS delay, max(now()) AS t FROM core.f GROUP BY ALL"),
        "analytics/a.sql": view(
            "SELECT * FROM analytics.z JOIN staging.flights USING (carrier) UNION ALL BY NAME SELECT * FROM analytics.z"
        ),
        "analytics/r.sql": view(
            "SELECT code, count(*) AS n, (SELECT count(*) FROM raw.flights WHERE _offset > 3) AS raw FROM core.f__rejected GROUP BY ALL"
        ),
    }
    found = plan(tmp_path, files)
    assert not found.findings, texts(found)
    assert list(found.views).index("analytics.z") < list(found.views).index("analytics.a")
    assert found.views["analytics.z"].columns == {"carrier": "VARCHAR", "delay": "DOUBLE", "t": "TIMESTAMP WITH TIME ZONE"}
    assert found.views["analytics.a"].dependencies == ("analytics.z", "staging.flights")
    assert found.views["analytics.r"].dependencies == ("core.f__rejected", "raw.flights")


@pytest.mark.parametrize(
    ("sql", "line", "cause", "fix"),
    [
        ("SELECT _offset FROM core.f", 2, '"_offset" not found', ""),
        ("SELECT *\nFROM core.ff", 3, "there is no table core.ff", "core.f"),
        ("SELECT *\nFROM f", 3, "'f' is not the name of a table", "core.f"),
        ("SELECT * FROM read_parquet('x')", 2, "read_parquet reads something that is not a table", "kappa source infer"),
        ("SELECT * FROM delta_scan('x')", 2, "delta_scan reads something", "kappa source infer"),
        ("SELECT * FROM duckdb_settings()", 2, "duckdb_settings reads something", "kappa source infer"),
        ("SELECT * FROM 'x.csv'", 2, "'x.csv' is not the name of a table", "layer.table"),
        ("SELECT carrierr FROM core.f", 2, '"carrierr" not found', "carrier"),
        ("SELECT carrier, sum(flight) FROM core.f", 2, "must appear in the GROUP BY", ""),
        ("CREATE TABLE x (a int)", 2, "not a SELECT", "one SELECT"),
    ],
)
def test_a_view_refuses(tmp_path: Path, sql: str, line: int, cause: str, fix: str) -> None:
    found = plan(tmp_path, {"core/f.sql": append("SELECT carrier, flight FROM staging.flights"), "analytics/v.sql": view(sql)})
    (finding,) = found.findings
    assert (finding.file, finding.line) == ("analytics/v.sql", line)
    assert cause in finding.cause
    assert fix in finding.fix


def test_cycles_are_named(tmp_path: Path) -> None:
    files = {
        "core/a.sql": append("SELECT carrier FROM core.b"),
        "core/b.sql": append("SELECT carrier FROM core.a"),
        "analytics/v.sql": view("SELECT * FROM analytics.v"),
        "analytics/w.sql": view("SELECT * FROM analytics.v"),
    }
    found = plan(tmp_path, files)
    assert [(f.file, f.cause) for f in found.findings] == [
        ("analytics/v.sql", "a cycle: analytics.v reads analytics.v"),
        ("core/a.sql", "a cycle: core.a reads core.b reads core.a"),
    ]
    assert not found.nodes
    assert not found.views


@pytest.mark.parametrize(
    ("upstream", "cause", "fix"),
    [
        ("staging.flihgts", "there is no table staging.flihgts", "staging.flights"),
        ("core.nothing", "there is no table core.nothing", "one of staging.flights"),
        ("raw.flights", "cannot read raw.flights", "staging.flights"),
        ("staging.flights__rejected", "cannot read staging.flights__rejected", "staging.flights"),
        ("analytics.v", "analytics.v is a view", "FROM the table that analytics.v reads"),
    ],
)
def test_what_an_append_table_cannot_read(tmp_path: Path, upstream: str, cause: str, fix: str) -> None:
    found = plan(tmp_path, {"core/t.sql": append(f"SELECT 1 AS x\nFROM {upstream}"), "analytics/v.sql": view("SELECT 1 AS a")})
    (finding,) = found.findings
    assert (finding.file, finding.line) == ("core/t.sql", 3)
    assert cause in finding.cause
    assert fix in finding.fix


def test_raw_that_is_switched_off(tmp_path: Path) -> None:
    found = plan(tmp_path, {"sources/flights.toml": "raw = false\n" + FLIGHTS, "analytics/v.sql": view("SELECT * FROM raw.flights")})
    assert [f.cause for f in found.findings] == ["raw.flights is switched off (raw = false)"]


@pytest.mark.parametrize("name", ["raw", "staging", "core", "meta", "flight__rejected"])
def test_reserved_names(tmp_path: Path, name: str) -> None:
    files = {f"core/{name}.sql": append("SELECT carrier FROM staging.flights"), f"sources/{name}.toml": FLIGHTS}
    found = plan(tmp_path, files)
    assert {f.file for f in found.findings} == set(files)


SOURCES = [
    ('a = "integr"', 'a = "integer"', 4, "there is no type 'integr'", "integer"),
    ('a = "time"', "", 4, "type time cannot be stored", "varchar"),
    ('a = "map(integer, varchar)"', "", 4, "cannot be stored", "json"),
    ('_a = "integer"', "", 4, "begins with _", "without it"),
    ('"a b" = "integer"', "", 4, "a name that Delta tables cannot hold", "letters"),
    ('a = "integer"\nA = "integer"', "", 5, "differ only in case", "one of them"),
]


@pytest.mark.parametrize(("column", "_good", "line", "cause", "fix"), SOURCES)
def test_columns_of_a_source(tmp_path: Path, column: str, _good: str, line: int, cause: str, fix: str) -> None:
    found = plan(tmp_path, {"sources/flights.toml": f'topic = "t"\nformat = "json"\n[columns]\n{column}\n'})
    (finding,) = found.findings
    assert (finding.file, finding.line) == ("sources/flights.toml", line)
    assert cause in finding.cause
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("head", "rest", "line", "cause", "fix"),
    [
        ('key = ["idd"]', "", 3, "the key column idd is not in the contract", "id"),
        ('key = ["id", "id"]', "", 3, "names a column twice", "once"),
        ('event_time = "sen"', "", 3, "the event time sen is not in the contract", "seen"),
        ('event_time = "id"', "", 3, "the event time id is integer, not a time", "timestamptz"),
        ("", '[rules.r]\ncheck = "idd > 0"', 9, 'rule r: Referenced column "idd" not found', "id"),
        ("", '[rules.r]\non_failure = "warn"\ncheck = "id +"', 10, "rule r: not SQL", "DuckDB's dialect"),
        ("", '[rules.r]\ncheck = "id + 1"', 9, "rule r: the check is INTEGER, not BOOLEAN", "distance > 0"),
        ("", '[rules.r]\ncheck = "seen < now()"', 9, "rule r: now depends on the clock", "_timestamp"),
        ("", '[rules.r]\ncheck = "sum(id) > 0"', 9, "rule r: sum combines rows", "view"),
        ("", '[rules.r]\ncheck = "id = (SELECT 1)"', 9, "rule r: a subquery", "view"),
        ("", '[rules.r]\ncheck = "id > 0, true"', 9, "rule r: not one expression", "condition"),
        ("", '[rules.r]\ncheck = "row_number() OVER () = 1"', 9, "rule r: a window function", "view"),
        ("", '[rules.r]\ncheck = "id > 0 -- positive"', 9, "rule r: ", ""),
        ("", '[rules.r]\ncheck = "_offset > 0"', 9, 'rule r: Referenced column "_offset" not found', ""),
    ],
)
def test_references_and_rules_of_a_source(tmp_path: Path, head: str, rest: str, line: int, cause: str, fix: str) -> None:
    text = f'topic = "t"\nformat = "json"\n{head}\n[columns]\nid = "integer"\nseen = "timestamptz"\n\n{rest}\n'
    found = plan(tmp_path, {"sources/flights.toml": text})
    (finding,) = found.findings
    assert (finding.file, finding.line) == ("sources/flights.toml", line)
    assert cause in finding.cause
    assert fix in finding.fix


def test_a_text_source_has_one_varchar(tmp_path: Path) -> None:
    text = 'topic = "t"\nformat = "text"\nkey = ["a"]\n[columns]\na = "integer"\nb = "varchar"\n'
    causes = [f.cause for f in plan(tmp_path, {"sources/flights.toml": text}).findings]
    assert causes == [
        "a text source has no key: its one column is the whole value",
        "a text source has one column, of type varchar: the value",
    ]
    good = {"sources/flights.toml": 'topic = "t"\nformat = "text"\n[columns]\nline = "varchar not null"\n'}
    found = plan(tmp_path, {**good, "core/t.sql": append("SELECT line, _offset + 1 AS number FROM staging.flights")})
    assert not found.findings, texts(found)


@pytest.mark.parametrize(
    ("settings", "cause", "fix"),
    [
        ('partition_by = ["carier"]', "partition_by names carier", "carrier"),
        ('partition_by = ["tags"]', "whose type cannot be part of a path", "few values"),
    ],
)
def test_partitions(tmp_path: Path, settings: str, cause: str, fix: str) -> None:
    files = {"core/t.sql": f'/*\nkind = "append"\n{settings}\n*/\nSELECT * FROM staging.flights'}
    (finding,) = plan(tmp_path, files).findings
    assert finding.line == 3
    assert cause in finding.cause
    assert fix in finding.fix


def test_a_double_is_no_partition(tmp_path: Path) -> None:
    """NaN equals nothing, so its rows would belong to no file."""
    sql = '/*\nkind = "append"\npartition_by = ["half"]\n*/\nSELECT flight, flight / 2 AS half FROM staging.flights'
    (finding,) = plan(tmp_path, {"core/t.sql": sql}).findings
    assert "partition_by names half, whose type cannot be part of a path" in finding.cause


def test_everything_wrong_is_shown_at_once(tmp_path: Path) -> None:
    files = {
        "sources/broken.toml": "topic = \n",
        "sources/odd.toml": 'topic = "t"\nformat = "xml"\n[columns]\na = "integer"\n',
        "core/Bad.sql": "SELECT 1",
        "core/none.sql": "SELECT 1",
        "core/kind.sql": '/* kind = "upsert" */ SELECT 1',
        "core/now.sql": append("SELECT now() AS n FROM staging.flights"),
        "core/of_broken.sql": append("SELECT a FROM staging.broken"),
        "core/of_now.sql": append("SELECT n FROM core.now"),
        "analytics/of_now.sql": view("SELECT n FROM core.now"),
    }
    found = plan(tmp_path, files)
    assert sorted(f.file for f in found.findings) == sorted(
        ["core/Bad.sql", "core/kind.sql", "core/none.sql", "core/now.sql", "sources/broken.toml", "sources/odd.toml"]
    )
    with pytest.raises(ProjectInvalid, match="6 errors"):
        require(found)


def test_the_example_has_no_errors() -> None:
    found = analyse(load_project(Path(__file__).parents[2] / "examples/flights"))
    assert not found.findings, texts(found)
    assert len(found.nodes) == 5
    assert len(found.views) == 3
