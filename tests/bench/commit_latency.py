"""R8: does a commit stay as quick after 20,000 commits as after 200?

Commits one row each, through the shipped owner and maintenance (checkpoints, compaction, vacuum, log cleanup), and reports the mean of
200 commits around 200, 2,000 and 20,000: what ``Owner.commit`` and ``Maintenance.after_commit`` take together in the owner's thread.

    python tests/bench/commit_latency.py [--commits 20100] [--retention-s 3600] [--interval-ms 0]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

from flows.batch import SYSTEM
from flows.ledger import LogIdentity, RunIdentity, Span
from flows.settings import MaintenanceSettings
from sinks.address import TableAddress
from sinks.files import FileWriter
from sinks.maintenance import Maintenance
from sinks.owner import Owner

AROUND = (200, 2_000, 20_000)


def one_row(offset: int) -> pa.Table:
    return pa.table({"_partition": [0], "_offset": [offset], "_timestamp": [None]}, schema=SYSTEM)


def measure(root: str, commits: int, retention_s: float, interval_s: float) -> list[float]:
    """Seconds of each commit."""
    address = TableAddress(root, "core.bench", "000000000000-1")
    run = RunIdentity("bench", os.getpid(), "2026-01-01T00:00:00.000000Z")
    owner = Owner.claim(address, SYSTEM, [], run, LogIdentity("cluster", {"t": "id"}))
    writer = FileWriter(address, SYSTEM)
    took = []
    with ThreadPoolExecutor(1) as pool:
        maintenance = Maintenance(MaintenanceSettings(retention_s=retention_s), pool)
        for offset in range(commits):
            files = writer.write(one_row(offset))
            started = time.perf_counter()
            owner.commit(files, {("t", 0): Span(offset, offset + 1, 1, 1, 0, 0)})
            maintenance.after_commit(owner)
            took.append(time.perf_counter() - started)
            time.sleep(interval_s)
        maintenance.finish(owner)
    table = DeltaTable(address.uri)
    rows = pa.table(table.get_add_actions()).column("num_records").to_pylist()
    assert sum(rows) == commits
    log = list((address.folder / "_delta_log").iterdir())
    print(
        f"{table.version()} versions, {len(table.file_uris())} live files, {len(list(address.folder.glob('*.parquet')))} data files,",
        end=" ",
    )
    print(f"{len(log)} log files, {sum('checkpoint.parquet' in path.name for path in log)} checkpoints")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=20_100)
    parser.add_argument("--retention-s", type=float, default=3600)
    parser.add_argument("--interval-ms", type=float, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        took = measure(str(Path(root)), args.commits, args.retention_s, args.interval_ms / 1000)
    means = {at: sum(took[at - 100 : at + 100]) / 200 * 1000 for at in AROUND if at + 100 <= len(took)}
    for at, mean in means.items():
        worst = max(took[at - 100 : at + 100]) * 1000
        print(f"mean of 200 commits around {at:>6,}: {mean:6.2f} ms, ratio {mean / means[AROUND[0]]:.2f}, worst {worst:.1f} ms")


if __name__ == "__main__":
    main()
