"""What a stage makes of corrections, and what it asks the tables for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import pytest

from flows.batch import Batch
from flows.contract import Source
from flows.errors import KappaError
from flows.stage import Stage
from flows.stage.corrections import Rejected, RejectsUnknown
from sinks.rejects import StoredRejects
from tests.memory import Record, records_batch

GOOD, BAD = b'{"a":1}', b"nothing"


def source(*, corrections: bool = True, **more: object) -> Source:
    columns = {"a": "integer not null"}
    return Source(**({"name": "s", "topic": "t", "format": "json", "columns": columns, "corrections": corrections} | more))


def corrects(offset: int, named: str, value: bytes | None = GOOD) -> Record:
    return Record(offset, value, headers=(("kappa-corrects", named.encode()),))


def batch(*records: Record, start: int | None = None) -> Batch:
    return Batch("t", 0, records[0].offset if start is None else start, records[-1].offset + 1, records_batch(records))


@dataclass
class Tables:
    """``flows.stage.corrections.Stored`` over plain values; ``asked``: how often."""

    stands: int
    rejects: dict[int, Rejected] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    asked: int = 0

    def reach(self, partition: int) -> int:
        self.asked += 1
        return self.stands

    def rejected(self, partition: int, offsets: Collection[int]) -> dict[int, Rejected]:
        return {offset: self.rejects[offset] for offset in offsets if offset in self.rejects}

    def corrected(self, partition: int, offsets: Collection[int], before: int) -> dict[int, int]:
        return {offset: self.rows[offset] for offset in offsets if offset in self.rows and self.rows[offset] < before}


def outcome(stage: Stage, *records: Record) -> dict[int, object]:
    """Offset -> what a row corrects (None: nothing), or the reason of a reject ``superseded``, or another code."""
    staged = stage.stage(batch(*records))
    rows = {row["_offset"]: row.get("_corrects") for row in staged.rows.to_pylist()}
    return rows | {r["_offset"]: r["reason"] if r["code"] == "superseded" else r["code"] for r in staged.rejects.to_pylist()}


def test_only_what_names_an_open_reject_counts() -> None:
    records = [
        Record(0, BAD),
        Record(1, GOOD),
        corrects(2, "t/0/1"),
        corrects(3, "t/0/0"),
        corrects(4, "t/0/0"),
        corrects(5, "t/1/0"),
        corrects(6, "t/0/6"),
        corrects(7, "x"),
        corrects(8, "t/0/2"),
        corrects(9, "t/0/0", None),
    ]
    assert outcome(Stage(source(null_values="delete")), *records) == {
        0: "invalid_json",
        1: None,
        2: "t/0/1 is not rejected",
        3: 0,
        4: "t/0/0 is corrected already, by t/0/3",
        5: "it names 't/1/0', and a correction stands in the partition of what it corrects: t/0",
        6: "it names 't/0/6', which does not lie before it",
        7: "the header kappa-corrects is no topic/partition/offset: 'x'",
        8: "t/0/2 is not rejected",
        9: "a correction has a value, and this record has none",
    }


def test_a_rejected_correction_stands_for_the_first_record() -> None:
    records = [Record(0, BAD), corrects(1, "t/0/0", BAD), corrects(2, "t/0/1"), corrects(3, "t/0/0"), corrects(4, "t/0/1")]
    closed = "is corrected already, by t/0/2"
    assert outcome(Stage(source()), *records) == {0: "invalid_json", 1: "invalid_json", 2: 0, 3: f"t/0/0 {closed}", 4: f"t/0/1 {closed}"}


def test_a_superseded_correction_breaks_no_rule() -> None:
    rules = {"small": {"check": "a < 5", "on_failure": "fail"}, "odd": {"check": "a = 1", "on_failure": "warn"}}
    staged = Stage(source(rules=rules)).stage(batch(Record(0, GOOD), corrects(1, "t/0/0", b'{"a":9}'), Record(2, b'{"a":2}')))
    assert {name: offsets.to_pylist() for name, offsets in staged.warned.items()} == {"odd": [2]}


def test_a_source_that_takes_none() -> None:
    staged = Stage(source(corrections=False)).stage(batch(Record(0, BAD), corrects(1, "t/0/0")))
    assert "_corrects" not in staged.rows.schema.names
    assert [(r["code"], "corrections = true is not set" in r["reason"]) for r in staged.rejects.to_pylist()][1] == ("superseded", True)


def test_the_tables_are_asked_for_what_was_before_and_only_then() -> None:
    headers = [{"name": "kappa-corrects", "value": b"t/0/10"}]
    tables = Tables(100, {n: Rejected("rule", headers if n == 12 else None) for n in (10, 11, 12)} | {13: Rejected("superseded", headers)})
    tables.rows = {11: 90}
    stage = Stage(source(), stored=tables)
    assert outcome(stage, Record(100, BAD), corrects(101, "t/0/100")) == {100: "invalid_json", 101: 100}
    assert tables.asked == 0
    assert outcome(
        stage, corrects(102, "t/0/11"), corrects(103, "t/0/12"), corrects(104, "t/0/10"), corrects(105, "t/0/13"), corrects(106, "t/0/14")
    ) == {
        102: "t/0/11 is corrected already, by t/0/90",
        103: 10,
        104: "t/0/10 is corrected already, by t/0/103",
        105: "t/0/13 is not rejected",
        106: "t/0/14 is not rejected",
    }
    assert tables.asked == 2  # once for what they name, once for what one of these names itself


def test_tables_that_are_behind_leave_the_branch_without_an_answer() -> None:
    """Staging was not fed while another table was: what lies between is known to nobody."""
    stage = Stage(source(), stored=Tables(99))
    with pytest.raises(RejectsUnknown, match="the correction of t/0/50 cannot be judged") as raised:
        stage.stage(batch(corrects(100, "t/0/50")))
    assert "kappa run s feeds all tables" in raised.value.next_step


def test_memory_forgets_what_the_tables_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.stage.corrections.REMEMBERED", 10)
    tables = Tables(0)
    stage = Stage(source(), stored=tables)
    for start in range(0, 200, 5):
        outcome(stage, *(Record(offset, BAD) for offset in range(start, start + 5)))
        tables.stands = start + 5
        tables.rejects |= {offset: Rejected("invalid_json", None) for offset in range(start, start + 5)}
    assert stage._corrections is not None
    (memory,) = stage._corrections._memory.values()
    assert len(memory.open) <= 20
    assert outcome(stage, corrects(200, "t/0/3")) == {200: 3}


def test_tables_that_are_not_there() -> None:
    stored = StoredRejects("t", None, None, {0: 7})
    assert (stored.reach(0), stored.rejected(0, [1]), stored.corrected(0, [1], 5)) == (7, {}, {})
    assert outcome(Stage(source(), stored=stored), Record(7, GOOD), corrects(8, "t/0/3"))[8] == "t/0/3 is not rejected"


def test_a_failed_rule_says_what_and_how_to_go_on() -> None:
    rules = {"small": {"check": "a < 5", "on_failure": "fail"}}
    with pytest.raises(KappaError) as raised:
        Stage(source(rules=rules)).stage(batch(Record(0, GOOD), Record(1, b'{"a":9}')))
    text = str(raised.value)
    for said in ("t/0/1", "small", "a < 5 is false", '{"a":9}', "sources/s.toml", "kappa run;", "kappa apply"):
        assert said in text, said
