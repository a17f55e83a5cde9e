"""Rejects that are mended on a real Kafka: exported, corrected, resent, counted once, also after a rebuild; and rules that fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from confluent_kafka import Producer

from tests.inprocess import audit, kappa
from tests.unit.test_cli_listings import example, same_shape
from tests.warehouse import Warehouse

pytestmark = pytest.mark.slow
SOURCE = """
topic = "{topic}"
format = "csv"
key = ["id"]
partitions = 3
corrections = true
[columns]
id = "integer not null"
amount = "{amount}"
note = "varchar"
[rules.positive]
check = "amount > 0"
"""
TABLE = '/* kind = "append" */ SELECT id, amount, length(note) AS size FROM staging.sales'
ROWS = 40
BAD = range(0, ROWS, 5)  # "twelve" for an integer in the column amount; 20 is zero, which breaks the rule


def write_source(folder: Path, topic: str, amount: str = "integer") -> None:
    (folder / "sources/sales.toml").write_text(SOURCE.format(topic=topic, amount=amount))


@pytest.fixture
def sales(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A file of ROWS rows over three partitions, loaded and run: those of BAD are rejects, and one row cannot be read."""
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    folder = tmp_path / "warehouse"
    for part in ("sources", "core"):
        (folder / part).mkdir(parents=True)
    (folder / "warehouse.toml").write_text('name = "sales"\n')
    write_source(folder, topic_name)
    (folder / "core/sale.sql").write_text(TABLE)
    lines = [f"{n},{'0' if n == 20 else 'twelve' if n in BAD else n + 1},note of {topic_name}" for n in range(ROWS)]
    (folder / "sales.csv").write_text("\n".join(["id,amount,note", *lines, f'{ROWS},7,"x"y', ""]))
    kappa(folder, "load", "sales", str(folder / "sales.csv"))
    kappa(folder, "run", "--until-caught-up")
    return Warehouse(folder, kafka.bootstrap, topic_name, 3)


def export(warehouse: Warehouse, *filters: str, name: str = "bad.ndjson") -> Path:
    file = warehouse.folder / name
    kappa(warehouse.folder, "rejects", "sales", *filters, "--export", str(file))
    return file


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the records of an exported NDJSON file, as a person does in an editor."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        change(record)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def mend(record: dict[str, Any]) -> None:
    """Half of the values as texts, half as objects; the row that could not be read is written anew."""
    if record["code"] == "unreadable_row":
        record["value"] = {"id": str(ROWS), "amount": "7", "note": "x"}
        return
    value = json.loads(record["value"])
    value["amount"] = "12"
    record["value"] = value if int(value["id"]) % 2 else json.dumps(value)


def resend(warehouse: Warehouse, file: Path, *options: str, status: int = 0) -> str:
    return kappa(warehouse.folder, "rejects", "resend", "sales", str(file), *options, status=status)


def sales_of(warehouse: Warehouse) -> list[int]:
    return sorted(row["id"] for row in warehouse.rows("core.sale"))


def counts(warehouse: Warehouse, *filters: str) -> dict[str, int]:
    report = json.loads(kappa(warehouse.folder, "rejects", "sales", *filters, "--json"))
    return {row["code"]: row["rejects"] for row in report["counts"]}


