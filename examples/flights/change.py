"""``make change``: definitions of the flights warehouse change under live tables; then all is as it was. After ``make demo``.

A rule, a column and a summary are edited in the folder; the change is planned, built beside the live tables, compared, made live and taken
back. Then the topic loses its early records, as retention takes them, and the tables are built anew from what the raw table keeps.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CHANGED = 3  # exit status of plan and diff
EDITS = (
    (
        "a rule: delays of more than twelve hours are rejected; those of more than a day were only counted",
        "sources/flights.toml",
        'check = "dep_delay BETWEEN -60 AND 1440"\non_failure = "warn"',
        'check = "dep_delay BETWEEN -60 AND 720"',
    ),
    (
        "a column: the minutes that a flight made up on its way",
        "core/flight.sql",
        "    arr_delay,\n",
        "    arr_delay,\n    dep_delay - arr_delay AS made_up,\n",
    ),
    (
        "a summary: the share of flights that arrived late",
        "analytics/carrier_day.sql",
        "    avg(dep_delay) AS mean_dep_delay,\n",
        "    avg(dep_delay) AS mean_dep_delay,\n    avg(CASE WHEN arr_delay > 15 THEN 1 ELSE 0 END) AS share_late,\n",
    ),
)
PLAN = "files/change.json"
WORST = "SELECT count(*) AS flights, max(dep_delay) AS worst_dep_delay FROM core.flight"
SHARES = (
    "SELECT carrier, sum(flights) AS flights, round(avg(share_late), 3) AS share_late FROM analytics.carrier_day"
    " GROUP BY ALL ORDER BY flights DESC LIMIT 3"
)


def step(what: str, *arguments: str, status: int = 0) -> None:
    """Say what comes, show the command, run it, and end when its exit status is another than ``status``."""
    shown = " ".join(f'"{argument}"' if "'" in argument else shlex.quote(argument) for argument in arguments)
    print(f"\n{what}\n$ kappa {shown}", flush=True)
    done = subprocess.run([sys.executable, "-m", "infra.cli", *arguments], cwd=FOLDER, check=False)
    if done.returncode != status:
        sys.exit(f"stopped: kappa {arguments[0]} ended with exit status {done.returncode}")


@contextmanager
def edited() -> Iterator[None]:
    """The folder with EDITS; as it was at the end, whatever happens."""
    before = {file: (FOLDER / file).read_text(encoding="utf-8") for _, file, _, _ in EDITS}
    try:
        for what, file, old, new in EDITS:
            if before[file].count(old) != 1:
                sys.exit(f"{file} is not as it was shipped: it has no {old!r}")
            print(f"... {what} ({file})", flush=True)
            (FOLDER / file).write_text(before[file].replace(old, new), encoding="utf-8")
        yield
    finally:
        for file, text in before.items():
            (FOLDER / file).write_text(text, encoding="utf-8")


def lose_early_records() -> None:
    """What retention does after a while, at once: the first half of each partition is gone from the topic."""
    from confluent_kafka import Consumer, TopicPartition
    from confluent_kafka.admin import AdminClient

    from flows.project import load_project
    from infra.addresses import resolve

    project = load_project(FOLDER)
    config, topic = resolve(project).kafka, project.sources["flights"].topic
    consumer = Consumer({**config, "group.id": "change"})
    places = []
    for partition in range(len(consumer.list_topics(topic, 10).topics[topic].partitions)):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 10)
        places.append(TopicPartition(topic, partition, (low + high) // 2))
    consumer.close()
    admin = AdminClient(dict(config))
    for future in admin.delete_records(places).values():
        future.result(30)
    print(f"\n... the topic {topic} loses the first half of its records, as retention takes them", flush=True)


def main() -> None:
    started = time.monotonic()
    step("What is live is what the folder defines.", "plan")
    print("\nThree definitions change:", flush=True)
    (FOLDER / PLAN).parent.mkdir(exist_ok=True)
    with edited():
        step("What that means: what follows from it, what building it reads and takes.", "plan", "-o", PLAN, status=CHANGED)
        step("Build it beside the live tables, and check it; readers see nothing of it yet.", "apply", PLAN, "--no-promote")
        step("Row by row: what would change?", "diff", "core.flight", "--samples", "1", status=CHANGED)
        step("The live tables are as they were.", "query", WORST)
        step("Make all of it live, at once.", "promote")
        step("The rule has taken its flights, ...", "query", WORST)
        step("... and the summary has its column.", "query", SHARES)
        step("They are rejects now, with their records.", "rejects", "flights", "--rule", "plausible_delay")
        step("Go back to what was live before, at once.", "rollback", "--all")
    print("\n... the files are as they were, too", flush=True)
    step("Nothing is left to do.", "plan")
    step("The flights are back.", "query", WORST)
    lose_early_records()
    step("Build all tables of the flights anew: from the raw table where the topic has nothing left, then from Kafka.", "replay", "flights")
    step("The same flights.", "query", WORST)
    step("Prove it: every record that was ever sent is in every table once.", "audit")
    print(f"\nDone in {time.monotonic() - started:.0f} s. What was live when: kappa generations")


if __name__ == "__main__":
    main()
