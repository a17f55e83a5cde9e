"""Upsert tables as they are declared: key, sequence, deletes and partitions, and what ``check`` says of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from flows.batch import Batch
from flows.conform import Conform
from flows.fingerprint import definitions
from flows.plan import Node, analyse
from flows.stage import Stage
from flows.upsert import Upsert
from tests.folder import FLIGHTS, append, plan, view, write
from tests.memory import Record, split

SYSTEM = ["_partition", "_offset", "_timestamp"]
PICKED = "SELECT carrier, flight, seen, dep_delay FROM staging.flights"


def upsert(sql: str, settings: str = "") -> str:
    """Its SQL begins on line 2, after settings that are separated by semicolons."""
    lines = "\n".join(['kind = "upsert"', *filter(None, settings.split("; "))])
    return f"/*\n{lines}\n*/\n{sql}\n"


def node_of(tmp_path: Path, sql: str, settings: str = "", source: str = FLIGHTS) -> Node:
    found = plan(tmp_path, {"core/t.sql": upsert(sql, settings), "sources/flights.toml": source})
    assert not found.findings, found.findings
    return found.nodes["core.t"]


def refusal(tmp_path: Path, sql: str, settings: str = "", source: str = FLIGHTS) -> str:
    found = plan(tmp_path, {"core/t.sql": upsert(sql, settings), "sources/flights.toml": source})
    assert len(found.findings) == 1, found.findings
    return str(found.findings[0])


def test_by_default_key_and_sequence_are_the_sources(tmp_path: Path) -> None:
    node = node_of(tmp_path, PICKED)
    assert node.upsert == Upsert(("carrier", "flight"), "seen")
    assert node.schema.names == ["carrier", "flight", "seen", "dep_delay", "_deleted", *SYSTEM]


def test_a_sequence_that_is_no_column_is_stored(tmp_path: Path) -> None:
    node = node_of(tmp_path, "SELECT carrier, flight FROM staging.flights")
    assert node.upsert == Upsert(("carrier", "flight"), "_sequence")
    assert node.schema.names == ["carrier", "flight", "_sequence", "_deleted", *SYSTEM]
    assert node.schema.field("_sequence").type == pa.timestamp("us", "UTC")
    assert node.lineage["_sequence"] == ("staging.flights.seen",)


def test_settings_read_what_the_select_reads(tmp_path: Path) -> None:
    sql = "SELECT f.carrier AS airline, flight % 10 AS gate FROM staging.flights AS f WHERE code IS NOT NULL"
    settings = 'key = ["Airline", "gate"]; sequence = "amount * 2"; delete_when = "f.code = \'X\' OR gate = 3"; tombstone_retention_s = 60'
    node = node_of(tmp_path, sql, settings)
    assert node.upsert == Upsert(("airline", "gate"), "_sequence", 60)
    assert node.lineage["_deleted"] == ("staging.flights.code", "staging.flights.flight")


def test_the_sequence_leads_the_order_of_files_when_it_is_in_the_key() -> None:
    assert Upsert(("a", "at"), "at").cluster == ("at", "a")
    assert Upsert(("a", "at"), None).cluster == ("a", "at")
    assert Upsert(("a",), "at").order(row=True) == ("at", "_partition", "_offset", "_row")


def test_without_event_time_one_partition_has_an_order(tmp_path: Path) -> None:
    source = FLIGHTS.replace('event_time = "seen"', "")
    assert node_of(tmp_path, PICKED, source=source).upsert == Upsert(("carrier", "flight"), None)
    said = refusal(tmp_path, PICKED, source=source.replace("[columns]", "partitions = 2\n[columns]"))
    assert "core/t.sql:1: without a sequence the order of the log decides, and flights has 2 partitions" in said
    assert 'write: sequence = "updated_at", or event_time in sources/flights.toml' in said


@pytest.mark.parametrize(
    ("sql", "settings", "said"),
    [
        (
            "SELECT carrier, seen FROM staging.flights",
            "",
            "core/t.sql:1: the key, by default the source's, names flight, which the SELECT does",
        ),
        (PICKED, 'key = ["fligt"]', "core/t.sql:3: the key names fligt, which the SELECT does not give\n    write: flight"),
        (PICKED, 'key = ["dep_delay"]', "core/t.sql:3: the key column dep_delay is DOUBLE, whose equality is not that of a key"),
        (PICKED + " WHERE flight > 1", 'sequence = "sen"', "core/t.sql:3: "),
        (PICKED, 'sequence = "tags"', "core/t.sql:3: the sequence is VARCHAR[], which has no order of versions"),
        (PICKED, 'delete_when = "now() > seen"', "core/t.sql:3: now depends on the clock"),
        (PICKED, 'delete_when = "max(flight) > 3"', "core/t.sql:3: max "),
        (PICKED, 'delete_when = "(SELECT true)"', "core/t.sql:3: a subquery in an expression reads other rows"),
        (PICKED, "delete_when = \"unnest(tags) = 'x'\"", "core/t.sql:3: * and unnest give several values"),
        (PICKED, 'delete_when = "code ="', "core/t.sql:3: "),
        (PICKED, 'delete_when = "tags"', "core/t.sql:3: the condition is VARCHAR[], not true or false"),
        ("SELECT carrier, flight, seen AS _seen FROM staging.flights", "", "core/t.sql:4: the column _seen begins with _"),
        ("SELECT carrier, flight, true AS _deleted FROM staging.flights", "", "core/t.sql:4: the column _deleted begins with _"),
        ("SELECT carrier, count(*) AS flight FROM staging.flights GROUP BY 1", "", "an upsert table sees one record at a time"),
        (
            "SELECT carrier, flight, seen, dest FROM (SELECT *, code AS dest FROM staging.flights)",
            'partition_by = ["dest"]',
            "core/t.sql:3: partition_by names dest, which is not computed from the key alone",
        ),
        (
            "SELECT lower(carrier) AS carrier, flight, seen, upper(carrier) AS big FROM staging.flights",
            'partition_by = ["big"]',
            "core/t.sql:3: partition_by names big, which is not computed from the key alone",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, sql: str, settings: str, said: str) -> None:
    assert said in refusal(tmp_path, sql, settings)


def test_a_sequence_that_does_not_come_up_to_the_select_must_be_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, "SELECT carrier, flight FROM (SELECT carrier, flight FROM staging.flights)")
    assert "the sequence is by default the source's event time seen, which does not come as far as this SELECT" in said


def test_partitions_are_functions_of_the_key(tmp_path: Path) -> None:
    sql = "SELECT carrier, flight, seen, flight // 100 AS hundred, upper(carrier) AS big FROM staging.flights WHERE flight > 0"
    assert node_of(tmp_path, sql, 'partition_by = ["hundred", "big", "carrier"]').partition_by == ("hundred", "big", "carrier")


def test_settings_of_upsert_tables_are_refused_elsewhere(tmp_path: Path) -> None:
    files = {"core/t.sql": append(PICKED, ', key = ["flight"]').replace(", key", "\nkey")}
    (finding,) = plan(tmp_path, files).findings
    assert "key is a setting of upsert and materialized tables, and this one is append" in str(finding)


def test_no_stream_reads_an_upsert_table_and_a_view_does(tmp_path: Path) -> None:
    files = {"core/t.sql": upsert(PICKED), "core/v.sql": view("SELECT * FROM core.t")}
    found = plan(tmp_path, files)
    assert not found.findings
    assert list(found.views["core.v"].columns) == ["carrier", "flight", "seen", "dep_delay"]
    (finding,) = plan(tmp_path, {**files, "core/u.sql": append("SELECT flight FROM core.t")}).findings
    assert "core.t is an upsert table: its rows change, and an append table reads a stream of rows that stay" in str(finding)
    assert 'FROM what core.t reads, or kind = "view" here' in str(finding)


def test_what_replaces_what_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(settings: str) -> str:
        project = write(tmp_path, {"core/t.sql": upsert(PICKED, settings)})
        return definitions(project, analyse(project))["core.t"].fingerprint

    same = fingerprint("")
    assert fingerprint('description = "x"') == same
    settings = ('key = ["flight"]', 'sequence = "amount"', "delete_when = \"code = 'X'\"", "tombstone_retention_s = 5")
    others = {fingerprint(each) for each in settings}
    assert len(others | {same}) == len(settings) + 1


def test_rows_without_a_key_are_rejects_and_tombstones_hold_no_values(tmp_path: Path) -> None:
    node = node_of(tmp_path, "SELECT code, flight, seen, tags FROM staging.flights", 'key = ["code"]; delete_when = "flight = 2"')
    rows = pa.table(
        {
            "code": ["a", None, "b"],
            "flight": pa.array([1, 1, 2], pa.int32()),
            "seen": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
            "tags": [["x"], ["y"], ["z"]],
            "_partition": pa.array([0, 0, 0], pa.int32()),
            "_offset": [0, 1, 2],
            "_timestamp": pa.array([None] * 3, pa.timestamp("us", "UTC")),
        }
    )
    (batch,) = split({0: [Record(offset, b"{}") for offset in range(3)]}, {0: 0}, [3], [True])
    assert isinstance(batch, Batch)
    made = Conform(node).conform(rows, batch)
    assert made.rows.select(["code", "flight", "tags", "_deleted", "_offset"]).to_pylist() == [
        {"code": "a", "flight": 1, "tags": ["x"], "_deleted": False, "_offset": 0},
        {"code": "b", "flight": None, "tags": None, "_deleted": True, "_offset": 2},
    ]
    assert made.rows.column("seen").null_count == 0
    assert made.rejects.select(["_offset", "code", "reason"]).to_pylist() == [
        {"_offset": 1, "code": "null_key", "reason": "the key column code is null"}
    ]


NULLS = f'null_values = "delete"\n{FLIGHTS}'


def test_a_record_without_a_value_deletes_by_the_sources_key(tmp_path: Path) -> None:
    node = node_of(tmp_path, "SELECT flight AS number, carrier, seen FROM staging.flights", 'key = ["number", "carrier"]', NULLS)
    assert node.upsert == Upsert(("number", "carrier"), "seen", delete_key=("flight", "carrier"))
    assert node.upsert.open_sequence == "seen"
    leading = node_of(tmp_path, "SELECT carrier, flight FROM staging.flights", 'sequence = "flight"', NULLS)
    assert leading.upsert is not None
    assert leading.upsert.open_sequence is None  # the key has it


@pytest.mark.parametrize(
    ("sql", "settings", "said"),
    [
        (PICKED, 'key = ["carrier"]', "by its Kafka key, which is carrier, flight, and the key here is carrier"),
        ("SELECT lower(carrier) AS carrier, flight, seen FROM staging.flights", "", "key = the columns carrier, flight as they are"),
        (
            "SELECT carrier, flight, seen, flight % 10 AS tens FROM staging.flights",
            'partition_by = ["tens"]',
            "partition_by names tens, which is computed",
        ),
        ("SELECT carrier, flight, seen FROM core.all", "", "core.all does not pass it on"),
    ],
)
def test_a_table_that_cannot_take_deletes_without_a_value_is_refused(tmp_path: Path, sql: str, settings: str, said: str) -> None:
    files = {
        "core/t.sql": upsert(sql, settings),
        "core/all.sql": append("SELECT * EXCLUDE (_extra) FROM staging.flights"),
        "sources/flights.toml": NULLS,
    }
    (finding,) = plan(tmp_path, files).findings
    assert said in str(finding)
    assert finding.file == "core/t.sql"


def test_a_source_without_a_key_cannot_delete_by_it(tmp_path: Path) -> None:
    bare = "\n".join(line for line in NULLS.splitlines() if not line.startswith("key ="))
    assert "the source has no key to name it by" in refusal(tmp_path, PICKED, 'key = ["carrier", "flight"]', bare)


def test_keys_that_no_text_can_be_are_refused(tmp_path: Path) -> None:
    assert "the key has 2 columns: a text is one value" in refusal(tmp_path, PICKED, "", f'key_format = "text"\n{FLIGHTS}')


def test_a_delete_by_key_where_a_record_gives_several_rows(tmp_path: Path) -> None:
    source = 'topic = "t"\nformat = "json"\nkey = ["id"]\nnull_values = "delete"\n[columns]\nid = "integer not null"\ntags = "varchar[]"\n'
    project = write(tmp_path, {"sources/t.toml": source, "core/t.sql": upsert("SELECT id, unnest(tags) AS tag FROM staging.t")})
    found = analyse(project)
    assert not found.findings, found.findings
    log = {0: [Record(0, b'{"id": 1, "tags": ["a", "b"]}', b'{"id":1}'), Record(1, None, b'{"id":1}')]}
    (batch,) = split(log, {0: 0}, [10], [True])
    staged = Stage(project.sources["t"]).stage(batch)
    made = Conform(found.nodes["core.t"]).conform(staged.rows, batch, staged.deletes).rows
    assert made.select(["tag", "_deleted", "_row"]).to_pylist()[-1] == {"tag": None, "_deleted": True, "_row": 0}
