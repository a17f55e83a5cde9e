"""``kappa metadata upgrade | rebuild | status``: the mirror in PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from flows.project import Project, load_project
from infra.addresses import kafka_config, postgres_dsn
from infra.metadata import rebuild, survey, upgrade
from infra.metadata.connection import address, reached
from infra.metadata.history import WarehouseHistory


@click.group(short_help="Mirror of catalogue, commits and loads in PostgreSQL.")
def metadata() -> None:
    """The mirror of runs, catalogue, commits and loads in PostgreSQL, for dashboards and questions in SQL.

    `run` and `load` write it beside the stream; nothing depends on it. Tables and example queries: docs/metadata.md.

    \b
    Examples:
      kappa metadata status
      kappa metadata rebuild
      psql "$KAPPA_POSTGRES__DSN" -c "SELECT * FROM kappa.live_tables"
    """


@metadata.command("upgrade")
@click.pass_obj
def upgrade_command(folder: Path) -> None:
    """Bring the schema up to date. `run` and `load` do it themselves; use this where their user may not change schemas.

    \b
    Example:
      KAPPA_POSTGRES__DSN=postgresql://admin@db/kappa kappa metadata upgrade
    """
    dsn = postgres_dsn(load_project(folder))
    with reached(dsn):
        assert dsn is not None
        changed = upgrade(dsn)
    click.echo(f"schema kappa at {address(dsn)} is {'now up to date' if changed else 'up to date already'}")


@metadata.command("rebuild")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def rebuild_command(folder: Path, as_json: bool) -> None:
    """Write everything again from the catalogue files, the Delta logs and the topic kappa.loads. Nothing is deleted.

    \b
    Example:
      kappa metadata rebuild
    """
    project = load_project(folder)
    added = asdict(rebuild(postgres_dsn(project), project.settings.name, _history(project)))
    click.echo(json.dumps(added) if as_json else "wrote " + ", ".join(f"{count:,} {name}" for name, count in added.items()))


@metadata.command("status")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def status_command(folder: Path, as_json: bool) -> int:
    """Show what the mirror holds, and what of the catalogue and the Delta logs it lacks. Exit status 1 when it is down or lacks something.

    \b
    Example:
      kappa metadata status --json
    """
    project = load_project(folder)
    dsn = postgres_dsn(project)
    with reached(dsn) as database:
        found = survey(database, project.settings.name, _history(project))
    assert dsn is not None
    if as_json:
        click.echo(json.dumps({"address": address(dsn), **asdict(found)}))
    else:
        click.echo(f"{address(dsn)}, schema revision {found.revision or 'none'} (this kappa: {found.head})")
        for name, count in found.records.items():
            lacks = f", lacks {found.missing[name]:,}" if found.missing.get(name) else ""
            click.echo(f"  {name:<11}{count:>12,}{lacks}")
        if not found.complete:
            click.echo("next: kappa metadata rebuild", err=True)
    return 0 if found.complete else 1


def _history(project: Project) -> WarehouseHistory:
    return WarehouseHistory(project.storage, lambda: kafka_config(project))