def test_reject_resend_contract_corrected_rebuilt(sales: Warehouse) -> None:
    """Counted once at every stage, and each table is what the log gives (audit --full)."""
    assert sales_of(sales) == [n for n in range(ROWS) if n not in BAD]
    assert counts(sales) == {"bad_value": len(BAD) - 1, "rule": 1, "unreadable_row": 1}
    file = export(sales, "--open")
    edit(file, mend)
    assert f"would send {len(BAD) + 1} corrections" in resend(sales, file, "--dry-run")
    assert f"sent {len(BAD) + 1} corrections" in resend(sales, file)
    assert "already sent" in resend(sales, file)
    kappa(sales.folder, "run", "--until-caught-up")
    everything = list(range(ROWS + 1))
    assert sales_of(sales) == everything
    assert counts(sales) == {"bad_value": len(BAD) - 1, "rule": 1, "unreadable_row": 1}  # the rejects stay where they are
    assert counts(sales, "--open") == {}
    first = {(row["_partition"], row["_offset"]): row["key"] for row in sales.rows("staging.sales__rejected")}
    keys = {(row["_partition"], row["_offset"]): row["key"] for row in sales.rows("raw.sales")}
    mended = {
        (row["_partition"], row["_corrects"]): (row["id"], row["_offset"])
        for row in sales.rows("staging.sales")
        if row["_corrects"] is not None
    }
    assert set(mended) == set(first)
    for (partition, offset), (number, at) in mended.items():  # the original key; the row that had none got load's
        assert keys[partition, at] == (first[partition, offset] or b'{"id":"%d"}' % number)
    assert not audit(sales.folder, "--full")

    # once more, by hand and past the command: superseded
    assert f"nothing to send ({len(BAD) + 1} corrected already)" in resend(sales, file, "--again")
    producer = Producer(sales_config(sales))
    (partition, offset), _ = next(iter(mended.items()))
    headers = [("kappa-corrects", f"{sales.topic}/{partition}/{offset}".encode())]
    producer.produce(sales.topic, b'{"id":"1000","amount":"1","note":null}', partition=partition, headers=headers)
    assert producer.flush(30) == 0
    kappa(sales.folder, "run", "--until-caught-up")
    assert sales_of(sales) == everything
    assert counts(sales)["superseded"] == 1
    assert not audit(sales.folder, "--full")

    # the contract takes the first records as well: they count, and their corrections do not
    write_source(sales.folder, sales.topic, amount="varchar")
    (sales.folder / "sources/sales.toml").write_text(
        (sales.folder / "sources/sales.toml").read_text().replace("amount > 0", "amount <> ''")
    )
    kappa(sales.folder, "apply", "--yes")
    assert sales_of(sales) == everything
    amounts = {row["id"]: row["amount"] for row in sales.rows("core.sale")}
    assert (amounts[5], amounts[20], amounts[ROWS]) == ("twelve", "0", "7")  # the row that could not be read is still the corrected one
    assert counts(sales) == {"superseded": len(BAD) + 1, "unreadable_row": 1}
    assert not audit(sales.folder, "--full")


def sales_config(warehouse: Warehouse) -> dict[str, str]:
    return {"bootstrap.servers": warehouse.bootstrap, "log_level": "2"}


def test_a_correction_that_is_wrong_itself(sales: Warehouse) -> None:
    """Only what was changed is sent; a rejected correction is corrected in its turn; --open shows what is left."""
    file = export(sales, "--rule", "positive", name="first.ndjson")
    edit(file, lambda record: record.update(value=record["value"].replace('"0"', '"minus one"')))
    assert "sent 1 correction" in resend(sales, file)
    kappa(sales.folder, "run", "--until-caught-up")
    assert counts(sales, "--open") == {"bad_value": len(BAD), "rule": 1, "unreadable_row": 1}
    file = export(sales, "--open", name="second.ndjson")
    edit(file, lambda record: record.update(value=record["value"].replace("minus one", "1")))
    assert f"sent 1 correction ({len(BAD) + 1} unchanged)" in resend(sales, file)
    kappa(sales.folder, "run", "--until-caught-up")
    assert counts(sales, "--open") == {"bad_value": len(BAD) - 1, "unreadable_row": 1}
    assert 20 in sales_of(sales)
    assert not audit(sales.folder, "--full")
    report = json.loads(kappa(sales.folder, "rejects", "sales", "--rule", "positive", "--json"))
    (example,) = report["examples"]
    assert example["corrected_by"].startswith(f"{sales.topic}/")
    assert f"corrected by {example['corrected_by']}" in kappa(sales.folder, "rejects", "sales", "--rule", "positive")


