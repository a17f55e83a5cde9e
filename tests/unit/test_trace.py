"""From a row back to its records, offline: naming a row, whole records, an earlier topic's raw table, tables that are not at the cut."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.fingerprint import definitions
from flows.plan import analyse
from flows.project import load_project
from infra.trace.history import _by_record
from infra.trace.keys import KeyWrong, condition, pairs, written
from infra.trace.records import Trace
from infra.trace.tables import Tables
from infra.trace.trace import trace
from sinks.record import Failure
from tests.stored import LOG, Root
from tests.warehouse import write_folder

COLUMNS = ["id", "Kind", "_partition", "_offset", "_row"]


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=2))
def test_what_is_written_names_the_same_values(texts: list[str | None]) -> None:
    """As printed for the next command, through a shell: unless all of them look like column=value."""
    arguments = shlex.split(" ".join(map(written, texts)))
    assert pairs("t", arguments, ["a", "b"], []) == list(zip(["a", "b"], texts, strict=True))


def test_a_row_is_named_by_its_key_or_by_columns() -> None:
    assert pairs("t", ["7", "NULL"], ["id", "Kind"], COLUMNS) == [("id", "7"), ("Kind", None)]
    assert pairs("t", ["KIND=a=b", "id='NULL'"], ["id"], COLUMNS) == [("Kind", "a=b"), ("id", "NULL")]
    assert pairs("t", ["other=1"], ["id"], COLUMNS) == [("id", "other=1")]
    assert pairs("t", ["0", "17"], COLUMNS[2:], COLUMNS) == [("_partition", "0"), ("_offset", "17")]
    with pytest.raises(KeyWrong, match="its key has 2: id, Kind"):
        pairs("t", ["7"], ["id", "Kind"], COLUMNS)
    with pytest.raises(KeyWrong, match="1 value name no row"):
        pairs("t", ["17"], COLUMNS[2:], COLUMNS)
    types = {"id": "BIGINT", 'a"b': "VARCHAR"}
    assert condition([("id", "7"), ('a"b', "it's")], types) == (
        "\"id\" IS NOT DISTINCT FROM CAST('7' AS BIGINT) AND \"a\"\"b\" IS NOT DISTINCT FROM CAST('it''s' AS VARCHAR)"
    )


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=40).map(sorted),
    st.integers(1, 7),
)
def test_records_are_read_whole(places: list[tuple[int, int]], size: int) -> None:
    rows = pa.table(
        [pa.array([p for p, _ in places], pa.int32()), pa.array([o for _, o in places], pa.int64())], names=["_partition", "_offset"]
    )
    pieces = list(_by_record(iter(rows.to_batches(max_chunksize=size))))
    assert pa.concat_tables([rows.schema.empty_table(), *pieces]).equals(rows)
    seen: set[tuple[int, int]] = set()
    for piece in pieces:
        here = set(zip(piece.column(0).to_pylist(), piece.column(1).to_pylist(), strict=True))
        assert len({partition for partition, _ in here}) == 1
        assert seen.isdisjoint(here)
        seen |= here


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Eight records; the raw table has read them from a topic of the same name that was made before this one."""
    write_folder(tmp_path, "t")
    project = load_project(tmp_path)
    root = Root(tmp_path / "data")
    for name, definition in definitions(project, analyse(project)).items():
        if name in ("raw.events", "staging.events", "core.tag", "core.event"):
            root.log = replace(LOG, topics={"t": "topic-0"}) if name == "raw.events" else LOG
            root.table(name, definition.schema, definition.partition_by, definition.fingerprint, definition.json)
            root.tables[name].commit({0: (0, 8, range(8))})
    return root


def explained(root: Root, table: str, *values: str) -> Trace:
    return trace(load_project(Path(root.path).parent), table, values, 20, None)


def test_the_raw_table_of_an_earlier_topic_has_other_events(root: Root) -> None:
    (record,) = explained(root, "staging.events", "0", "3").records
    assert record.found == "no raw table holds it, and Kafka is not running"
    (record,) = explained(root, "raw.events", "0", "3").records
    assert record.found[0] == "raw"


def test_a_table_that_is_not_at_the_cut_is_named(root: Root) -> None:
    assert explained(root, "core.tag", "0", "3").warnings == ()
    root.tables["core.tag"].owner.fail(Failure("core.tag", "rule broken", ("t/0/0..8",), "kappa run"))
    (warning,) = explained(root, "core.tag", "0", "3").warnings
    assert "core.tag is not at the cut of its source: it has failed (rule broken)" in warning
    with Tables(str(root.path)) as tables:
        assert tables.warnings == []
