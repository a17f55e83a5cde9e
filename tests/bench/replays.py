"""What changing a definition costs: replays, comparing generations, and how fresh the live tables stay meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Producer

from tests.bench import warehouse
from tests.bench.events import Topic, values
from tests.bench.measure import ROOT, ContestantFailed, Run, run

TRICKLE_PER_S = 2000
TRICKLE_CHUNK = 100
SETTLE_S = 2.0
TIMEOUT_S = 600


def command(folder: Path, *arguments: str) -> list[str]:
    """``kappa`` as installed beside this interpreter."""
    return [warehouse.run_command(folder)[0], "-C", str(folder), *arguments]


def replay(folder: Path, broker: psutil.Process, *more: str) -> Run:
    """``kappa replay`` of the only source of a warehouse that has run."""
    return run(command(folder, "replay", "events", "--json", *more), broker)


def diff_seconds(folder: Path) -> tuple[float, int]:
    """Seconds of ``kappa diff`` of the two generations of the table, as a process, and the rows of each."""
    started = time.monotonic()
    done = subprocess.run(command(folder, "diff", "staging.events", "--json"), cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode != 0 or not json.loads(done.stdout)["equal"]:
        raise ContestantFailed(f"the generations differ: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, json.loads(done.stdout)["a"]["rows"]


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """``kappa run`` until the end of the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAPPA_") or name == "KAPPA_CACHE_DIR"}
    line = warehouse.run_command(folder, until_caught_up=False)
    process = subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)


class Trickle:
    """Sends TRICKLE_PER_S events a second to all partitions in turn, until ``stop``."""

    def __init__(self, bootstrap: str, topic: Topic, event_bytes: int) -> None:
        self.sent = 0
        self._topic = topic
        self._event_bytes = event_bytes
        self._producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 3})
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send no more; all are acknowledged."""
        self._over.set()
        self._thread.join()
        if self._producer.flush(60):
            raise ContestantFailed("the trickle was not acknowledged")

    def _send(self) -> None:
        started = time.monotonic()
        while not self._over.is_set():
            for key, value in values(TRICKLE_CHUNK, self._event_bytes, self._topic.events + self.sent):
                self._producer.produce(self._topic.name, value, key=key, partition=self.sent % self._topic.partitions)
                self.sent += 1
            self._producer.poll(0)
            self._over.wait(max(0.0, started + self.sent / TRICKLE_PER_S - time.monotonic()))


def ages(table: Path, first: float, last: float) -> list[float]:
    """Of every commit of rows between two times: its time less the mean time of its records, in seconds."""
    found = []
    for path in sorted(table.glob("_delta_log/*.json")):
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        at = next(action["commitInfo"]["timestamp"] for action in actions if "commitInfo" in action) / 1000
        adds = [action["add"]["path"] for action in actions if "add" in action and action["add"]["dataChange"]]
        if adds and first <= at <= last:
            times = [pq.read_table(table / name, columns=["_timestamp"]).column(0).cast("int64") for name in adds]
            found += [at - mean(pc.mean(each).as_py() for each in times) / 1e6]
    return found


def freshness(folder: Path, bootstrap: str, topic: Topic, event_bytes: int, broker: psutil.Process) -> tuple[float, float]:
    """The median age of the live table's rows when they are committed: while nothing else runs, and while a replay does."""
    table = warehouse.table_folder(folder)
    assert table is not None
    with running(folder):
        trickle = Trickle(bootstrap, topic, event_bytes)
        try:
            _until_committed(table, topic.events + SETTLE_S * TRICKLE_PER_S)
            alone_from = time.time()
            time.sleep(max(SETTLE_S, topic.events / 300_000))  # about as long as the replay takes
            alone_to = time.time()
            replay(folder, broker, "--no-promote")
            beside_to = time.time()
        finally:
            trickle.stop()
    alone, beside = ages(table, alone_from, alone_to), ages(table, alone_to, beside_to)
    if not alone or not beside:
        raise ContestantFailed(f"too few commits to say how fresh the table is: {len(alone)} alone, {len(beside)} beside the replay")
    return median(alone), median(beside)


def _until_committed(table: Path, rows: float) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while sum(added for _, added in warehouse.commits(table)) < rows:
        if time.monotonic() > deadline:
            raise ContestantFailed("the live table did not follow the trickle")
        time.sleep(0.2)
