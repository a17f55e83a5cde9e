"""One record dropped or doubled in decode, in transform or in the sink: the run's own guards stop it; without them, the audit finds it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows import dataflow
from flows.conform import Conform
from flows.ledger import Span
from flows.stage import Stage
from sinks.sink import TablePartition
from tests.inprocess import audit, kappa
from tests.warehouse import Warehouse, write_folder

pytestmark = pytest.mark.slow
Fault = Callable[[pa.Table], pa.Table]


def drop(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def double(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows])


class Once:
    """Applies a fault to the first rows that it is given, and to no others."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self.done = False

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self.done or not rows.num_rows:
            return rows
        self.done = True
        return self._fault(rows)


def in_decode(patch: pytest.MonkeyPatch, fault: Once) -> None:
    stage = Stage.stage

    def faulty(self: Stage, *arguments: Any) -> Any:
        staged = stage(self, *arguments)
        return replace(staged, rows=fault(staged.rows))

    patch.setattr(Stage, "stage", faulty)


def in_transform(patch: pytest.MonkeyPatch, fault: Once) -> None:
    """In what the SQL of core.event gives, before Conform itself looks at it."""
    attempt = Conform._attempt

    def faulty(self: Conform, *arguments: Any) -> Any:
        made, filtered = attempt(self, *arguments)
        return (fault(made) if self.node.name == "core.event" else made), filtered

    patch.setattr(Conform, "_attempt", faulty)


def in_sink(patch: pytest.MonkeyPatch, fault: Once) -> None:
    """Between the counting of core.event's rows and the writing of its files."""
    flush = TablePartition._flush

    def faulty(self: TablePartition, *, must: bool) -> None:
        if self._table == "core.event":
            self._buffer = [fault(rows) for rows in self._buffer]
        flush(self, must=must)

    patch.setattr(TablePartition, "_flush", faulty)


def without_guards(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dataflow, "check_staged", lambda table, staged, batch: None)
    patch.setattr(Span, "balanced", property(lambda span: True))
    patch.setattr(Conform, "_check", lambda self, *arguments: None)
    patch.setattr(TablePartition, "_check_rows", lambda self, files: None)


@pytest.fixture(scope="module")
def topic(kafka, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    made = Warehouse.make(tmp_path_factory.mktemp("mutations"), kafka.bootstrap, f"mutations-{uuid.uuid4().hex[:8]}")
    made.produce(1, 200)
    return made


@pytest.fixture
def warehouse(topic: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """A warehouse over the topic that has not run yet."""
    write_folder(tmp_path, topic.topic, topic.partitions)
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", topic.bootstrap)
    return replace(topic, folder=tmp_path)


STAGES = pytest.mark.parametrize("place", [in_decode, in_transform, in_sink])
FAULTS = pytest.mark.parametrize("fault", [drop, double])


@STAGES
@FAULTS
def test_a_guard_stops_it(warehouse: Warehouse, place: Callable[..., None], fault: Fault) -> None:
    """The table fails before it commits, and the next run goes on as if nothing had been."""
    once = Once(fault)
    with pytest.MonkeyPatch.context() as patch:
        place(patch, once)
        said = kappa(warehouse.folder, "run", "--until-caught-up", status=1)
    assert once.done
    assert "core.event failed" in said
    assert not audit(warehouse.folder, "--full")
    kappa(warehouse.folder, "run", "--until-caught-up")
    assert not audit(warehouse.folder, "--full")
    warehouse.check_independently()


@STAGES
@FAULTS
def test_the_audit_finds_it(warehouse: Warehouse, place: Callable[..., None], fault: Fault) -> None:
    """With every guard of the run out of the way, `kappa audit` exits 1; it needs no --full for any of them."""
    once = Once(fault)
    with pytest.MonkeyPatch.context() as patch:
        place(patch, once)
        without_guards(patch)
        kappa(warehouse.folder, "run", "--until-caught-up")
    assert once.done
    found = audit(warehouse.folder)
    assert "core.event" in found
    assert ("staging.events" in found) == (place is in_decode)
