"""``python -m tests.bench``: make a broker and its topics, run the contestants, print the ratios."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from flows.settings import LocalSettings
from infra.stack.local import LocalStack
from tests.bench import ratios, report
from tests.bench.measure import ContestantFailed

THROUGHPUT = ("R1", "R2", "R3", "R4")
NAMES = (*THROUGHPUT, "R7", "SUMMARY", "CHANGES", "R8", "R11", "R12")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Benchmarks of kappa; see docs/benchmarks.md.")
    parser.add_argument("--only", type=_names, default=NAMES, metavar="R1,R3", help=f"of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--events", type=int, default=ratios.FULL_EVENTS, help="events in the main topic; the others scale with it")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each contestant; the best one counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write conditions, all runs and the ratios there too")
    parser.add_argument("--folder", type=Path, help="where broker and tables live, about 15 GB for a full bench (default: the temp folder)")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.upper().split(","))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


def measure(bench: ratios.Bench, only: tuple[str, ...]) -> list[report.Ratio]:
    """The ratios of ``only``, in their order."""
    found: list[report.Ratio] = []
    if set(only) & set(THROUGHPUT):
        found += ratios.throughput(bench, only)
    if "R7" in only:
        found += ratios.upserts(bench)
    if "SUMMARY" in only:
        found += ratios.summaries(bench)
    if "CHANGES" in only:
        found += ratios.changes(bench)
    if "R8" in only:
        found += ratios.commit_latency(bench)
    if "R11" in only:
        found.append(ratios.memory(bench))
    if "R12" in only:
        found.append(ratios.idle_partitions(bench))
    return found


def main() -> None:
    """Run the bench; whatever happens, its broker is stopped and its files are removed."""
    options = arguments()
    started = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {line}", file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="kappa-bench-", dir=options.folder))
    heap_mb = LocalSettings().kafka_heap_mb
    stack = LocalStack(folder / "stack", kafka_heap_mb=heap_mb)
    try:
        stack.up(say, postgres=False)
        broker = stack.kafka.process()
        assert broker is not None
        assert stack.kafka.bootstrap_servers is not None
        bench = ratios.Bench(stack.kafka.bootstrap_servers, broker, folder, options.events, options.repeat, say)
        found = measure(bench, options.only)
    except ContestantFailed as failure:
        sys.exit(str(failure))
    finally:
        stack.down()
        shutil.rmtree(folder, ignore_errors=True)
    conditions = report.conditions(
        command=" ".join(["python -m tests.bench", *sys.argv[1:]]),
        events=f"{options.events:,} of about {ratios.EVENT_BYTES} B in {ratios.PARTITIONS} partitions, not compressed",
        repeat=options.repeat,
        broker=f"one node on this machine, -Xmx{heap_mb}m, no PostgreSQL",
    )
    report.show(conditions, bench.runs, found)
    if options.json is not None:
        report.save(options.json, conditions, bench.runs, found)


if __name__ == "__main__":
    main()
