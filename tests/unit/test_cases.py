"""`kappa test`: what passes, and what is said of what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.project import load_project
from infra.cases.verdict import run_case
from tests.inprocess import kappa
from tests.unit.test_cli_listings import example, same_shape

ROOT = Path(__file__).parents[2]
FILES = {
    "warehouse.toml": 'name = "shop"\n',
    "sources/sales.toml": """topic = "sales"
format = "json"
key = ["id"]
null_values = "delete"
[columns]
id = "integer not null"
place = "varchar"
price = "decimal(10,2)"
weight = "double"
tags = "varchar[]"
seen = "timestamptz"
""",
    "sources/notes.toml": 'topic = "notes"\nformat = "text"\n[columns]\nnote = "varchar"\n',
    "core/sale.sql": '/*\nkind = "upsert"\nsequence = "seen"\n*/\nSELECT id, place, price, weight, tags, seen FROM staging.sales',
    "core/note.sql": '/* kind = "append" */ SELECT CAST(note AS integer) AS number FROM staging.notes',
    "analytics/place.sql": '/* kind = "summary" */ SELECT place, count(*) AS sales, avg(weight) AS weight FROM core.sale GROUP BY place',
    "analytics/share.sql": '/* kind = "materialized" */ SELECT place, sales / sum(sales) OVER () AS share FROM analytics.place',
    "analytics/all.sql": '/* kind = "view" */ SELECT sum(sales) AS sales FROM analytics.place',
}
GIVEN = """
[given.sales]
text = '''
{"id": 1, "place": "here", "price": 1.10, "weight": 0.1, "tags": ["a", "b"], "seen": "2026-01-01T00:00:00Z"}
{"id": 1, "place": "there", "price": 1.20, "weight": 0.2, "tags": [], "seen": "2026-01-02T00:00:00Z"}
{"id": 2, "place": "there", "price": 2.00, "weight": 0.1, "seen": "2026-01-01T00:00:00Z"}
{"id": "x"}
'''
records = '''
{"key": {"id": 3}, "value": {"id": 3, "place": "gone", "seen": "2026-01-01T00:00:00Z"}}
{"key": {"id": 3}, "value": null}
'''
[given.notes]
text = "7\\nseven\\n"
"""
EXPECT = """
[expect."core.sale"]
count = 2
rows = '''
{"id": 2, "place": "there", "price": 2, "tags": null, "seen": "2026-01-01T00:00:00+00"}
{"id": 1, "place": "there", "price": 1.20, "tags": [], "seen": "2026-01-02T00:00:00Z"}
'''
[expect."analytics.place"]
rows = '{"place": "there", "sales": 2, "weight": 0.15}'
[expect."analytics.all"]
rows = '{"sales": 2}'
[expect."analytics.share"]
rows = '{"place": "there", "share": 1.0}'
[expect."staging.sales__rejected"]
rows = '{"code": "wrong_type", "column": "id", "value": "{\\"id\\": \\"x\\"}"}'
[expect."core.note"]
rows = '{"number": 7}'
[expect."core.note__rejected"]
rows = '{"code": "transform_error", "value": "seven"}'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "tests").mkdir()
    return tmp_path


def test_a_test_that_passes(folder: Path) -> None:
    (folder / "tests/all.toml").write_text(GIVEN + EXPECT)
    said = kappa(folder, "test")
    assert said.startswith("ok     tests/all.toml (")
    assert said.endswith("1 passed, 0 failed\n")
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"price": 1.20, "tags"', '"price": 1.21, "tags"', ['core.sale: 1 rows are missing: {"id":1,', "sale: 1 rows are not expected: "]),
        ("count = 2", "count = 3", ["core.sale: 2 rows, and 3 are expected"]),
        ('"weight": 0.15', '"weight": 0.151', ["analytics.place: 1 rows are missing"]),
        ('{"sales": 2}', '{"sale": 2}', ["analytics.all: it has no column sale, but sales"]),
        ('{"sales": 2}', "sales", ["analytics.all: the expected rows are no JSON objects"]),
        ('{"number": 7}', '{"number": "x"}', ["core.note: an expected value is none of its column's"]),
        ('"analytics.all"', '"analytics.al"', ["no table analytics.al", "did you mean analytics.all"]),
        ('"place": "there", "price": 2,', '"price": 2,', ["core.sale: all expected rows name the same columns"]),
        ("given.notes", "given.note", ["no source 'note'"]),
        ("count = 2", "number = 2", ["expect.core.sale.number: Extra inputs are not permitted"]),
        ('"value": null}', '"values": null}', ["a record has key and value, not values"]),
        ("[given.sales]", "[given.sales", ["is not a test"]),
    ],
)
def test_what_is_wrong_is_said(folder: Path, old: str, new: str, said: list[str]) -> None:
    text = GIVEN + EXPECT
    assert old in text
    path = folder / "tests/all.toml"
    path.write_text(text.replace(old, new))
    failures = "\n".join(run_case(load_project(folder), path).failures)
    for part in said:
        assert part in failures, failures


def test_a_table_that_fails_on_the_events(folder: Path) -> None:
    source = folder / "sources/sales.toml"
    source.write_text(source.read_text() + '[rules.sane]\ncheck = "price < 2"\non_failure = "fail"\n')
    (folder / "tests/all.toml").write_text(GIVEN + EXPECT)
    said = kappa(folder, "test", status=1)
    assert "staging.sales failed: the record sales/0/2 breaks the rule sane" in said
    assert said.endswith("0 passed, 1 failed\n")


def test_files_and_json(folder: Path) -> None:
    (folder / "tests/sales.ndjson").write_text('{"id": 5, "place": "far"}\n')
    (folder / "tests/one.toml").write_text('[given.sales]\nfiles = "sales.ndjson"\n[expect."analytics.place"]\ncount = 1\n')
    (folder / "tests/two.toml").write_text('[given.sales]\nfiles = ["none.ndjson"]\n[expect."analytics.place"]\ncount = 1\n')

    printed = json.loads(kappa(folder, "test", "--json", status=1))
    assert [(each["test"], bool(each["failures"])) for each in printed["tests"]] == [("tests/one.toml", False), ("tests/two.toml", True)]
    same_shape(example("kappa test --json"), printed)
    assert "1 passed" in kappa(folder, "test", str(folder / "tests/one.toml"))
    (folder / "tests/one.toml").unlink()
    (folder / "tests/two.toml").unlink()
    assert "there are no tests" in kappa(folder, "test")


@pytest.mark.parametrize("warehouse", ["examples/flights", "infra/template"])
def test_the_tests_of_our_own_warehouses_pass(tmp_path: Path, warehouse: str) -> None:
    folder = ROOT / warehouse
    if warehouse == "infra/template":
        folder = tmp_path / "shop"
        kappa(tmp_path, "init", "shop")
    assert " 0 failed" in kappa(folder, "test")
