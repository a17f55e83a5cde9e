"""A process that commits to a table until it is done or killed: ``python -m tests.faults.owner_worker ROOT COMMITS``."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from flows.faults import reach
from flows.settings import MaintenanceSettings
from sinks.files import FileWriter
from sinks.maintenance import Maintenance
from tests.owned import SCHEMA, TOPIC, address, claim, rows, span

ROWS = 3


def work(root: str, commits: int) -> None:
    table = address(root)
    owner = claim(table, os.getpid())
    writer = FileWriter(table, SCHEMA)
    with ThreadPoolExecutor(1) as pool:
        maintenance = Maintenance(MaintenanceSettings(compact_files=4), pool)
        for number in range(owner.positions.get((TOPIC, 0), 0) // ROWS, commits):
            offsets = range(number * ROWS, (number + 1) * ROWS)
            files = writer.write(rows(0, offsets))
            reach("files-written")
            owner.commit(files, {(TOPIC, 0): span(offsets)})
            maintenance.after_commit(owner)
        maintenance.finish(owner)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
