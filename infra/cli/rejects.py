"""``kappa rejects``: the records that broke a contract or a table's SQL, counted, shown, and written to a file."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from flows.errors import UsageError
from flows.project import load_project
from infra.cli.display import count, grid, shorten, timestamp
from infra.cli.query import form_of, save
from infra.cli.resend import resend
from infra.rejects import EXPORT, Filter, every
from sinks import Warehouse

SHOWN_CHARACTERS = 200


class Rejects(click.Command):
    """``rejects SOURCE``, and ``rejects resend SOURCE FILE``: a source that is called resend is still shown by its name alone."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """click's: the arguments parsed, by the command that they name."""
        if args[:1] == ["resend"] and len(args) > 1:
            return resend.make_context(f"{info_name} resend", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


class Offsets(click.ParamType[tuple[int | None, int | None]]):
    """``FROM..TO``, half-open; either end may be left out."""

    name = "FROM..TO"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | None, int | None]:
        """Fails with click's usage error."""
        match = re.fullmatch(r"(\d*)\.\.(\d*)", str(value))
        if match is None:
            self.fail(f"{value!r} is no range of offsets: 100..200 (without 200), 100.., ..200", param, ctx)
        start, end = (int(text) if text else None for text in match.groups())
        return start, end


class Time(click.ParamType[datetime]):
    """A date or time in ISO 8601; UTC unless it says otherwise."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Fails with click's usage error."""
        try:
            at = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time: 2026-11-22 or 2026-11-22T18:00:00Z", param, ctx)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


@click.command(cls=Rejects, short_help="Count, show, export and resend the records that broke a contract.")
@click.argument("source")
@click.option("--table", "tables", metavar="TABLE", multiple=True, help="Refused by this table: staging.flights, core.flight.")
@click.option("--code", "codes", metavar="CODE", multiple=True, help="With this code, such as bad_value.")
@click.option("--rule", "rules", metavar="RULE", multiple=True, help="Broke this rule.")
@click.option("--column", "columns", metavar="COLUMN", multiple=True, help="Because of this column.")
@click.option("--partition", type=click.IntRange(0), help="In this partition of the topic.")
@click.option("--offsets", type=Offsets(), default="..", help="With these offsets, the last left out: 100..200, 100.., ..200")
@click.option("--since", type=Time(), help="Record time at or after this (UTC): 2026-11-22, 2026-11-22T18:00:00Z")
@click.option("--until", type=Time(), help="Record time before this.")
@click.option("--open", "still_open", is_flag=True, help="Only those that can still be corrected.")
@click.option("--limit", default=10, show_default=True, type=click.IntRange(0), help="How many examples.")
@click.option(
    "--export",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write all of them, for resend too: .ndjson, .json, .csv, .parquet.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def rejects(folder: Path, /, source: str, limit: int, file: Path | None, as_json: bool, **filters: Any) -> None:
    """Count the rejects of a source by table, code and rule, and show examples with position, reason and value.

    They are the rows of staging.SOURCE__rejected, and of the __rejected tables of the tables that derive from it (the records on which
    their SQL raised). An option that is given several times takes each of its values; different options must all hold.

    To mend: correct the contract and kappa apply; or, in a source with corrections = true, write the rejects to a file, correct the values
    in it, and send them (kappa rejects resend --help).

    \b
    Examples:
      kappa rejects flights
      kappa rejects flights --code bad_value --column dep_delay --limit 3
      kappa rejects flights --open --export bad.ndjson
      kappa rejects resend flights bad.ndjson
    """
    project = load_project(folder)
    topic, corrections = project.source(source).topic, project.source(source).corrections
    where = Filter(**filters)
    with Warehouse.open(folder) as warehouse:
        found = f"(FROM {every(project, source, warehouse)} WHERE {where.sql()})"
        if file is not None:
            form = form_of(file)
            if form == "table":
                raise UsageError(f"{file} has no known suffix", next_step="name it .ndjson, .json, .csv, .parquet or .arrow")
            save(
                warehouse.sql(f'SELECT {EXPORT} FROM {found} ORDER BY "table" NOT LIKE \'staging.%\', "table", _partition, _offset'),
                form,
                file,
            )
        counts = warehouse.sql(
            f'SELECT "table", code, rule, count(*) AS rejects FROM {found} GROUP BY ALL ORDER BY rejects DESC, "table", code, rule'
        )
        examples = warehouse.sql(f"FROM {found} ORDER BY _timestamp DESC, _partition, _offset DESC LIMIT {limit}")
        answer = to_json(source, topic, counts.arrow().to_pylist(), examples.arrow().to_pylist())
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    if file is None:
        _show(answer)
    else:
        mend = f"; correct the values in it, then: kappa rejects resend {source} {file}" if answer["total"] and corrections else ""
        click.echo(f"wrote {_total(answer)} to {file}{mend}")


def to_json(source: str, topic: str, counts: list[dict[str, Any]], examples: list[dict[str, Any]]) -> dict[str, Any]:
    """The contract of ``kappa rejects --json`` (docs/json.md)."""
    return {
        "source": source,
        "topic": topic,
        "total": sum(row["rejects"] for row in counts),
        "counts": [{"table": row["table"], "code": row["code"], "rule": row["rule"], "rejects": row["rejects"]} for row in counts],
        "examples": [
            {
                "table": row["table"],
                "position": row["position"],
                "timestamp": timestamp(row["_timestamp"]) if row["_timestamp"] else None,
                "code": row["code"],
                "rule": row["rule"],
                "column": row["column"],
                "reason": row["reason"],
                "key": _readable(row["key"]),
                "value": _readable(row["value"]),
                "corrected_by": row["corrected_by"],
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
        if row["corrected_by"]:
            click.echo(f"  corrected by {row['corrected_by']}")
    click.echo(f"\n{_total(answer)} of source {answer['source']}; to a file: kappa rejects {answer['source']} --export FILE")


def _total(answer: dict[str, Any]) -> str:
    return f"{count(answer['total'])} reject{'' if answer['total'] == 1 else 's'}"


def _on_one_line(value: str | None) -> str:
    """A value as it is; with escapes when it holds line ends or control characters."""
    if value is None:
        return "null"
    return value if value and value.isprintable() else json.dumps(value, ensure_ascii=False)