def test_other_kinds_of_files(sales: Warehouse) -> None:
    """Each is read as it was written, and as other programs write it again."""
    bad = ("--code", "bad_value")
    mended = pl.col("value").str.replace("twelve", "12")
    frame = pl.read_parquet(export(sales, *bad, name="bad.parquet")).with_columns(mended)
    frame.write_parquet(sales.folder / "bad.parquet")
    pl.read_ipc_stream(export(sales, *bad, name="bad.arrow")).with_columns(mended).write_ipc_stream(sales.folder / "bad.arrow")
    frame.write_csv(sales.folder / "polars.csv")
    for name in ("bad.json", "bad.csv"):
        file = export(sales, *bad, name=name)
        file.write_text(file.read_text().replace("twelve", "12"))
    for name in ("bad.parquet", "bad.arrow", "polars.csv", "bad.json"):
        assert f"would send {len(BAD) - 1} corrections" in resend(sales, sales.folder / name, "--dry-run"), name
    answer = json.loads(resend(sales, sales.folder / "bad.csv", "--json"))
    assert answer["sent"] == answer["to_send"] == len(BAD) - 1
    same_shape(example("kappa rejects resend SOURCE FILE --json"), answer)
    kappa(sales.folder, "run", "--until-caught-up")
    assert sales_of(sales) == [n for n in range(ROWS) if n != 20]


def test_what_is_refused_sends_nothing(sales: Warehouse) -> None:
    file = export(sales, "--open")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lost = {**lines[0], "position": f"{sales.topic}/0/999999"}
    other = {**lines[0], "position": "other/0/1"}
    of_table = {**lines[1], "table": "core.sale"}
    empty = {**lines[2], "value": None}
    changed = {**lines[3], "value": "{}"}
    file.write_text("\n".join(map(json.dumps, [lost, other, of_table, empty, changed, changed])))
    said = resend(sales, file, status=1)
    for text in ("999999) is not rejected", "is not of topic", "refused by core.sale", "has no value", "is there twice"):
        assert text in said, text
    for content, cause in (
        ('{"position": "x"}', "record 1: its position is"),
        ('{"position": "t/0/1", "value": "a", "value_base64": "YQ=="}', "has both"),
        ('{"position": "t/0/1", "value_base64": "?"}', "no base64"),
        ("nonsense", "cannot be sent"),
    ):
        file.write_text(content)
        assert cause in resend(sales, file, status=1)
    assert "has no known suffix" in resend(sales, file.rename(file.with_suffix(".txt")), status=2)
    source = sales.folder / "sources/sales.toml"
    text = source.read_text()
    good = export(sales, "--open", name="good.ndjson")
    edit(good, mend)
    source.write_text(text.replace("corrections = true\n", ""))
    assert "write corrections = true into sources/sales.toml" in resend(sales, good, status=2)
    source.write_text(text)
    kappa(sales.folder, "run", "--until-caught-up")
    assert counts(sales) == {"bad_value": len(BAD) - 1, "rule": 1, "unreadable_row": 1}


def test_what_another_program_sent_is_not_corrected_in_its_topic(sales: Warehouse) -> None:
    producer = Producer(sales_config(sales))
    producer.produce(sales.topic, b'{"id":"x"}', partition=0)
    assert producer.flush(30) == 0
    kappa(sales.folder, "run", "--until-caught-up")
    file = export(sales, "--column", "id")
    edit(file, lambda record: record.update(value='{"id":"77","amount":"1"}'))
    assert "was sent by another program" in resend(sales, file, status=1)


def test_killed_again_and_again(sales: Warehouse) -> None:
    """Two corrections a transaction: each run goes on behind what the one before has committed."""
    file = export(sales, "--open")
    edit(file, mend)
    start = "import connectors.resend; connectors.resend.COMMIT_ROWS = 2; from infra.cli import main; main()"
    command = [sys.executable, "-c", start, *sales.command("rejects", "resend", "sales", str(file))[3:]]
    for point in ("resend.fenced:1", "resend.sent:1", "load.before-commit:2", "load.after-commit:2"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=sales.environment(KAPPA_FAULT=point))
        assert done.returncode == -9, done.stderr
    assert f"sent {len(BAD) + 1 - 6} corrections" in resend(sales, file)
    assert "already sent" in resend(sales, file)
    kappa(sales.folder, "run", "--until-caught-up")
    assert sales_of(sales) == list(range(ROWS + 1))
    assert counts(sales) == {"bad_value": len(BAD) - 1, "rule": 1, "unreadable_row": 1}


