"""``kappa rejects resend``: corrected records become new events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.project import load_project
from infra.cli.display import count
from sinks import Warehouse

if TYPE_CHECKING:
    from connectors.resend import Resent
    from infra.resend import Sorted


@click.command("resend")
@click.argument("source")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--again", is_flag=True, help="Send a file again that was sent already.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent; send nothing.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def resend(folder: Path, source: str, file: Path, again: bool, dry_run: bool, as_json: bool) -> None:
    """Send the corrected records of FILE, which kappa rejects --export wrote: each counts in place of the rejected record that it names.

    Correct `value` in the file (and `key`, where it is wrong); the other columns are for you, `position` says what is corrected. In
    .ndjson and .json, `value` may be an object instead of a text. Records that are as they were, or that are corrected already, are passed
    over. The records go to the partition of what they correct, all of them once: killed on the way, the same command goes on.

    The source must say corrections = true: only kappa writes to its topic. A correction that breaks the contract is a reject too, and may
    be corrected. Records that the SQL of a table refused are mended by correcting that SQL.

    \b
    Examples:
      kappa rejects flights --open --export bad.ndjson
      kappa rejects resend flights bad.ndjson
      kappa run flights --until-caught-up
    """
    from connectors.files.corrections import CorrectionsUnreadable, read_corrections
    from connectors.files.input import InputFile
    from connectors.resend import Resender, Resent
    from infra.addresses import resolve
    from infra.metadata import Mirror
    from infra.resend import Sorted, sort_out

    project = load_project(folder)
    definition = project.source(source)
    with InputFile(file) as content:
        corrections = read_corrections(file)
        addresses = resolve(project)
        resender = Resender(addresses.kafka, definition, content)
        if content.changed:
            raise CorrectionsUnreadable(file, "someone wrote to it while it was being read")
        earlier = None if again else resender.earlier()
        found, sent = Sorted(), Resent(earlier, 0, already=True) if earlier is not None and earlier.done else None
        if sent is None:
            with Warehouse.open(folder) as warehouse:
                found = sort_out(project, definition, warehouse, file, corrections)
        if sent is None and not dry_run and (found.send or earlier is not None):
            with Mirror.of(project, addresses, lambda line: click.echo(line, err=True)) as mirror:
                sent = resender.send(found.send, len(corrections), again, mirror.load)
    if as_json:
        click.echo(json.dumps(_json(source, file, found, sent, dry_run)))
    else:
        click.echo(_line(source, file, found, sent, dry_run))


def _line(source: str, file: Path, found: Sorted, sent: Resent | None, dry_run: bool) -> str:
    rest = [
        f"{count(number)} {what}" for number, what in ((found.unchanged, "unchanged"), (found.corrected, "corrected already")) if number
    ]
    passed = f" ({', '.join(rest)})" if rest else ""
    if sent is not None and sent.already:
        return f"{file}: already sent on {sent.state.at}, load {sent.state.load}; --again sends it again"
    if sent is None:
        what = f"would send {_corrections(len(found.send))}" if dry_run and found.send else "nothing to send"
        return f"{file}: {what}{passed}"
    return f"{file}: sent {_corrections(sent.sent)}{passed}, load {sent.state.load}; next: kappa run {source} --until-caught-up"


def _corrections(number: int) -> str:
    return f"{count(number)} correction{'' if number == 1 else 's'}"


def _json(source: str, file: Path, found: Sorted, sent: Resent | None, dry_run: bool) -> dict[str, Any]:
    """The contract of ``kappa rejects resend --json`` (docs/json.md)."""
    return {
        "source": source,
        "file": str(file),
        "load": sent.state.load if sent is not None else None,
        "at": sent.state.at if sent is not None else None,
        "to_send": len(found.send),
        "sent": sent.sent if sent is not None else 0,
        "unchanged": found.unchanged,
        "corrected": found.corrected,
        "already_sent": sent is not None and sent.already,
        "dry_run": dry_run,
    }
