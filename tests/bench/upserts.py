"""R7: upserts into an upsert table of kappa, and into a plain Delta table by delta-rs's MERGE; and what reading the table then costs.

Orders with a whole number as key and twelve columns. A batch changes a share of the keys (one in twenty is new); uniformly, or mostly the
recent ones (the age of the key is exponential, its mean 2 % of the table). Both sides get the same batches, and both first keep the latest
row of each key of a batch, which MERGE does not do.

    python -m tests.bench.upserts [--rows 1000000] [--batches 2]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from flows.batch import SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from flows.upsert import Upsert
from sinks.address import TableAddress
from sinks.engine import Engine, Pinned
from sinks.files import FileWriter
from sinks.keys import Keys
from sinks.merge import Merge
from sinks.owner import Owner
from tests.bench.report import Ratio

SHARES = (0.01, 0.2)
RECENT_MEAN = 0.02  # of the table
FILL_ROWS = 1_000_000  # a commit while a table is filled
LOOKS = 15  # of each kind of read
SCHEMA = pa.schema(
    [
        ("order_id", pa.int64()),
        ("customer", pa.int32()),
        ("status", pa.string()),
        ("amount", pa.float64()),
        ("quantity", pa.int32()),
        ("note", pa.string()),
        ("placed_at", pa.timestamp("us", "UTC")),
        ("updated_at", pa.timestamp("us", "UTC")),
        ("_deleted", pa.bool_()),
        *SYSTEM,
    ]
)
STATUSES = pa.array(["new", "paid", "packed", "sent", "delivered", "returned", "lost", "void"])
LATEST = "SELECT * FROM batch QUALIFY row_number() OVER (PARTITION BY order_id ORDER BY updated_at DESC, _offset DESC) = 1"


@dataclass(frozen=True, slots=True)
class Case:
    """``share``: of the table's keys in a batch; ``recent``: mostly recent keys."""

    rows: int
    share: float
    recent: bool

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.share:.0%} a batch, {'recent' if self.recent else 'uniform'}"


def orders(ids: np.ndarray, version: int, offset: int, chance: np.random.Generator) -> pa.Table:
    """One row for each of ``ids``, at offsets from ``offset``."""
    count, start = len(ids), 1_700_000_000_000_000
    return pa.table(
        [
            pa.array(ids),
            pa.array(chance.integers(0, 200_000, count), pa.int32()),
            STATUSES.take(pa.array(chance.integers(0, len(STATUSES), count))),
            pa.array(chance.integers(100, 100_000, count) / 100),
            pa.array(chance.integers(1, 20, count), pa.int32()),
            pc.cast(pa.array(chance.integers(0, 1 << 50, count)), pa.string()),
            pa.array(start + ids * 1000, pa.timestamp("us", "UTC")),
            pa.array(start + ids * 1000 + version, pa.timestamp("us", "UTC")),
            pa.repeat(pa.scalar(False), count),
            pa.repeat(pa.scalar(0, pa.int32()), count),
            pa.array(np.arange(offset, offset + count)),
            pa.repeat(pa.scalar(start, pa.timestamp("us", "UTC")), count),
        ],
        schema=SCHEMA,
    )


def fill(rows: int) -> Iterator[pa.Table]:
    """The table before the batches, by key."""
    chance = np.random.default_rng(1)
    for start in range(0, rows, FILL_ROWS):
        yield orders(np.arange(start, min(rows, start + FILL_ROWS)), 0, start, chance)


def batches(case: Case, count: int) -> list[pa.Table]:
    """The batches of a case; a key may be in one twice."""
    chance, size, made = np.random.default_rng(2), max(1, round(case.rows * case.share)), []
    for number in range(count):
        newest = case.rows + (number + 1) * size // 20
        if case.recent:
            ids = newest - 1 - np.minimum(chance.exponential(case.rows * RECENT_MEAN, size).astype(np.int64), newest - 1)
        else:
            ids = chance.integers(0, newest, size)
        made.append(orders(ids, number + 1, case.rows + number * size, chance))
    return made


class Kappa:
    """An upsert table as a run keeps it."""

    def __init__(self, root: str, pool: ThreadPoolExecutor) -> None:
        self.address = TableAddress(root, "core.orders", "000000000000-1")
        run = RunIdentity("bench", 1, "2026-01-01T00:00:00.000000Z")
        self.owner = Owner.claim(self.address, SCHEMA, [], run, LogIdentity("cluster", {"t": "id"}))
        keys = Keys.of_upsert(Upsert(("order_id",), "updated_at"), SCHEMA)
        self._merge = Merge(FileWriter(self.address, SCHEMA), keys, lambda: self.owner.version, pool)

    def upsert(self, rows: pa.Table) -> None:
        start = self.owner.positions.get(("t", 0), 0)
        pending = self._merge.pending()
        pending.write(rows)
        change, count = pending.change(), rows.num_rows
        span = Span(start, start + count, count, count, 0, 0)
        pending.landed(self.owner.commit(change.files, {("t", 0): span}, {}, change.replaced, change.basis).version)


