"""``kappa test``: the warehouse's own unit tests."""

from __future__ import annotations

import json
from pathlib import Path

import click

from flows.plan import analyse, require
from flows.project import load_project
from infra.cases.case import case_paths
from infra.cases.verdict import Verdict, run_case


@click.command("test", short_help="Run the warehouse's own unit tests, offline.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="[FILE]...")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object: see docs/json.md.")
@click.pass_obj
def test_command(folder: Path, files: tuple[Path, ...], as_json: bool) -> int:
    """Run the tests of the warehouse, tests/*.toml, or those named: given events, expected rows and rejects.

    Each test makes all tables in a temporary folder, by the same code as kappa run, and reads them as kappa query does. Nothing is
    needed: no Kafka, no network. Exit status 1 when a test failed.

    \b
    Example of a test:
      [given.orders]
      text = '''
      order_id,quantity,price
      1,2,10.00
      2,one,10.00
      '''
      [expect."core.orders"]
      rows = '{"order_id": 1, "revenue": 20.00}'
      [expect."staging.orders__rejected"]
      rows = '{"code": "bad_value", "column": "quantity"}'
    """
    project = load_project(folder)
    require(analyse(project))
    verdicts = []
    for path in case_paths(project.folder, files):
        verdict = run_case(project, path)
        verdicts.append(verdict)
        if not as_json:
            _show(verdict, project.folder)
    failed = sum(bool(verdict.failures) for verdict in verdicts)
    if as_json:
        click.echo(json.dumps(to_json(verdicts, project.folder), indent=2))
    elif not verdicts:
        click.echo("there are no tests; see kappa test --help")
    else:
        click.echo(f"{len(verdicts) - failed} passed, {failed} failed")
    return 1 if failed else 0


def to_json(verdicts: list[Verdict], folder: Path) -> dict[str, object]:
    """The contract of ``kappa test --json`` (docs/json.md)."""
    return {
        "format": 1,
        "ok": not any(verdict.failures for verdict in verdicts),
        "tests": [{"test": _name(v, folder), "seconds": round(v.seconds, 3), "failures": v.failures} for v in verdicts],
    }


def _show(verdict: Verdict, folder: Path) -> None:
    word = click.style("FAILED", fg="red") if verdict.failures else "ok    "
    click.echo(f"{word} {_name(verdict, folder)} ({verdict.seconds:.1f} s)")
    for failure in verdict.failures:
        click.echo("\n".join(f"    {line}" for line in failure.splitlines()))


def _name(verdict: Verdict, folder: Path) -> str:
    path = verdict.path.resolve()
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(verdict.path)
