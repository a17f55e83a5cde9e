"""``kappa rejects``: the records that broke a contract or a table's SQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.contract import Source
from flows.errors import UsageError
from flows.plan import analyse
from flows.project import Project, load_project
from infra.cli.display import count, grid, shorten, timestamp
from infra.cli.query import form_of, save
from sinks import Warehouse

REJECTED = "__rejected"
SHOWN_CHARACTERS = 200
_AS_TEXT = "* REPLACE (coalesce(try(decode(key)), key::varchar) AS key, coalesce(try(decode(value)), value::varchar) AS value)"


@click.command(short_help="Count and show the records that broke a contract.")
@click.argument("source")
@click.option("--code", help="Only rejects with this code, such as bad_value.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(0), help="How many examples.")
@click.option(
    "--export", "file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write all of them: .parquet, .csv, .json."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def rejects(folder: Path, source: str, code: str | None, limit: int, file: Path | None, as_json: bool) -> None:
    """Count the rejects of a source by table, code and rule, and show examples with position, reason and value.

    They are the rows of staging.SOURCE__rejected, and of the __rejected tables of the tables that derive from it (the records on which
    their SQL raised).

    \b
    Examples:
      kappa rejects flights
      kappa rejects flights --code bad_value --limit 3
      kappa rejects flights --export rejects.parquet
    """
    project = load_project(folder)
    project.source(source)
    with Warehouse.open(folder) as warehouse:
        every = _every(_tables(project, source, warehouse.tables()), code)
        if file is not None:
            form = form_of(file)
            if form == "table":
                raise UsageError(f"{file} has no known suffix", next_step="name it .parquet, .csv, .json or .arrow")
            columns = "*" if form in ("parquet", "arrow") else _AS_TEXT
            save(warehouse.sql(f"SELECT {columns} FROM {every} ORDER BY rejected_by, _partition, _offset"), form, file)
        counts = warehouse.sql(
            f"SELECT rejected_by, code, rule, count(*) AS rejects FROM {every} GROUP BY ALL ORDER BY rejects DESC, rejected_by, code, rule"
        )
        examples = warehouse.sql(f"FROM {every} ORDER BY _timestamp DESC, _partition, _offset DESC LIMIT {limit}")
        answer = to_json(project.sources[source], counts.arrow().to_pylist(), examples.arrow().to_pylist())
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    _show(answer)
    if file is not None:
        click.echo(f"wrote {count(answer['total'])} rejects to {file}")


def _tables(project: Project, source: str, stored: list[str]) -> list[str]:
    """The tables of rejects that the catalogue has. Raises UsageError when there is none yet."""
    nodes = [node.name for node in analyse(project).nodes.values() if node.source == source]
    names = [name for table in (f"staging.{source}", *nodes) if (name := f"{table}{REJECTED}") in stored]
    if not names:
        raise UsageError(f"source {source} has no tables yet", next_step=f"kappa run {source} --until-caught-up")
    return names


def _every(names: list[str], code: str | None) -> str:
    """SQL of all rejects: ``rejected_by`` and the columns of a table of rejects."""
    selects = [f"SELECT '{name.removesuffix(REJECTED)}' AS rejected_by, * FROM {name}" for name in names]
    where = " WHERE code = '" + code.replace("'", "''") + "'" if code is not None else ""
    return f"(SELECT * FROM ({' UNION ALL '.join(selects)}){where})"


def to_json(source: Source, counts: list[dict[str, Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The contract of ``kappa rejects --json`` (docs/json.md)."""
    return {
        "source": source.name,
        "total": sum(row["rejects"] for row in counts),
        "counts": [{"table": row["rejected_by"], "code": row["code"], "rule": row["rule"], "rejects": row["rejects"]} for row in counts],
        "examples": [
            {
                "table": row["rejected_by"],
                "position": f"{source.topic}/{row['_partition']}/{row['_offset']}",
                "timestamp": timestamp(row["_timestamp"]) if row["_timestamp"] else None,
                "code": row["code"],
                "rule": row["rule"],
                "column": row["column"],
                "reason": row["reason"],
                "value": _readable(row["value"]),
            }
            for row in examples
        ],
    }


def _readable(value: bytes | None) -> str | None:
    """Text, with what is not UTF-8 as escapes, shortened."""
    return None if value is None else shorten(value[: 4 * SHOWN_CHARACTERS].decode("utf-8", "backslashreplace"), SHOWN_CHARACTERS)


def _show(answer: dict[str, Any]) -> None:
    if not answer["total"]:
        click.echo(f"source {answer['source']} has no such rejects")
        return
    rows = [[row["table"], row["code"], row["rule"] or "", count(row["rejects"])] for row in answer["counts"]]
    grid(["table", "code", "rule", "rejects"], rows, right={3})
    for row in answer["examples"]:
        where = " ".join(part for part in (row["position"], row["code"], row["rule"], row["column"]) if part)
        click.secho(f"\n{where}", bold=True)
        click.echo(f"  {row['reason']}\n  value: {_on_one_line(row['value'])}")
    total = f"{count(answer['total'])} reject{'' if answer['total'] == 1 else 's'}"
    click.echo(f"\n{total} of source {answer['source']}; to a file: kappa rejects {answer['source']} --export FILE")


def _on_one_line(value: str | None) -> str:
    """A value as it is; with escapes when it holds line ends or control characters."""
    if value is None:
        return "null"
    return value if value and value.isprintable() else json.dumps(value, ensure_ascii=False)
