"""What `kappa audit --full` says of a summary whose stored rows were altered, by little or where nobody looks."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import tests.properties.test_partials as append
from infra.audit.audit import Audit, Audited
from infra.audit.commits import Walk
from infra.audit.summaries import compare_summary
from sinks.address import TableAddress
from sinks.history import newest
from sinks.record import UpstreamVersion
from sinks.versions import Versions

SQL = """SELECT place, count(*) AS n, avg(delay) AS mean, max(delay) AS slowest, sum(delay) AS total, var_pop(gate) AS spread
FROM staging.flights AS f GROUP BY place"""


class Standing:
    """What an audit knows of one summary and its upstream."""

    def __init__(self, process: append.Process) -> None:
        self.summary = process.follower.summary
        self.stored = process.follower.owner.address
        self._upstream = process.address
        self._version = process.follower.owner.version
        self.walk = Walk(self.stored, False)
        self.walk.record = newest(self.stored).record  # type: ignore[union-attr]

    def table(self, name: str) -> Audited:
        return Audited(self.stored, self._version, None, self.walk)

    def address(self, name: str) -> TableAddress:
        return self._upstream

    def findings(self) -> list[str]:
        self.walk.findings.clear()
        compare_summary(cast(Audit, self), self.summary)
        return [finding.what for finding in self.walk.findings]


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    monkeypatch.setattr(append, "SQL", SQL)
    with ThreadPoolExecutor(2) as pool, closing(Versions(512 * 1024 * 1024)) as versions:
        process = append.Process(tmp_path, "", pool, versions)
        process.commit(0, [("x", i % 5, None, None, 1000.0 + i % 7, None, None) for i in range(1000)])
        process.follow()
        yield Standing(process)


def alter(table: TableAddress, column: str, by: float) -> None:
    (file,) = DeltaTable(table.uri).file_uris()
    rows = pq.read_table(file)
    place = rows.schema.get_field_index(column)
    changed = pc.add(rows.column(place), pa.scalar(by, rows.schema.field(place).type))
    pq.write_table(rows.set_column(place, rows.schema.field(place), changed), file)


@pytest.mark.parametrize(("column", "by"), [("mean", 1e-3), ("slowest", 1e-6), ("total", 0.01), ("n", 1), ("spread", 1e-3)])
def test_small_differences_show(standing: Standing, column: str, by: float) -> None:
    assert standing.findings() == []
    alter(standing.stored, column, by)
    (found,) = standing.findings()
    assert found.startswith(f"1 groups differ from what its upstream gives, in {column}: ")


def test_every_state_that_is_stored_beside_the_columns_is_compared(standing: Standing) -> None:
    """A wrong one would show only in the rows of later commits."""
    states = [field for field in standing.summary.schema if field.name.startswith("_")]
    assert states
    for field in states:
        by = 0.01 if pa.types.is_floating(field.type) else 1
        alter(standing.stored, field.name, by)
        assert any(f"in {field.name}: " in found for found in standing.findings()), field
        alter(standing.stored, field.name, -by)


def test_the_order_of_additions_does_not(standing: Standing) -> None:
    for column in ("mean", "total"):
        alter(standing.stored, column, 1e-9)
    assert standing.findings() == []


def test_a_summary_that_names_what_it_was_not_computed_from(standing: Standing) -> None:
    record = standing.walk.record
    assert record is not None
    ((place, span),) = record.totals.items()
    standing.walk.record = replace(record, totals={place: replace(span, end=span.end + 5)})
    (found,) = standing.findings()
    assert "its positions are not those of version" in found
    standing.walk.record = replace(record, upstream=UpstreamVersion("0123456789ab-9", 1))
    (found,) = standing.findings()
    assert "it was computed from generation 0123456789ab-9" in found
