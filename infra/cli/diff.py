"""``kappa diff``: two generations, or moments, of a table, row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from flows.errors import UsageError
from flows.project import load_project
from infra.changes.diff import Diff, Numbers, diff
from infra.changes.generations import Generation, generations
from infra.cli.display import count, grid
from infra.run.live import of_folder, summary_of
from sinks.address import TableAddress
from sinks.catalog import Catalog
from sinks.published import Cuts, TableVersion

DIFFERENT = 3  # exit status


@click.command("diff", short_help="Compare two generations of a table, row by row.")
@click.argument("table")
@click.argument("a", required=False, metavar="[A]")
@click.argument("b", required=False, metavar="[B]")
@click.option("--samples", default=3, show_default=True, metavar="N", type=click.IntRange(0, 1000), help="Rows of each sort to show.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def diff_command(folder: Path, table: str, a: str | None, b: str | None, samples: int, as_json: bool) -> int:
    """Compare generation B of TABLE with generation A at equal positions of the log: rows of one alone, rows that differ, by column.

    A is the live generation unless it is named; B the newest that was built beside it, or else the one before it. @CUT (number, name or
    time) is the table as of a published cut: both are then compared as they stood, B as it is now unless it is named. Rows are the same
    when their key is: the key of an upsert table, the groups of a summary, the position of an append table. Values are compared exactly;
    DOUBLE aggregates of summaries within 1e-9 of the size of what was added up, because its order shows in their last bits.

    Exit status 0 when they are equal, 3 when they differ.

    \b
    Examples:
      kappa apply --yes --no-promote && kappa diff core.flight
      kappa diff core.flight 3f9a0c12b7de-1 90c1d2e3f4a5-2 --json
      kappa diff core.flight @month-end
    """
    project = load_project(folder)
    catalog = Catalog(project.storage)
    moments = [None if name is None else _moment(project.storage, table, name) for name in (a, b)]
    if moments[0] is not None and b is None:
        live = catalog.read().tables.get(table)
        b = None if live is None else live.generation
    names = [name if moment is None else moment.generation for name, moment in zip((a, b), moments, strict=True)]
    one, other = _choose(table, names[0], names[1], generations(project.storage, [table]))
    addresses = [TableAddress(project.storage, table, name) for name in (one, other)]
    summary = summary_of(of_folder(project), table, catalog, (one, other))
    versions = [None if moment is None else moment.version for moment in moments]
    found = diff(addresses[0], addresses[1], summary, samples, (versions[0], versions[1]))
    if as_json:
        click.echo(json.dumps(to_json(found), indent=2, default=str))
    else:
        for line in lines_of(found):
            click.echo(line)
        _show_numbers(found)
    return 0 if found.equal else DIFFERENT


def _moment(root: str, table: str, name: str) -> TableVersion | None:
    """The table at ``@CUT``; None for what names a generation. Raises CutUnknown, UsageError."""
    if not name.startswith("@"):
        return None
    cut = Cuts(root).find(name[1:])
    if table not in cut.tables:
        raise UsageError(f"cut {cut.n} has no {table}", cause=f"it has: {', '.join(cut.tables)}", next_step="kappa cuts")
    return cut.tables[table]


def _choose(table: str, a: str | None, b: str | None, known: list[Generation]) -> tuple[str, str]:
    """The names of the two generations. Raises UsageError."""
    standing = {generation.name: generation for generation in known if generation.state != "dropped"}
    if not standing:
        raise UsageError(f"no table {table}", cause="nothing was ever built under that name", next_step="kappa generations")
    for name in filter(None, (a, b)):
        if name not in standing:
            raise UsageError(
                f"{table} has no generation {name}", cause=f"there are: {', '.join(standing)}", next_step=f"kappa generations {table}"
            )
    live = next((name for name, generation in standing.items() if generation.state == "live"), None)
    one = a or live
    others = [name for name in standing if name != one]
    built = [name for name in others if standing[name].state == "built"]
    other = b or next(iter([*reversed(built), *reversed(others)]), None)
    if one is None or other is None:
        raise UsageError(
            f"{table} has one generation: {', '.join(standing)}",
            cause="there is nothing to compare it with",
            next_step="kappa apply --no-promote",
        )
    return one, other


def to_json(found: Diff) -> dict[str, Any]:
    """The contract of ``kappa diff --json`` (docs/json.md)."""
    return {
        "format": 1,
        "table": found.table,
        "equal": found.equal,
        "key": list(found.key),
        "positions": {f"{topic}/{partition}": offset for (topic, partition), offset in sorted(found.positions.items())},
        "a": {"generation": found.a.generation, "version": found.a.version, "rows": found.a.rows},
        "b": {"generation": found.b.generation, "version": found.b.version, "rows": found.b.rows},
        "only_a": found.only_a,
        "only_b": found.only_b,
        "changed": found.changed,
        "columns": [
            {
                "name": column.name,
                "changed": column.changed,
                "types": list(column.types) if column.types else None,
                "a": _numbers(column.a),
                "b": _numbers(column.b),
            }
            for column in found.columns
        ],
        "dropped": dict(found.dropped),
        "added": dict(found.added),
        "samples": [dict(sample) for sample in found.samples],
    }


def _numbers(numbers: Numbers | None) -> dict[str, Any] | None:
    if numbers is None:
        return None
    return {"min": numbers.least, "max": numbers.greatest, "mean": numbers.mean, "nulls": numbers.nulls}


def lines_of(found: Diff) -> Iterator[str]:
    """The diff for people, but for the statistics."""
    where = ", ".join(f"{topic}/{partition}/{offset}" for (topic, partition), offset in sorted(found.positions.items()))
    yield f"{found.table} at {where}"
    sides = (f"{name} {side.generation}: {count(side.rows)} rows" for name, side in (("A", found.a), ("B", found.b)))
    yield f"{'; '.join(sides)}; key {', '.join(found.key)}"
    for name, kind in found.dropped.items():
        yield f"column {name} {kind} is only in A"
    for name, kind in found.added.items():
        yield f"column {name} {kind} is only in B"
    for column in found.columns:
        if column.types is not None:
            yield f"column {column.name}: {column.types[0]} in A, {column.types[1]} in B"
    if found.equal:
        yield "equal"
        return
    yield f"only in A {count(found.only_a)}, only in B {count(found.only_b)}, changed {_share(found.changed, found.a.rows - found.only_a)}"
    for column in found.columns:
        if column.changed:
            yield f"  {column.name}: {_share(column.changed, found.a.rows - found.only_a)}"
    for sample in found.samples:
        keys = ", ".join(f"{name} = {sample[name]}" for name in found.key)
        if sample["in"] != "both":
            yield f"  only in {str(sample['in']).upper()}: {keys}"
            continue
        changed = "; ".join(f"{name}: {value[0]} -> {value[1]}" for name, value in sample.items() if name != "in" and name not in found.key)
        yield f"  {keys}: {changed}"


def _share(part: int, whole: int) -> str:
    return f"{count(part)} ({100 * part / whole:.3g} %)" if whole else count(part)


def _show_numbers(found: Diff) -> None:
    rows = []
    for column in found.columns:
        if column.a is not None and column.b is not None and column.changed:
            for side, numbers in (("A", column.a), ("B", column.b)):
                mean = "" if numbers.mean is None else f"{numbers.mean:.6g}"
                rows.append([column.name, side, str(numbers.least), str(numbers.greatest), mean, count(numbers.nulls)])
    if rows:
        grid(["column", "in", "min", "max", "mean", "null"], rows, right={2, 3, 4, 5})
