"""``kappa init`` and ``kappa check``: a warehouse folder's beginning, and what is wrong with it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path

import click

from flows.errors import KappaError
from flows.plan import Plan, analyse
from flows.project import Finding, Project, load_project

_FILES = (
    "warehouse.toml",
    "sources/orders.toml",
    "core/orders.sql",
    "analytics/daily_revenue.sql",
    "tests/orders.toml",
    "orders.csv",
    "README.md",
    "gitignore",
)


class FolderNotEmpty(KappaError):
    """``kappa init`` never writes into a folder that holds something."""


@click.command(short_help="Make a small working warehouse folder.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.pass_obj
def init(folder: Path, directory: Path) -> None:
    """Make DIR a small working warehouse: a source, a table, a view, and a file of ten orders, one of them bad.

    \b
    Example:
      kappa init shop
      cd shop && kappa check
    """
    target = folder / directory
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FolderNotEmpty(
            f"{target} is not an empty folder", cause="init would mix its files with yours", next_step="kappa init ANOTHER_FOLDER"
        )
    name = _name(target)
    template = resources.files("infra") / "template"
    for file in _FILES:
        path = target / (".gitignore" if file == "gitignore" else file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((template / file).read_text(encoding="utf-8").replace("{name}", name), encoding="utf-8")
        click.echo(path.relative_to(target).as_posix())
    click.echo(f"\n{target} is a warehouse. Next:\n  cd {target}\n  kappa check && kappa up\n  kappa load orders orders.csv")
    click.echo('  kappa run --until-caught-up\n  kappa query "FROM analytics.daily_revenue"')


def _name(target: Path) -> str:
    """A warehouse name from the folder's: lower case, beginning with a letter."""
    cleaned = re.sub(r"[^a-z0-9_-]+", "_", target.resolve().name.lower()).lstrip("0123456789_-")
    return cleaned[:63] or "warehouse"


@click.command(short_help="Validate every definition, offline.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: see docs/tables.md.")
@click.pass_obj
def check(folder: Path, as_json: bool) -> int:
    """Validate every source, table and view, offline, and show everything that is wrong at once: file, line, cause and what to write.

    SQL is bound by DuckDB against the contracts; [kafka] is shown to librdkafka. Exit status 1 when there is a finding.

    \b
    Examples:
      kappa check
      kappa -C examples/flights check --json
    """
    project = load_project(folder)
    plan = analyse(project)
    plan.findings.extend(_kafka_findings(project))
    if as_json:
        click.echo(json.dumps(_report(project, plan), indent=2))
    else:
        for finding in plan.findings:
            click.echo(str(finding))
        click.echo(_summary(project, plan))
    return 1 if plan.findings else 0


def _kafka_findings(project: Project) -> list[Finding]:
    """What librdkafka says of [kafka], told no broker to connect to."""
    settings = {name: value for name, value in project.settings.kafka.items() if name != "bootstrap.servers"}
    if not settings:
        return []
    from confluent_kafka import Consumer

    from connectors.clients import KafkaSettingsWrong, client

    try:
        client(Consumer, {**settings, "group.id": "kappa-check", "log_level": 0}).close()
    except KafkaSettingsWrong as error:
        lines = (project.folder / "warehouse.toml").read_text(encoding="utf-8").splitlines()
        line = next((number for number, text in enumerate(lines, 1) if text.strip().startswith("[kafka]")), 1)
        fix = "a setting that librdkafka knows, with a value that it takes; it may also come from a variable KAPPA_KAFKA__..."
        return [Finding("warehouse.toml", line, f"[kafka]: {error.cause}", fix)]
    return []


def _report(project: Project, plan: Plan) -> dict[str, object]:
    return {
        "format": 1,
        "warehouse": project.settings.name,
        "ok": not plan.findings,
        "sources": sorted(project.sources),
        "tables": list(plan.tables),
        "views": list(plan.views),
        "findings": [asdict(finding) for finding in plan.findings],
    }


def _summary(project: Project, plan: Plan) -> str:
    if plan.findings:
        files = len({finding.file for finding in plan.findings})
        return f"\n{_count(len(plan.findings), 'error')} in {_count(files, 'file')}"
    kinds = [table.kind for table in plan.tables.values()]
    nouns = {"append": "append table", "upsert": "upsert table", "summary": "summary", "materialized": "materialized table"}
    tables = [_count(kinds.count(kind), noun) for kind, noun in nouns.items() if kind in kinds or kind == "append"]
    counts = (_count(len(project.sources), "source"), *tables, _count(len(plan.views), "view"))
    return f"{', '.join(counts)}: no errors"


def _count(number: int, noun: str) -> str:
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
