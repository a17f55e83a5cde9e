"""SQL that an append table must refuse, each with its line, its cause and what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.folder import append, plan

S = "FROM staging.flights"

# SQL after the settings, line of the finding in the file, a part of the cause, a part of the fix
REFUSED = [
    # rows together
    (f"SELECT carrier, count(*) AS n\n{S}", 2, "count_star combines rows", 'kind = "view"'),
    (f"SELECT sum(dep_delay) AS s {S}", 2, "sum combines rows", 'kind = "view"'),
    (f"SELECT first(carrier) AS c {S}", 2, "first combines rows", "view"),
    (f"SELECT any_value(carrier) AS c {S}", 2, "any_value combines rows", "view"),
    (f"SELECT carrier\n{S}\nGROUP BY carrier", 4, "GROUP BY combines rows", "view"),
    (f"SELECT carrier {S} GROUP BY ALL", 2, "GROUP BY combines rows", "view"),
    (f"SELECT carrier {S} GROUP BY ROLLUP (carrier)", 2, "GROUP BY combines rows", "view"),
    (f"SELECT carrier {S} HAVING true", 2, "HAVING combines rows", "view"),
    (f"SELECT DISTINCT carrier {S}", 2, "DISTINCT compares rows", "view"),
    (f"SELECT DISTINCT ON (carrier) carrier, flight {S}", 2, "DISTINCT compares rows", "view"),
    (f"SELECT row_number() OVER () AS n {S}", 2, "a window function compares rows", "view"),
    (f"SELECT carrier,\n  lag(flight) OVER (ORDER BY seen) AS n {S}", 3, "a window function compares rows", "view"),
    (f"SELECT sum(flight) OVER () AS n {S}", 2, "a window function compares rows", "view"),
    (f"SELECT carrier {S} QUALIFY row_number() OVER () = 1", 2, "QUALIFY compares rows", "view"),
    (f"SELECT carrier {S} LIMIT 3", 2, "LIMIT depends on the order of arrival", "LIMIT in the query"),
    (f"SELECT carrier {S} LIMIT 10%", 2, "LIMIT depends on all rows", "LIMIT in the query"),
    (f"SELECT carrier {S} OFFSET 3", 2, "LIMIT depends on the order", "LIMIT in the query"),
    (f"SELECT carrier {S} ORDER BY seen", 2, "ORDER BY needs all rows", "ORDER BY in the query"),
    (f"SELECT carrier {S} ORDER BY seen LIMIT 3", 2, "ORDER BY needs all rows", "ORDER BY in the query"),
    (f"SELECT carrier {S} USING SAMPLE 10%", 2, "a sample depends on chance", "hash(key)"),
    (f"SELECT carrier {S} TABLESAMPLE 10%", 2, "a sample depends on chance", "hash(key)"),
    # several inputs
    (f"SELECT f.carrier {S} f JOIN staging.flights g USING (flight)", 2, "a join would depend", 'kind = "view"'),
    (f"SELECT f.carrier {S} f LEFT JOIN staging.flights g ON f.flight = g.flight", 2, "a join would depend", "view"),
    (f"SELECT f.carrier {S} f ASOF JOIN staging.flights g ON f.seen >= g.seen", 2, "a join would depend", "view"),
    (f"SELECT f.carrier {S} f, staging.flights g", 2, "a join would depend", "view"),
    (f"SELECT f.carrier {S} f SEMI JOIN staging.flights g USING (flight)", 2, "a join would depend", "view"),
    (f"SELECT carrier, t.tag {S}, unnest(tags) AS t(tag)", 2, "a join would depend", "unnest(list) in the SELECT list"),
    (f"SELECT carrier {S} f, LATERAL (SELECT f.flight + 1) AS x", 2, "a join would depend", "view"),
    (f"SELECT carrier {S} UNION ALL SELECT carrier {S}", 2, "UNION brings several inputs together", "UNION ALL"),
    (f"SELECT carrier {S} UNION SELECT carrier {S}", 2, "UNION brings several inputs together", "UNION ALL"),
    (f"SELECT carrier {S} EXCEPT SELECT carrier {S}", 2, "UNION brings several inputs together", "view"),
    (f"SELECT carrier {S} INTERSECT SELECT carrier {S}", 2, "UNION brings several inputs together", "view"),
    (f"WITH c AS (SELECT carrier {S} UNION ALL SELECT carrier {S}) SELECT carrier FROM c", 2, "UNION brings", "view"),
    (f"WITH RECURSIVE c AS (SELECT flight {S} UNION ALL SELECT flight + 1 FROM c) SELECT flight FROM c", 2, "recursive CTE", "view"),
    (f"WITH c AS (SELECT * {S}) SELECT a.carrier FROM c a JOIN c b USING (flight)", 2, "a join would depend", "view"),
    ("SELECT a FROM (VALUES (1)) AS v(a)", 2, "VALUES are not the log", "source"),
    ("VALUES (1)", 2, "VALUES are not the log", "source"),
    ("SELECT 1 AS one", 2, "no FROM", "staging.<source>"),
    ("SELECT i FROM range(10) AS t(i)", 2, "a table function is not the log", "staging.<source>"),
    ("SELECT * FROM read_csv('x.csv')", 2, "a table function is not the log", "staging.<source>"),
    ("SELECT * FROM delta_scan('x')", 2, "a table function is not the log", "staging.<source>"),
    ("SELECT * FROM 'x.parquet'", 2, "'x.parquet' is not the name of a table", "layer.table"),
    ("SELECT * FROM flights", 2, "'flights' is not the name of a table", "staging.flights"),
    ("SELECT * FROM memory.staging.flights", 2, "is not the name of a table", "layer.table"),
    (f"SELECT carrier {S} AT (VERSION => 3)", 2, "AT reads an old version", "without AT"),
    ("PIVOT staging.flights ON carrier USING sum(flight)", 2, "not a SELECT", "one SELECT"),
    # subqueries in expressions
    (f"SELECT carrier {S} WHERE flight IN (SELECT flight {S})", 2, "a subquery in an expression reads other rows", "CASE"),
    (f"SELECT carrier,\n(SELECT max(flight) {S}) AS m {S}", 3, "a subquery in an expression reads other rows", "view"),
    (f"SELECT carrier {S} f WHERE EXISTS (SELECT 1 {S} g WHERE g.flight = f.flight)", 2, "a subquery in an expression", "view"),
    (f"SELECT carrier {S} WHERE flight = ANY (SELECT flight {S})", 2, "a subquery in an expression", "view"),
    (f"SELECT carrier {S} WHERE flight = ANY(scores)", 2, "a subquery in an expression", "view"),
    (f"SELECT ARRAY(SELECT flight {S}) AS a {S}", 2, "a subquery in an expression", "view"),
    # time, chance and session
    (f"SELECT now() AS t {S}", 2, "now depends on the clock", "_timestamp"),
    (f"SELECT carrier {S}\nWHERE seen < current_timestamp", 3, "current_timestamp depends on the clock", "_timestamp"),
    (f"SELECT current_date AS d {S}", 2, "current_date depends on the clock", "_timestamp"),
    (f"SELECT today() AS d {S}", 2, "today depends on the clock", "_timestamp"),
    (f"SELECT age(seen) AS a {S}", 2, "age with one argument depends on the clock", "age(later, earlier)"),
    (f"SELECT get_current_time() AS a {S}", 2, "depends on the clock", "_timestamp"),
    (f"SELECT random() AS r {S}", 2, "random depends on chance", "md5"),
    (f"SELECT uuid() AS r {S}", 2, "uuid depends on chance", "md5"),
    (f"SELECT gen_random_uuid() AS r {S}", 2, "gen_random_uuid depends on chance", "md5"),
    (f"SELECT current_setting('threads') AS r {S}", 2, "current_setting depends on the session", "constant"),
    (f"SELECT getvariable('x') AS r {S}", 2, "getvariable depends on the session", "constant"),
    (f"SELECT nextval('s') AS r {S}", 2, "nextval depends on the session", "constant"),
    (f"SELECT current_user AS r {S}", 2, "current_user depends on the session", "constant"),
    (f"SELECT rowid AS r {S}", 2, "rowid depends on the session", "column"),
    (f"SELECT txid_current() AS r {S}", 2, "txid_current depends on the session", "constant"),
    (f"SELECT list_aggregate(scores, 'reservoir_quantile', 0.5) AS r {S}", 2, "any aggregate's name", "list_sum"),
    (f"SELECT error('x') AS r {S}", 2, "not on the list of row-local functions", "docs/tables.md"),
    (f"SELECT getenv('HOME') AS r {S}", 2, "there is no function getenv", "docs/tables.md"),
    (f"SELECT pg_sleep(1) AS r {S}", 2, "pg_sleep is not on the list", "docs/tables.md"),
    (f"SELECT regexp_split_to_table(code, ',') AS r {S}", 2, "regexp_split_to_table is not on the list", "docs/tables.md"),
    (f"SELECT generate_subscripts(tags, 1) AS r {S}", 2, "generate_subscripts is not on the list", "docs/tables.md"),
    (f"SELECT vector_type(code) AS r {S}", 2, "vector_type is not on the list", "docs/tables.md"),
    (f"SELECT list_transform(tags, x -> x || random()) AS r {S}", 2, "random depends on chance", "md5"),
    (f"WITH c AS (SELECT carrier, now() AS t {S}) SELECT carrier FROM c", 2, "now depends on the clock", "_timestamp"),
    # names and types
    (f"SELECT dep_dela {S}", 2, 'Referenced column "dep_dela" not found', "dep_delay"),
    (f"SELECT carrier,\n uper(carrier) AS u {S}", 3, "there is no function uper", "upper"),
    (f"SELECT upper(carrier, 1) AS u {S}", 2, "No function matches", "upper(VARCHAR)"),
    (f"SELECT carrier::intt AS u {S}", 2, "intt", "int"),
    (f"SELECT upper(carrier) {S}", 2, "has no name that a table can hold", "AS name"),
    (f'SELECT carrier AS "my carrier" {S}', 2, "has no name that a table can hold", "AS name"),
    (f"SELECT carrier AS _c {S}", 2, "_c begins with _", "AS c"),
    (f"SELECT _offset {S}", 2, "_offset begins with _", "AS offset"),
    (f"SELECT carrier, code AS Carrier {S}", 2, "two columns are called Carrier", "Carrier_2"),
    (f"SELECT *, flight AS carrier {S}", 2, "two columns are called carrier", "carrier_2"),
    (f"SELECT flights AS f {S}", 2, "flights stands for the whole row", "the columns that you need"),
    (f"SELECT COLUMNS('c.*') {S}", 2, "COLUMNS picks columns by a pattern", "EXCLUDE"),
    (f"SELECT * LIKE 'c%' {S}", 2, "picks columns by a pattern", "names"),
    (f"SELECT #1 AS a {S}", 2, "#1 depends on the order of the columns", "name"),
    (f"SELECT $1 AS a {S}", 2, "a parameter has no value", "constant"),
    (f"SELECT carrier,\nseen::time AS t {S}", 3, "TIME, which Delta cannot hold", "varchar"),
    (f"SELECT seen::time AS t {S}", 2, "TIME, which Delta cannot hold", "varchar"),
    (f"SELECT seen - seen AS t {S}", 2, "INTERVAL, which Delta cannot hold", "varchar"),
    (f"SELECT md5(code)::uuid AS t {S}", 2, "UUID, which Delta cannot hold", "varchar"),
    (f"SELECT map {{flight: 'a'}} AS t {S}", 2, "which Delta cannot hold", "json"),
    (f"SELECT carrier, unnest(code) AS t {S}", 2, "UNNEST() can only be applied to lists", "SQL that DuckDB can bind"),
    (f"SELECT unnest(unnest([tags])) AS t {S}", 2, "Nested UNNEST", "SQL that DuckDB can bind"),
    (f"SELECT unnest([tags], recursive := true) AS t {S}", 2, "unnest with options", "one unnest"),
    # not one SELECT
    ("", 1, "no SQL", "one SELECT"),
    ("-- nothing\n", 2, "", "one SELECT"),
    (f"SELECT carrier\n{S} WHER true AND", 3, "not SQL: syntax error", "DuckDB's dialect"),
    (f"SELECT carrier {S}; SELECT carrier {S}", 2, "2 statements", "one SELECT"),
    ("CREATE TABLE x (a integer)", 2, "not a SELECT", "one SELECT"),
    ("COPY staging.flights TO 'x'", 2, "not a SELECT", "one SELECT"),
]


@pytest.mark.parametrize(("sql", "line", "cause", "fix"), REFUSED, ids=[row[0][:60] or "empty" for row in REFUSED])
def test_an_append_table_refuses(tmp_path: Path, sql: str, line: int, cause: str, fix: str) -> None:
    found = plan(tmp_path, {"core/t.sql": append(sql)}).findings
    assert found
    assert {finding.file for finding in found} == {"core/t.sql"}
    assert any(finding.line == line and cause in finding.cause and fix in finding.fix for finding in found), [str(f) for f in found]


def test_all_findings_of_a_file_are_shown(tmp_path: Path) -> None:
    sql = f"SELECT now() AS a,\n random() AS b,\n sum(flight) AS c {S}"
    found = plan(tmp_path, {"core/t.sql": append(sql)}).findings
    assert [(finding.line, finding.cause.split()[0]) for finding in found] == [(2, "now"), (3, "random"), (4, "sum")]


def test_what_a_table_reads_is_reported_once(tmp_path: Path) -> None:
    files = {"core/a.sql": append(f"SELECT now() AS a {S}"), "core/b.sql": append("SELECT a FROM core.a")}
    assert [finding.file for finding in plan(tmp_path, files).findings] == ["core/a.sql"]
