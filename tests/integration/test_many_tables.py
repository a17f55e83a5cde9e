"""Many tables of one source under the smallest memory limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_bad_input import peak_bytes
from tests.warehouse import Warehouse, at_work

pytestmark = pytest.mark.slow
TABLES = 32
EVENTS = 150_000
LIMIT_BYTES = 512_000_000
SQL = """/* kind = "append" */
SELECT id + {number} AS id, upper(kind) || '-{number}' AS kind, amount * {number} AS amount, repeat(kind, 20) AS note
FROM staging.events WHERE id % {divisor} <> 0
"""


def test_32_tables_keep_to_the_smallest_memory_limit(kafka, topic_name: str, tmp_path: Path) -> None:
    warehouse = Warehouse.make(tmp_path / "warehouse", kafka.bootstrap, topic_name, settings='[run]\nmemory_limit = "512MB"\n')
    for number in range(1, TABLES + 1):
        (warehouse.folder / f"core/t{number}.sql").write_text(SQL.format(number=number, divisor=number + 2))
    warehouse.produce(1, EVENTS)
    with at_work(warehouse.start("run", "--until-caught-up")) as process:
        most = peak_bytes(process)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    valid = len(warehouse.rows("staging.events"))
    assert 0.9 * EVENTS < valid < EVENTS
    assert {row["id"] for row in warehouse.rows(f"core.t{TABLES}")} == {
        row["id"] + TABLES for row in warehouse.rows("staging.events") if row["id"] % (TABLES + 2)
    }
    assert most < LIMIT_BYTES, f"{most / 1e6:.0f} MB"
