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
