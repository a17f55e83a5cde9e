"""R1 to R12: which contestants run, and what is divided by what. docs/benchmarks.md says what each ratio means."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

import psutil

from flows.settings import MaintenanceSettings
from tests.bench import events, warehouse
from tests.bench.commit_latency import AROUND
from tests.bench.commit_latency import measure as commit_latency_of
from tests.bench.events import Topic
from tests.bench.measure import ContestantFailed, Run, python, run
from tests.bench.replays import diff_seconds, freshness, replay
from tests.bench.report import Ratio, fastest
from tests.bench.summaries import measure as summaries_of
from tests.bench.upserts import measure as upserts_of

PARTITIONS = 4
EVENT_BYTES = 250
LARGE_EVENT_BYTES = 2500
MEMORY_LIMIT_BYTES = 512_000_000
MEMORY_TOPIC_LIMITS = 10.5  # the topic of R11, in memory limits, of a full bench
FULL_EVENTS = 3_000_000
IDLE_PARTITIONS = 7
UPSERT_ROWS = (1_000_000, 10_000_000)  # of a full bench
UPSERT_BATCHES = 2
SUMMARY_GROUPS = (100_000, 1_000_000)
SHORT_RETENTION_S = 10.0  # as shipped it is an hour: a bench would end before anything is cleaned up
BASELINES = "tests.bench.baselines."


@dataclass(slots=True)
class Bench:
    """One bench: a running broker, a folder for tables, the runs so far by contestant. ``say`` tells what is being done."""

    bootstrap: str
    broker: psutil.Process
    folder: Path
    events: int
    repeat: int
    say: Callable[[str], None]
    runs: dict[str, list[Run]] = field(default_factory=dict)

    def fill(self, name: str, count: int, **how: int) -> Topic:
        """A topic with ``count`` events."""
        started = time.monotonic()
        topic = events.fill(self.bootstrap, name, count, **how)
        seconds = time.monotonic() - started
        self.say(f"topic {name}: {count:,} events, {topic.nbytes / 1e6:,.0f} MB, {topic.nbytes / count:.0f} B each, in {seconds:.1f} s")
        return topic

    def measure(self, contestants: dict[str, Callable[[], Run]]) -> None:
        """Run all of them in turn, ``repeat`` times: what the machine does beside them then hits all alike."""
        for _ in range(self.repeat):
            for name, contest in contestants.items():
                one = contest()
                self.runs.setdefault(name, []).append(one)
                peak_mb = one.peak_bytes / 1e6
                self.say(f"{name}: {one.per_s / 1e6:.3f} M/s, CPU {one.cpu_s:.1f} s, broker {one.broker_cpu_s:.1f} s, {peak_mb:.0f} MB")

    def per_s(self, name: str) -> float:
        """Records a second of a contestant's best run."""
        return fastest(self.runs[name]).per_s

    # --- contestants

    def baseline(self, module: str, topic: Topic) -> Run:
        """A program of ``baselines``; what it writes must hold every record."""
        table = self.folder / module
        one = run(python(BASELINES + module, self.bootstrap, topic.name, str(table)), self.broker)
        if table.exists():
            _expect(warehouse.rows(table), topic)
            shutil.rmtree(table)
        _expect(one.records, topic)
        return one

    def kappa(self, topic: Topic, *, raw: bool = False, guarded: bool = True, **settings: object) -> Run:
        """``kappa run --until-caught-up`` of a new warehouse; its tables must hold every record."""
        folder = warehouse.make(self.folder / "warehouse", self.bootstrap, topic, raw=raw, run=settings)
        command = warehouse.run_command(folder)
        one = run(command if guarded else python(BASELINES + "unguarded", *command[1:]), self.broker)
        for table in ("staging/events", *(["raw/events"] if raw else [])):
            _expect(warehouse.rows(warehouse.table_folder(folder, table)), topic)
        shutil.rmtree(folder)
        return one

    def kappa_stream(self, topic: Topic) -> Run:
        """``kappa run`` until stopped, while idle partitions stay open: the rate between its first and its last full commit."""
        commit_rows = max(1, topic.events // 15)
        settings = {"commit_rows": commit_rows, "batch_rows": min(50_000, commit_rows)}
        folder = warehouse.make(self.folder / "warehouse", self.bootstrap, topic, run=settings)

        def complete() -> bool:
            time.sleep(0.5)  # looking costs CPU that the contestant needs
            return sum(rows for _, rows in warehouse.commits(warehouse.table_folder(folder))) == topic.events

        one = run(warehouse.run_command(folder, until_caught_up=False), self.broker, complete)
        full = [(at, rows) for at, rows in warehouse.commits(warehouse.table_folder(folder)) if rows >= commit_rows]
        per_s = sum(rows for _, rows in full[1:]) / (full[-1][0] - full[0][0])
        shutil.rmtree(folder)
        return replace(one, seconds=one.records / per_s)


def _expect(count: int, topic: Topic) -> None:
    if count != topic.events:
        raise ContestantFailed(f"{count:,} of {topic.events:,} events of {topic.name} arrived")


def throughput(bench: Bench, only: Sequence[str]) -> list[Ratio]:
    """R1 to R4, on one topic."""
    topic = bench.fill("bench", bench.events, partitions=PARTITIONS, event_bytes=EVENT_BYTES)
    bench.baseline("raw_consume", topic)  # warms the broker up
    contestants: dict[str, Callable[[], Run]] = {"kappa": lambda: bench.kappa(topic)}
    if "R1" in only:
        contestants["raw_consume"] = lambda: bench.baseline("raw_consume", topic)
        contestants["kappa, raw on"] = lambda: bench.kappa(topic, raw=True)
    if "R2" in only:
        contestants["stock_bytewax"] = lambda: bench.baseline("stock_bytewax", topic)
    if "R3" in only:
        contestants["plain_loop"] = lambda: bench.baseline("plain_loop", topic)
    if "R4" in only:
        contestants["unguarded"] = lambda: bench.kappa(topic, guarded=False)
    bench.measure(contestants)
    events.delete_topic(bench.bootstrap, topic.name)
    ratios = [
        ("R1", "kappa", "raw_consume", "exactly once into a typed table / raw consume()", ">= 0.35"),
        ("R1 raw", "kappa, raw on", "raw_consume", "the same with raw.<source> / raw consume()", ""),
        ("R2", "kappa", "stock_bytewax", "exactly once / stock Bytewax, per message, no guarantee", ">= 4"),
        ("R3", "kappa", "plain_loop", "exactly once / a loop written by hand, no guarantee", ">= 1.0"),
        ("R4", "kappa", "unguarded", "exactly once on / off", ">= 0.95"),
    ]
    return [
        Ratio(name, meaning, bench.per_s(one) / bench.per_s(other), target)
        for name, one, other, meaning, target in ratios
        if other in bench.runs and one in bench.runs
    ]


def memory(bench: Bench) -> Ratio:
    """R11: the greatest peak of all runs, raw on, over the limit."""
    count = round(MEMORY_TOPIC_LIMITS * MEMORY_LIMIT_BYTES / LARGE_EVENT_BYTES * min(1, bench.events / FULL_EVENTS))
    topic = bench.fill("bench-large", count, partitions=PARTITIONS, event_bytes=LARGE_EVENT_BYTES)
    name = "kappa, memory_limit 512 MB"
    bench.measure({name: lambda: bench.kappa(topic, raw=True, memory_limit=MEMORY_LIMIT_BYTES)})
    events.delete_topic(bench.bootstrap, topic.name)
    peak = max(one.peak_bytes for one in bench.runs[name])
    size = f"topic {topic.nbytes / MEMORY_LIMIT_BYTES:.1f} times the limit, {topic.nbytes / count:.0f} B an event, raw on"
    return Ratio("R11", "peak memory / memory_limit", peak / MEMORY_LIMIT_BYTES, "<= 1", size)


def idle_partitions(bench: Bench) -> Ratio:
    """R12: one busy partition among idle ones, over that partition alone."""
    count = max(1, bench.events // 2)
    alone = bench.fill("bench-alone", count, partitions=1, event_bytes=EVENT_BYTES, busy=0)
    among = bench.fill("bench-among", count, partitions=1 + IDLE_PARTITIONS, event_bytes=EVENT_BYTES, busy=0)
    bench.measure({"kappa, 1 partition": lambda: bench.kappa_stream(alone), "kappa, 1 busy of 8": lambda: bench.kappa_stream(among)})
    for topic in (alone, among):
        events.delete_topic(bench.bootstrap, topic.name)
    value = bench.per_s("kappa, 1 busy of 8") / bench.per_s("kappa, 1 partition")
    return Ratio("R12", "one busy partition among 8 / that partition alone", value, ">= 0.8")


def upserts(bench: Bench) -> list[Ratio]:
    """R7: upserts into tables of two sizes, and reads of what they leave."""
    scale = min(1, bench.events / FULL_EVENTS)
    return upserts_of(bench.folder, [round(rows * scale) for rows in UPSERT_ROWS], UPSERT_BATCHES, bench.say)


def summaries(bench: Bench) -> list[Ratio]:
    """What keeping a summary costs, with two numbers of groups."""
    scale = min(1, bench.events / FULL_EVENTS)
    return summaries_of(bench.folder, [round(groups * scale) for groups in SUMMARY_GROUPS], bench.say)


def commit_latency(bench: Bench) -> list[Ratio]:
    """R8: commits to a long table log over commits to a short one. A small bench looks at smaller numbers of commits."""
    scale = max(0.01, min(1, bench.events / FULL_EVENTS))
    short, *long = (round(at * scale) for at in AROUND)
    half = round(100 * scale)
    ratios = []
    for retention_s in (MaintenanceSettings().retention_s, SHORT_RETENTION_S):
        with tempfile.TemporaryDirectory(dir=bench.folder) as root:
            took = commit_latency_of(root, long[-1] + half, retention_s, 0)

        def mean_s(at: int, took: Sequence[float] = took) -> float:
            return mean(took[at - half : at + half])

        for at in long:
            note = f"{mean_s(short) * 1000:.2f} ms and {mean_s(at) * 1000:.2f} ms, retention {retention_s:.0f} s"
            ratios.append(
                Ratio("R8", f"mean of {2 * half} commits around {at:,} / around {short}", mean_s(at) / mean_s(short), "<= 1.5", note)
            )
    return ratios


def changes(bench: Bench) -> list[Ratio]:
    """What a replay costs, and what it leaves of the live tables' freshness; two workers; a diff of two generations."""
    topic = bench.fill("bench-replay", bench.events, partitions=PARTITIONS, event_bytes=EVENT_BYTES)
    bench.baseline("raw_consume", topic)  # warms the broker up
    folders = {workers: bench.folder / f"workers-{workers}" for workers in (1, 2)}

    def fed(workers: int) -> Run:
        """A new warehouse that ``kappa run`` has fed; it stays for what comes next."""
        made = warehouse.make(folders[workers], bench.bootstrap, topic, run={"workers": workers})
        one = run(warehouse.run_command(made), bench.broker)
        _expect(warehouse.rows(warehouse.table_folder(made)), topic)
        return one

    def replayed() -> Run:
        one = replay(folders[1], bench.broker, "--no-promote")
        _expect(one.records, topic)
        return one

    bench.measure({"kappa run": lambda: fed(1), "kappa replay": replayed, "kappa run, 2 workers": lambda: fed(2)})
    seconds, rows = diff_seconds(folders[1])

    fresh = warehouse.make(bench.folder / "fresh", bench.bootstrap, topic, run={"commit_interval_s": 1.0})
    run(warehouse.run_command(fresh), bench.broker)
    alone, beside = freshness(fresh, bench.bootstrap, topic, EVENT_BYTES, bench.broker)
    events.delete_topic(bench.bootstrap, topic.name)
    for folder in (*folders.values(), fresh):
        shutil.rmtree(folder)
    note = f"{rows:,} rows each, {seconds:.1f} s, as a process"
    return [
        Ratio("replay", "kappa replay, checked / kappa run", bench.per_s("kappa replay") / bench.per_s("kappa run"), ">= 0.95"),
        Ratio("workers", "2 workers / 1 worker, 4 partitions", bench.per_s("kappa run, 2 workers") / bench.per_s("kappa run"), ">= 1.4"),
        Ratio("diff", "seconds of kappa diff / of kappa run", seconds / fastest(bench.runs["kappa run"]).seconds, "", note),
        Ratio("fresh", "age of live rows while a replay runs / without", beside / alone, "<= 2", f"{alone:.2f} s and {beside:.2f} s"),
    ]
