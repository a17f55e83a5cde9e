"""``kappa source infer``: propose a contract from real data."""

from __future__ import annotations

from pathlib import Path

import click

from flows.contract import NAME
from flows.errors import UsageError


@click.group()
def source() -> None:
    """Sources: the topics, formats and contracts in sources/*.toml."""


@source.command()
@click.argument("data", metavar="FILE|TOPIC")
@click.option("--name", help="The source's name (default: the file's or the topic's).")
@click.pass_obj
def infer(folder: Path, data: str, name: str | None) -> None:
    """Print a source for the records of a file (CSV, NDJSON, a JSON array, Parquet, a spreadsheet, text; .gz and .zst too) or of a topic.

    Every record that is looked at passes the contract that is printed. Where it guessed, a comment says so.

    \b
    Examples:
      kappa source infer flights.csv > sources/flights.toml
      kappa source infer orders.ndjson.gz --name web_orders
      kappa source infer payments          # a topic
    """
    from infra.infer.contract import propose
    from infra.infer.proposal import source_name
    from infra.infer.sample import of_file, of_topic

    if name is not None and not NAME.match(name):
        raise UsageError(f"{name!r} is not a source's name", next_step="lower-case letters, digits and _, beginning with a letter")
    path = Path(data)
    if path.is_file():
        name = name or source_name(path.name.split(".")[0])
        sample, topic, origin = of_file(path), name, path.name
    else:
        sample, topic, origin = of_topic(_kafka(folder, data), data), data, f"the topic {data}"
        name = name or source_name(data)
    click.echo(propose(sample, name, topic, origin).toml(), nl=False)


def _kafka(folder: Path, data: str) -> dict[str, str]:
    from flows.project import load_project
    from infra.addresses import resolve

    if "/" in data or "\\" in data:
        raise UsageError(f"there is no file {data}", next_step="name a file, or a topic")
    return resolve(load_project(folder)).kafka
