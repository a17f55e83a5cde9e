"""The conditions of a bench, and its results as a table for people and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from infra.stack.jars import read_lock
from tests.bench.measure import ROOT, Run

PACKAGES = ("bytewax", "confluent-kafka", "deltalake", "duckdb", "msgspec", "pyarrow")
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of the bench. ``target``: as text, such as ``>= 0.35``; empty when there is none."""

    name: str
    meaning: str
    value: float
    target: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if not self.target:
            return None
        sign, _, bound = self.target.partition(" ")
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)


def conditions(**sizes: object) -> dict[str, object]:
    """The machine, the versions and the sizes."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "kafka": next(jar.version for jar in read_lock() if jar.artifact.startswith("kafka_")),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        **sizes,
    }


def show(conditions: Mapping[str, object], runs: Mapping[str, Sequence[Run]], ratios: Iterable[Ratio]) -> None:
    """Print conditions, the best run of every contestant, and the ratios."""
    console = Console(width=150, highlight=False)
    for name, value in conditions.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        console.print(f"{name:>16}  {text}", style="dim")
    table = Table(
        "contestant", "M records/s", "inside s", "process s", "CPU s", "CPU us/record", "broker CPU s", "peak MB", title="Best runs"
    )
    for name, mine in runs.items():
        best = fastest(mine)
        figures = [best.per_s / 1e6, best.seconds, best.wall_s, best.cpu_s, best.cpu_s / best.records * 1e6, best.broker_cpu_s]
        table.add_row(name, *(f"{figure:.2f}" for figure in figures), f"{best.peak_bytes / MB:.0f}")
    console.print(table)
    table = Table("ratio", "value", "target", "met", "meaning", title="Ratios")
    for ratio in ratios:
        met = {True: "yes", False: "NO", None: ""}[ratio.met]
        table.add_row(ratio.name, f"{ratio.value:.3f}", ratio.target, met, "; ".join(filter(None, [ratio.meaning, ratio.note])))
    console.print(table)


def save(path: Path, conditions: Mapping[str, object], runs: Mapping[str, Sequence[Run]], ratios: Iterable[Ratio]) -> None:
    """Everything, every single run too."""
    document = {
        "conditions": conditions,
        "runs": {name: [asdict(one) for one in mine] for name, mine in runs.items()},
        "ratios": [{**asdict(ratio), "met": ratio.met} for ratio in ratios],
    }
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def fastest(runs: Sequence[Run]) -> Run:
    """The best of several: whatever else the machine did only ever made a run slower."""
    return min(runs, key=lambda one: one.seconds / one.records)


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    """The checkout's commit, with ``+`` when files differ from it; empty outside of a repository."""
    try:
        result = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout.strip()
