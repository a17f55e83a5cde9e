"""What keeping a summary costs: a commit that touches some of its groups, against computing all of them again.

The upstream is a table of orders with twice as many rows as the summary has groups. A batch changes one order (upsert table) or adds one
(append table) of each of 1,000 customers (groups), anywhere in the table, or the recent ones.

    python -m tests.bench.summaries [--groups 1000000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa

from flows.batch import SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from flows.plan import analyse
from flows.project import load_project
from flows.summary import Summary
from flows.upsert import Upsert
from sinks.address import TableAddress
from sinks.files import FileWriter, Pending
from sinks.follow import Follower
from sinks.keys import Keys
from sinks.landing import land
from sinks.merge import Merge
from sinks.owner import Owner
from sinks.versions import Versions
from tests.bench.report import Ratio

TOUCHED = 1_000
BATCHES = 3
SOURCE = """
topic = "t"
format = "json"
key = ["order_id"]
event_time = "updated_at"
[columns]
order_id = "bigint not null"
customer = "integer"
amount = "double"
updated_at = "timestamptz"
"""
SUMMARY = "SELECT customer, count(*) AS orders, sum(amount) AS total, max(updated_at) AS last FROM core.orders GROUP BY customer"
KINDS = ("upsert", "append")
SCHEMA = pa.schema(
    [
        ("order_id", pa.int64()),
        ("customer", pa.int32()),
        ("amount", pa.float64()),
        ("updated_at", pa.timestamp("us", "UTC")),
        ("_deleted", pa.bool_()),
        *SYSTEM,
    ]
)


def orders(ids: np.ndarray, version: int, offset: int) -> pa.Table:
    """Two orders in a row are of the same customer."""
    count, start = len(ids), 1_700_000_000_000_000
    return pa.table(
        [
            pa.array(ids),
            pa.array(ids // 2, pa.int32()),
            pa.array((ids * 7919 + version) % 100_000 / 100),
            pa.array(start + ids * 1000 + version, pa.timestamp("us", "UTC")),
            pa.repeat(pa.scalar(False), count),
            pa.repeat(pa.scalar(0, pa.int32()), count),
            pa.array(np.arange(offset, offset + count)),
            pa.repeat(pa.scalar(start, pa.timestamp("us", "UTC")), count),
        ],
        schema=SCHEMA,
    )


def declared(folder: Path, kind: str) -> Summary:
    """The summary over a table of a kind, as the plan makes it."""
    definitions = {
        "warehouse.toml": 'name = "bench"\n',
        "sources/orders.toml": SOURCE,
        "core/orders.sql": f'/* kind = "{kind}" */ SELECT order_id, customer, amount, updated_at FROM staging.orders',
        "analytics/customers.sql": f'/* kind = "summary" */ {SUMMARY}',
    }
    for path, text in definitions.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    plan = analyse(load_project(folder))
    assert not plan.findings, plan.findings
    return plan.summaries["analytics.customers"]


class Tables:
    """The two tables, as a run keeps them."""

    def __init__(self, folder: Path, kind: str, pool: ThreadPoolExecutor, versions: Versions) -> None:
        summary = declared(folder / "definitions", kind)
        self._schema = SCHEMA if kind == "upsert" else SCHEMA.remove(SCHEMA.get_field_index("_deleted"))
        run, log = RunIdentity("bench", 1, "2026-01-01T00:00:00.000000Z"), LogIdentity("cluster", {"t": "id"})
        upsert = Upsert(("order_id",), "updated_at")
        core, analytics = (TableAddress(str(folder), name, "000000000000-1") for name in ("core.orders", "analytics.customers"))
        self.owner = Owner.claim(core, self._schema, [], run, log)
        writer = FileWriter(core, self._schema)
        merge = Merge(writer, Keys.of_upsert(upsert, SCHEMA), lambda: self.owner.version, pool)
        self._pending: Callable[[], Pending] = merge.pending if kind == "upsert" else writer.draft
        owner = Owner.claim(analytics, summary.schema, [], run, log)
        writer = FileWriter(analytics, summary.schema)
        combine = summary.partials.combine_sql if summary.partials else None
        keys = Keys.of_groups(summary.group, summary.schema)
        groups = Merge(writer, keys, lambda: owner.version, pool, combine_sql=combine)
        self.follower = Follower(summary, owner, core, upsert if kind == "upsert" else None, groups.pending, versions)

    def commit(self, rows: pa.Table) -> None:
        start, count = self.owner.positions.get(("t", 0), 0), rows.num_rows
        pending = self._pending()
        pending.write(rows.select(self._schema.names))
        land(pending, self.owner, {("t", 0): Span(start, start + count, count, count, 0, 0)})

    def follow_s(self) -> float:
        started = time.perf_counter()
        self.follower.follow(self.owner.version, self.owner.record)
        return time.perf_counter() - started


def measure(folder: Path, sizes: Sequence[int], say: Callable[[str], None]) -> list[Ratio]:
    """For each number of groups: a commit that touches TOUCHED of them / all groups."""
    found = []
    for groups, kind, where in product(sizes, KINDS, ("anywhere", "recent")):
        with (
            tempfile.TemporaryDirectory(dir=folder) as here,
            ThreadPoolExecutor(2) as pool,
            closing(Versions(2_000_000_000)) as versions,
        ):
            tables = Tables(Path(here), kind, pool, versions)
            for start in range(0, 2 * groups, 1_000_000):
                tables.commit(orders(np.arange(start, min(2 * groups, start + 1_000_000)), 0, start))
            all_s = tables.follow_s()
            took = [_touch(tables, groups, where, number) for number in range(1, BATCHES + 1)]
        touched = min(TOUCHED, groups)
        note = f"{min(took) * 1000:.0f} ms and {all_s * 1000:.0f} ms"
        meaning = f"summary over {kind}: {touched:,} of {groups:,} groups touched, {where} / all groups"
        found.append(Ratio("summary", meaning, min(took) / all_s, "", note))
        say(f"{meaning}: {note}")
    return found


def _touch(tables: Tables, groups: int, where: str, number: int) -> float:
    touched = min(TOUCHED, groups)
    chance = np.random.default_rng(number)
    customers = chance.choice(groups, touched, replace=False) if where == "anywhere" else np.arange(groups - touched, groups)
    tables.commit(orders(np.sort(customers) * 2, number, tables.owner.positions["t", 0]))
    return tables.follow_s()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kappa-bench-") as scratch:
        measure(Path(scratch), [options.groups], print)