def merge(table: str, batch: pa.Table) -> None:
    """What one writes with delta-rs."""
    with duckdb.connect() as connection:
        connection.register("batch", batch)
        latest = connection.execute(LATEST).to_arrow_table()
    work = DeltaTable(table).merge(latest, "s.order_id = t.order_id", source_alias="s", target_alias="t")
    work.when_matched_update_all("s.updated_at >= t.updated_at").when_not_matched_insert_all().execute()


def writes(folder: Path, case: Case, count: int) -> tuple[Ratio, Kappa]:
    """R7 of one case, and the table that it leaves."""
    given = batches(case, count)
    size = sum(batch.num_rows for batch in given)
    plain = str(folder / "plain")
    with ThreadPoolExecutor(2) as pool:
        kappa = Kappa(str(folder / "kappa"), pool)
        for rows in fill(case.rows):
            kappa.upsert(rows)
            write_deltalake(plain, rows, mode="append")
        took = {}
        for name, upsert in (("kappa", kappa.upsert), ("merge", lambda batch: merge(plain, batch))):
            started = time.perf_counter()
            for batch in given:
                upsert(batch)
            took[name] = time.perf_counter() - started
    _same(kappa, plain)
    note = f"{case}: {size / took['kappa']:,.0f}/s and {size / took['merge']:,.0f}/s"
    return Ratio("R7", "upserts / delta-rs MERGE", took["merge"] / took["kappa"], ">= 2", note), kappa


def _same(kappa: Kappa, plain: str) -> None:
    """Both sides must have done the same work."""
    columns = ["order_id", "updated_at"]
    ours, theirs = (DeltaTable(uri).to_pyarrow_table(columns=columns).sort_by("order_id") for uri in (kappa.address.uri, plain))
    assert ours.equals(theirs), "the two tables differ"


def reads(folder: Path, case: Case, kappa: Kappa) -> list[Ratio]:
    """R7's reads: the table as it is after the batches / its rows written anew in key order."""
    fresh = _compacted(folder, kappa)
    for address in (kappa.address, fresh):
        DeltaTable(address.uri).create_checkpoint()  # as a run does every few commits
    pinned = [
        Pinned("core.orders", kappa.address.uri, kappa.owner.version, hidden=True),
        Pinned("core.fresh", fresh.uri, DeltaTable(fresh.uri).version(), hidden=True),
    ]
    engine = Engine(pinned, {})
    chance = np.random.default_rng(3)
    span = max(1, case.rows // 100)
    kinds: dict[str, Callable[[int], str]] = {
        "point": lambda at: f"WHERE order_id = {at}",
        "range": lambda at: f"WHERE order_id BETWEEN {at} AND {at + span}",
        "full": lambda at: "",
    }
    found = []
    try:
        for kind, where in kinds.items():
            took: dict[str, list[float]] = {"core.orders": [], "core.fresh": []}
            for at in chance.integers(0, case.rows, LOOKS).tolist():
                for table, seconds in took.items():
                    what = "*" if kind == "point" else "count(*), sum(amount), max(note), min(status), avg(quantity)"
                    started = time.perf_counter()
                    engine.relation(f"SELECT {what} FROM {table} {where(at)}").to_arrow_table()
                    seconds.append(time.perf_counter() - started)
            ours, theirs = (median(seconds[1:]) for seconds in took.values())
            note = f"{case}: {ours * 1000:.1f} ms and {theirs * 1000:.1f} ms"
            found.append(Ratio("R7 read", f"{kind} read / freshly compacted", ours / theirs, "<= 1.15", note))
    finally:
        engine.close()
    return found


def _compacted(folder: Path, kappa: Kappa) -> TableAddress:
    rows = DeltaTable(kappa.address.uri).to_pyarrow_dataset().to_table().sort_by("order_id").cast(SCHEMA)
    with ThreadPoolExecutor(2) as pool:
        fresh = Kappa(str(folder / "fresh"), pool)
        fresh.upsert(rows)
    return fresh.address


def measure(folder: Path, rows: Sequence[int], count: int, say: Callable[[str], None]) -> list[Ratio]:
    """All cases; reads after the largest uniform one of each size."""
    found: list[Ratio] = []
    for size in rows:
        for case in [Case(size, share, recent) for share in SHARES for recent in (False, True)]:
            with tempfile.TemporaryDirectory(dir=folder) as here:
                ratio, kappa = writes(Path(here), case, count)
                found.append(ratio)
                say(f"R7 {ratio.value:.2f}: {ratio.note}")
                if case.share == max(SHARES):
                    shutil.rmtree(Path(here) / "plain")
                    found += reads(Path(here), case, kappa)
                    say("; ".join(f"{each.meaning} {each.value:.2f}" for each in found[-3:]))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kappa-bench-") as scratch:
        measure(Path(scratch), [options.rows], options.batches, print)
