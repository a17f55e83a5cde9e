"""DuckDB's parse tree as JSON: back to SQL that means the same, and independent of spelling."""

from __future__ import annotations

import duckdb
import pytest

from flows.sql.functions import ROW_LOCAL, TABLE_FUNCTIONS
from flows.sql.tree import SqlRefused, parse, parse_expression, text

EXPRESSIONS = (
    """
a ** 2|a ^ 2|b ~ 'x'|b !~ 'x'|b SIMILAR TO 'x'|b LIKE 'x%' ESCAPE '!'|b NOT ILIKE 'x'|b GLOB 'x*'|b[1]|b[1:2]|l[-1]|l[1:4:2]|s.x
s['x']|(s).y
{'x': a}|row(a, b)|[a, 1]|MAP {'k': a}|CASE WHEN a > 1 THEN 2 ELSE 3 END|CASE a WHEN 1 THEN 'x' END|a IS NOT NULL|a NOT IN (1, 2)
a BETWEEN 1 AND 2|a IS DISTINCT FROM 1|try_cast(b AS int)|DATE '2020-01-01'|INTERVAL 1 DAY|INTERVAL '1 month'|INTERVAL (a) HOUR
ts + INTERVAL 3 MONTH|extract(year FROM ts)|date_trunc('month', tz)|tz AT TIME ZONE 'America/New_York'|ts::date|substring(b FROM 1 FOR 2)
trim(LEADING 'x' FROM b)|position('x' IN b)|log2(d)|log10(d)|log(2, d)|list_sort(l, 'DESC')|list_transform(l, x -> x + 1)
list_transform(l, lambda x: x + 1)|list_reduce(l, (x, y) -> x + y)|[x + 1 FOR x IN l IF x > 0]|list_concat(l, l)|j ->> '$.a'
(j ->> '$.a')::int|j -> '$.a'|NOT a > 1|a > 1 OR b = 'x' AND d < 2|b COLLATE nocase|1_000|'it''s'|E'a\\nb'|b.upper()
b ^@ 'x'|@(-a)|a::decimal(10, 2)
b::struct(x int)|b::int[]|a // 2|a % 2|-a|~a|xor(a, 1)|a & 3|a << 2|strptime(b, '%Y')|'\\xAA'::blob|unnest(l)|unnest(s)|coalesce(a, 0)
if(a > 1, 1, 2)|nullif(a, 0)|greatest(a, 2)|date_part(['year', 'month'], ts)|json_object('a', a)|struct_pack(p := a)|true|NULL
""".replace("\n", "|")
    .strip("|")
    .split("|")
)


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"threads": 1})
    connection.execute(
        "CREATE TABLE t (a int, b varchar, d double, ts timestamp, tz timestamptz, l int[], s struct(x int, y varchar), j json)"
    )
    connection.execute("PRAGMA disable_optimizer")
    return connection


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_round_trip_binds_to_the_same_plan(connection: duckdb.DuckDBPyConnection, expression: str) -> None:
    def plan(sql: str) -> object:
        return connection.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall()

    sql = f"SELECT {expression} AS e FROM t WHERE a > 0"
    assert plan(text(parse(sql))) == plan(sql)
    assert text(parse(text(parse(sql)))) == text(parse(sql))


def test_spelling_does_not_matter() -> None:
    one = "WITH c AS (SELECT a, Upper(b) AS u FROM staging.t) SELECT a FROM c WHERE u = 'X' AND a IN (1, 2)"
    two = "with c as (\n  select a, UPPER(b) as u -- loud\n  from staging.t)\nselect a from c where (u='X' and a in (1,2));"
    assert text(parse(one)) == text(parse(two))


def test_every_allowed_function_exists(connection: duckdb.DuckDBPyConnection) -> None:
    parsed = {"unnest", "coalesce", "if", "ifnull", "overlay"}  # known to the parser or the binder
    known = {name for (name,) in connection.execute("SELECT DISTINCT lower(function_name) FROM duckdb_functions()").fetchall()} | parsed
    assert ROW_LOCAL - known == set()
    assert TABLE_FUNCTIONS - known == set()


def test_no_allowed_function_is_volatile_or_an_aggregate_alone(connection: duckdb.DuckDBPyConnection) -> None:
    rows = connection.execute("SELECT lower(function_name), function_type, stability FROM duckdb_functions()").fetchall()
    assert {name for name, _, stability in rows if name in ROW_LOCAL and stability not in (None, "CONSISTENT")} == set()
    kinds: dict[str, set[str]] = {}
    for name, kind, _ in rows:
        kinds.setdefault(name, set()).add(kind)
    assert {name for name in ROW_LOCAL & set(kinds) if not kinds[name] & {"scalar", "macro"}} <= {"unnest"}


@pytest.mark.parametrize("sql", ["a, b", "a FROM t", "a WHERE true", "a LIMIT 1", "1; SELECT 2", "", "a +"])
def test_what_is_not_one_expression(sql: str) -> None:
    with pytest.raises(SqlRefused):
        parse_expression(sql)
