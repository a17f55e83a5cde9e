"""``kappa up | down | status | logs | reset``: the warehouse's local Kafka and PostgreSQL, or the existing ones it names."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from flows.errors import KappaError, UsageError
from flows.project import Project, load_project
from infra import addresses
from infra.stack.server import Server

FOLLOW_INTERVAL_S = 0.3


@click.command(short_help="Start the local Kafka and PostgreSQL.")
@click.pass_obj
def up(folder: Path) -> None:
    """Start this warehouse's local Kafka and PostgreSQL, and wait until they answer.

    What runs already is left alone; what was killed or half made is mended. A Kafka or PostgreSQL that the settings name
    ([kafka] bootstrap_servers, [postgres] dsn) is not started, only asked whether it answers.

    \b
    Example:
      kappa up
      kappa -C examples/flights up
    """
    project = load_project(folder)
    if addresses.names_kafka(project):
        addresses.check_kafka(project)
    if addresses.names_postgres(project):
        addresses.check_postgres(project)
    stack = addresses.local_stack(project)
    stack.up(_say, kafka=not addresses.names_kafka(project), postgres=not addresses.names_postgres(project))
    _show(_states(project))


@click.command(short_help="Stop what up started.")
@click.pass_obj
def down(folder: Path) -> None:
    """Stop the local servers that `kappa up` started; their data stay. Existing clusters are never touched.

    \b
    Example:
      kappa down
    """
    project = load_project(folder)
    stopped = addresses.local_stack(project).down(_say)
    for server in stopped:
        click.echo(f"stopped {server.name}")
    for name, named in (("Kafka", addresses.names_kafka(project)), ("PostgreSQL", addresses.names_postgres(project))):
        if named:
            click.echo(f"{name} is an existing one: left alone")
    if not stopped:
        click.echo("nothing of this warehouse was running")


@click.command(short_help="Show what runs, and where.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object (the password masked).")
@click.pass_obj
def status(folder: Path, as_json: bool) -> int:
    """Show where Kafka and PostgreSQL are and whether they answer. Exit status 1 when one does not.

    \b
    Example:
      kappa status --json
    """
    states = _states(load_project(folder))
    if as_json:
        click.echo(json.dumps(states, indent=2))
    else:
        _show(states)
    return 0 if all(state["answers"] for state in states.values()) else 1


@click.command(short_help="Show the servers' logs.")
@click.argument("name", metavar="[kafka|postgres]", type=click.Choice(["kafka", "postgres"]), required=False)
@click.option("-n", "--lines", type=click.IntRange(1), default=50, show_default=True, help="How many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written next, until Ctrl-C (one server).")
@click.pass_obj
def logs(folder: Path, name: str | None, lines: int, follow: bool) -> None:
    """Show the end of the local servers' logs.

    \b
    Example:
      kappa logs kafka -n 200
      kappa logs postgres --follow
    """
    if follow and name is None:
        raise UsageError("--follow follows one server", next_step="kappa logs kafka --follow")
    project = load_project(folder)
    for server in addresses.local_stack(project).servers:
        if name in (None, server.name):
            if name is None:
                click.echo(f"== {server.name}: {server.log}")
            click.echo(server.tail(lines))
            if follow:
                for text in _following(server.log):
                    click.echo(text, nl=False)


@click.command(short_help="Delete the local servers' data.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def reset(folder: Path, yes: bool) -> None:
    """Stop the local servers and delete their data: every event of the local Kafka and the whole local PostgreSQL.

    Tables stay, but cannot go on from the new, empty log. Existing clusters are never touched.

    \b
    Example:
      kappa reset --yes && kappa up
    """
    project = load_project(folder)
    stack = addresses.local_stack(project)
    if not yes:
        click.echo(f"This deletes every event of the local Kafka and the local PostgreSQL, in {stack.state_dir}.")
        click.echo(f"The tables under {project.storage} stay, but cannot go on from an empty log.")
        try:
            click.confirm("Delete them?", abort=True, default=False)
        except click.Abort:
            raise UsageError("nothing was deleted", cause="not confirmed", next_step="kappa reset --yes") from None
    stack.reset(_say)
    click.echo("the local stack's data are gone; kappa up makes an empty one")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _states(project: Project) -> dict[str, dict[str, Any]]:
    """What ``status --json`` shows."""
    stack = addresses.local_stack(project)
    if addresses.names_kafka(project):
        kafka = _existing(addresses.check_kafka, project)
        kafka["bootstrap_servers"] = project.settings.kafka[addresses.BOOTSTRAP]
    else:
        kafka = _local(stack.kafka)
        kafka["bootstrap_servers"] = stack.kafka.bootstrap_servers if kafka["running"] else None
    postgres = _existing(addresses.check_postgres, project) if addresses.names_postgres(project) else _local(stack.postgres)
    dsn = addresses.postgres_dsn(project)
    postgres["dsn"] = None if dsn is None else addresses.mask_dsn(dsn)
    return {"kafka": kafka, "postgres": postgres}


def _existing(check: Callable[[Project], None], project: Project) -> dict[str, Any]:
    try:
        check(project)
    except KappaError as error:
        return {"kind": "existing", "running": None, "answers": False, "pid": None, "log": None, "problem": f"{error.what}: {error.cause}"}
    return {"kind": "existing", "running": None, "answers": True, "pid": None, "log": None, "problem": None}


def _local(server: Server) -> dict[str, Any]:
    process = server.process()
    answers = process is not None and server.answers()
    problem = None if answers else "it runs but does not answer" if process else "it does not run: kappa up"
    return {
        "kind": "local",
        "running": process is not None,
        "answers": answers,
        "pid": process.pid if process else None,
        "log": str(server.log),
        "problem": problem,
    }


def _show(states: dict[str, dict[str, Any]]) -> None:
    for name, address in (("kafka", "bootstrap_servers"), ("postgres", "dsn")):
        state = states[name]
        whose = "an existing one" if state["kind"] == "existing" else f"local, pid {state['pid']}" if state["pid"] else "local"
        click.echo(f"{name:<9} {'answers' if state['answers'] else 'down':<8} {state[address] or '-'}  ({whose})")
        if state["problem"]:
            click.echo(f"{'':<9} {state['problem']}")


def _following(path: Path) -> Iterator[str]:
    """What is appended to the file from now on, for ever; a file that is begun anew is read from its start."""
    position = path.stat().st_size if path.exists() else 0
    while True:
        size = path.stat().st_size if path.exists() else 0
        position = 0 if size < position else position
        if size > position:
            with path.open("rb") as file:
                file.seek(position)
                yield file.read(size - position).decode(errors="replace")
            position = size
        time.sleep(FOLLOW_INTERVAL_S)