def test_a_run_killed_between_the_commits_of_two_tables(sales: Warehouse) -> None:
    """Staging and its rejects stand at different offsets then: what a correction names is known all the same."""
    settings = {"KAPPA_RUN__BATCH_ROWS": "3", "KAPPA_RUN__COMMIT_ROWS": "3"}
    for number, name in enumerate(("first.ndjson", "second.ndjson"), 1):  # of the same rejects: the second ones are superseded
        file = export(sales, name=name)
        edit(file, mend)
        file.write_text(file.read_text() + "\n" * number)
        assert f"sent {len(BAD) + 1} corrections" in resend(sales, file)
    for point in ("between-tables:2", "between-tables:4", "between-tables:6", "between-tables:13"):
        command = sales.command("run", "--until-caught-up")
        environment = sales.environment(KAPPA_FAULT=point, **settings)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
        assert done.returncode == -9, done.stderr
    kappa(sales.folder, "run", "--until-caught-up")
    assert sales_of(sales) == list(range(ROWS + 1))
    assert counts(sales)["superseded"] == len(BAD) + 1
    assert not audit(sales.folder, "--full")
    assert not audit(sales.folder, "core.sale", "--full")


def test_filters(sales: Warehouse) -> None:
    rows = sales.rows("staging.sales__rejected")
    everything = len(rows)

    def found(*filters: str) -> int:
        return int(json.loads(kappa(sales.folder, "rejects", "sales", *filters, "--limit", "0", "--json"))["total"])

    assert found() == everything == len(BAD) + 1
    assert found("--code", "rule", "--code", "bad_value") == len(BAD)
    assert found("--column", "amount") == len(BAD) - 1
    assert found("--table", "core.sale") == 0
    assert sum(found("--partition", str(p)) for p in range(3)) == everything
    (partition, offset), *_ = sorted((row["_partition"], row["_offset"]) for row in rows)
    assert found("--partition", str(partition), "--offsets", f"{offset}..{offset + 1}") == 1
    assert found("--partition", str(partition), "--offsets", f"..{offset}") == 0
    middle = sorted(row["_timestamp"] for row in rows)[everything // 2].isoformat()
    assert found("--since", middle) + found("--until", middle) == everything
    assert found("--until", "2020-01-01") == 0
    with pytest.raises(Exception, match="is no range of offsets"):
        kappa(sales.folder, "rejects", "sales", "--offsets", "7")
    with pytest.raises(Exception, match="is no time"):
        kappa(sales.folder, "rejects", "sales", "--since", "yesterday")


def test_a_rule_that_fails_and_how_to_go_on(sales: Warehouse) -> None:
    """The branch stops, says what to do, and each of the ways that it names goes on."""
    source = sales.folder / "sources/sales.toml"
    text = source.read_text()
    failing = '[rules.known]\ncheck = "id < 500"\non_failure = "fail"\n'
    source.write_text(text + failing)
    kappa(sales.folder, "run", "--until-caught-up")  # rules that fail are no part of the fingerprint
    (sales.folder / "more.csv").write_text(f"id,amount,note\n501,1,{sales.topic}\n41,1,\n")
    kappa(sales.folder, "load", "sales", str(sales.folder / "more.csv"))
    kappa(sales.folder, "run", "--until-caught-up", status=1)
    failures = {t["name"]: t["failure"] for t in json.loads(kappa(sales.folder, "tables", "--json"))["tables"] if t["failure"]}
    assert failures.keys() == {"staging.sales", "staging.sales__rejected", "core.sale", "core.sale__rejected"}
    failure = failures["staging.sales"]
    cause, (position,), next_step = failure["cause"], failure["positions"], failure["next_step"]
    assert position in cause
    for said in ("known", "id < 500 is false", '"501"'):
        assert said in cause
    assert "kappa apply" in next_step
    source.write_text(text + failing.replace('"fail"', '"warn"'))
    kappa(sales.folder, "run", "--until-caught-up")
    assert {41, 501} <= set(sales_of(sales))
    shown = json.loads(kappa(sales.folder, "show", "staging.sales", "--json"))
    assert shown["warned"] == {"known": 1}
    assert [commit["warned"] for commit in shown["commits"] if commit["warned"]] == [{"known": 1}]
    assert "known: 1" in kappa(sales.folder, "show", "staging.sales")
    source.write_text(text + failing.replace('"fail"', '"reject"'))
    kappa(sales.folder, "apply", "--yes")
    assert 501 not in sales_of(sales)
    assert counts(sales, "--rule", "known") == {"rule": 1}
