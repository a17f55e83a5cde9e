"""``kappa query`` over tables that the real owner committed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from flows.errors import KappaError
from infra.cli import cli
from infra.cli.answer import FormatUnfit
from tests.stored import Root

TYPES = """SELECT 1 AS i, 1.50::decimal(10,2) AS d, 'a "b", é' AS s, '' AS empty, NULL AS missing,
TIMESTAMPTZ '2013-01-01 10:00:00+00' AS at, DATE '2013-01-01' AS day, [1, 2] AS list, {'a': 1} AS struct, 'x'::blob AS bytes, true AS yes,
12345678901234567890123::hugeint AS huge, 'nan'::double AS nan,
0.1::double AS tenth"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "warehouse.toml").write_text('name = "test"\n')
    root = Root(tmp_path / "data")
    for name in ("staging.s", "core.c"):
        root.table(name).commit({0: (0, 100, range(100))})
    return tmp_path


def kappa(folder: Path, *arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(cli, ["-C", str(folder), *arguments], input=text)


def test_a_table_for_people(folder: Path) -> None:
    done = kappa(folder, "query", "SELECT n FROM core.c ORDER BY n", "--rows", "4")
    assert done.exit_code == 0, done.exception
    assert "int64" in done.stdout
    assert "100 rows" in done.stdout
    assert "(4 shown)" in done.stdout
    assert "99" in done.stdout


def test_json_keeps_types(folder: Path) -> None:
    (row,) = json.loads(kappa(folder, "query", TYPES, "--format", "json").stdout, parse_float=str)
    assert row == {
        "i": 1,
        "d": "1.50",
        "s": 'a "b", é',
        "empty": "",
        "missing": None,
        "at": "2013-01-01T10:00:00Z",
        "day": "2013-01-01",
        "list": [1, 2],
        "struct": {"a": 1},
        "bytes": "eA==",
        "yes": True,
        "huge": 12345678901234567890123,
        "nan": None,
        "tenth": "0.1",
    }


TEXTS = {
    "DATE '12026-01-01'": "12026-01-01",
    "DATE '0044-03-15 (BC)'": "0044-03-15 (BC)",
    "DATE 'infinity'": "infinity",
    "TIMESTAMP '12026-01-01 10:00:00.5'": "12026-01-01T10:00:00.5",
    "TIMESTAMPTZ '12026-01-01 10:00:00+00'": "12026-01-01T10:00:00Z",
    "TIMESTAMPTZ '0044-03-15 (BC) 10:00:00+00'": "0044-03-15 (BC) 10:00:00+00",
    "'-infinity'::TIMESTAMPTZ": "-infinity",
    "'2013-01-01 10:00:00.123456789'::TIMESTAMP_NS": "2013-01-01T10:00:00.123456789",
    "TIME '24:00:00'": "24:00:00",
    "TIMETZ '10:00:00+02'": "10:00:00+02",
    "340282366920938463463374607431768211455::UHUGEINT": "340282366920938463463374607431768211455",
    "123::BIGNUM": "123",
    "'101'::BIT": "101",
    "INTERVAL '1 month 3 seconds'": "1 month 00:00:03",
    "union_value(k := DATE '12026-01-01')": "12026-01-01",
    "row(1, 2)": "(1, 2)",
    "'x'::VARIANT": "x",
}


@pytest.mark.parametrize("value", TEXTS)
def test_json_writes_as_text_what_has_no_other_form(folder: Path, value: str) -> None:
    sql = f"SELECT {value} AS x, [{value}, NULL] AS list, {{'a b': 1, 'it''s': {value}}} AS struct, MAP {{'k': [{value}]}} AS map, "
    sql += f"[{{'a': [{value}]}}, NULL] AS deep"
    done = kappa(folder, "query", sql, "--format", "json")
    assert done.exit_code == 0, done.exception
    text = TEXTS[value]
    assert json.loads(done.stdout) == [
        {"x": text, "list": [text, None], "struct": {"a b": 1, "it's": text}, "map": [["k", [text]]], "deep": [{"a": [text]}, None]}
    ]


def test_json_of_nothing_in_a_nested_column(folder: Path) -> None:
    sql = "SELECT x FROM (VALUES ({'a': DATE '2013-01-01'}), (NULL)) t(x)"
    assert json.loads(kappa(folder, "query", sql, "--format", "json").stdout) == [{"x": {"a": "2013-01-01"}}, {"x": None}]
    sql = "SELECT NULL::MAP(DATE, INTEGER) AS m, NULL::DATE[] AS l, MAP {DATE '2013-01-01': 1} AS k"
    assert json.loads(kappa(folder, "query", sql, "--format", "json").stdout) == [{"m": None, "l": None, "k": [["2013-01-01", 1]]}]


def test_json_of_no_rows_and_of_repeated_names(folder: Path) -> None:
    assert kappa(folder, "query", "SELECT 1 AS a WHERE false", "--format", "json").stdout == "[]\n"
    assert json.loads(kappa(folder, "query", "SELECT 1 AS a, 2 AS a, 3 AS a_1", "--format", "json").stdout) == [
        {"a": 1, "a_1": 2, "a_1_1": 3}
    ]


def test_csv(folder: Path) -> None:
    lines = kappa(folder, "query", TYPES, "--format", "csv").stdout.splitlines()
    assert lines[1] == (
        '1,1.50,"a ""b"", é","",,"2013-01-01 10:00:00+00","2013-01-01","[1, 2]","{\'a\': 1}","x",true,12345678901234567890123,nan,0.1'
    )


def test_arrow_and_parquet(folder: Path) -> None:
    done = kappa(folder, "query", "SELECT n FROM core.c ORDER BY n", "--format", "arrow")
    assert pa.ipc.open_stream(io.BytesIO(done.stdout_bytes)).read_all()["n"].to_pylist() == list(range(100))
    file = folder / "answer.parquet"
    assert kappa(folder, "query", "FROM staging.s ORDER BY n", "-o", str(file)).exit_code == 0
    assert pq.read_table(file)["_offset"].to_pylist() == list(range(100))
    assert sorted(path.name for path in folder.iterdir()) == ["answer.parquet", "data", "warehouse.toml"]


def test_a_query_that_fails_on_the_way_leaves_no_file(folder: Path) -> None:
    failing = "SELECT CASE WHEN i = 900000 THEN error('boom') ELSE i END AS x FROM range(1000000) t(i)"
    done = kappa(folder, "query", failing, "-o", str(folder / "x.csv"))
    assert isinstance(done.exception, KappaError)
    assert not list(folder.glob("*x.csv*"))


@pytest.mark.parametrize(
    ("value", "form", "kind"),
    [
        ("INTERVAL 1 DAY", "parquet", "INTERVAL"),
        ("[{'a': union_value(k := 1)}]", "parquet", "UNION(k INTEGER)"),
        ("MAP {'a': 1::UHUGEINT}", "parquet", "UHUGEINT"),
        ("TIMETZ '10:00:00+02'", "arrow", "TIME WITH TIME ZONE"),
        ("'101'::BIT", "arrow", "BIT"),
        ("'x'::VARIANT", "arrow", "VARIANT"),
    ],
)
def test_a_type_that_a_format_cannot_hold_is_named(folder: Path, value: str, form: str, kind: str) -> None:
    file = folder / f"x.{form}"
    error = kappa(folder, "query", f"SELECT 1 AS fits, {value} AS y", "-o", str(file)).exception
    assert isinstance(error, FormatUnfit)
    assert error.exit_status == 1
    assert f"{form} cannot hold column 'y' of type" in error.what
    assert error.cause == f"it has no type for {kind}"
    assert 'CAST("y" AS VARCHAR) AS "y"' in error.next_step
    assert not list(folder.glob("*x.*"))
    done = kappa(folder, "query", f'SELECT CAST(y AS VARCHAR) AS "y" FROM (SELECT {value} AS y)', "-o", str(file))
    assert done.exit_code == 0, done.exception


def test_a_value_that_a_format_cannot_hold_leaves_no_file(folder: Path) -> None:
    late = "SELECT CASE WHEN i = 200000 THEN 'infinity' ELSE '2013-01-01' END::TIMESTAMP_S AS x FROM range(300000) t(i)"
    error = kappa(folder, "query", late, "-o", str(folder / "x.parquet")).exception
    assert isinstance(error, FormatUnfit)
    assert "timestamp" in error.cause
    assert not list(folder.glob("*x.parquet*"))
    assert kappa(folder, "query", late, "-o", str(folder / "x.csv")).exit_code == 0


def test_sql_from_standard_input(folder: Path) -> None:
    assert json.loads(kappa(folder, "query", "-", "--format", "json", text="SELECT count(*) AS n FROM core.c").stdout) == [{"n": 100}]


def test_a_plan_is_shown_as_it_is(folder: Path) -> None:
    assert "DELTA_SCAN" in kappa(folder, "query", "EXPLAIN FROM core.c").stdout


def test_wrong_sql_says_duckdbs_words(folder: Path) -> None:
    error = kappa(folder, "query", "SELECT m FROM core.c").exception
    assert isinstance(error, KappaError)
    assert error.exit_status == 1
    assert 'Referenced column "m" not found' in str(error)
    error = kappa(folder, "query", "DROP TABLE core.c").exception
    assert isinstance(error, KappaError)
    assert error.exit_status == 2
