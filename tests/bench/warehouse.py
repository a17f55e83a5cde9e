"""A warehouse with one source, as a user would write it, and ``kappa run`` of it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from deltalake import DeltaTable

from tests.bench.events import COLUMNS, Topic


def make(folder: Path, bootstrap: str, topic: Topic, *, raw: bool = False, run: Mapping[str, object] | None = None) -> Path:
    """Write the folder anew. ``run``: the settings of ``[run]``, else as shipped. Returns ``folder``."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "sources").mkdir(parents=True)
    settings = ['name = "bench"', "[kafka]", f'bootstrap_servers = "{bootstrap}"', "[run]", *_lines(run or {})]
    (folder / "warehouse.toml").write_text("\n".join(settings) + "\n")
    source = [f'topic = "{topic.name}"', 'format = "json"', f"raw = {json.dumps(raw)}", "[columns]", *_lines(COLUMNS)]
    (folder / "sources" / "events.toml").write_text("\n".join(source) + "\n")
    return folder


def run_command(folder: Path, *, until_caught_up: bool = True) -> list[str]:
    """``kappa run`` as installed beside this interpreter."""
    kappa = Path(sys.executable).with_name("kappa")
    return [str(kappa), "-C", str(folder), "run", "--json", *(["--until-caught-up"] if until_caught_up else [])]


def table_folder(folder: Path, table: str = "staging/events") -> Path | None:
    """The folder of the only generation of a table; None before it is made."""
    return next((path.parent for path in folder.glob(f"data/{table}/*/_delta_log")), None)


def rows(table: Path | None) -> int:
    """The rows of a Delta table, counted by its log."""
    assert table is not None, "no table was made"
    return sum(DeltaTable(table).get_add_actions(flatten=True)["num_records"].to_pylist())


def commits(table: Path | None) -> list[tuple[float, int]]:
    """(time in s, rows added) of every commit of new rows that the log still holds, oldest first."""
    found = []
    for path in sorted(table.glob("_delta_log/*.json")) if table is not None else []:
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        added = [json.loads(a["add"]["stats"])["numRecords"] for a in actions if "add" in a and a["add"]["dataChange"]]
        if added:
            found.append((next(a["commitInfo"]["timestamp"] for a in actions if "commitInfo" in a) / 1000, sum(added)))
    return found


def _lines(values: Mapping[str, object]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in values.items()]
