"""``kappa peek``: show events of a topic."""

from __future__ import annotations

import base64
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flows.project import load_project

if TYPE_CHECKING:
    from connectors.peek import Event


@click.command()
@click.argument("topic", metavar="TOPIC|SOURCE")
@click.option("-n", "count", type=click.IntRange(1, 100_000), default=10, show_default=True, help="How many events.")
@click.option("--from", "start", type=click.Choice(["earliest", "latest"]), default="latest", show_default=True, help="Oldest or newest.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list; whole values; bytes that are no text as base64.")
@click.pass_obj
def peek(folder: Path, topic: str, count: int, start: Literal["earliest", "latest"], as_json: bool) -> None:
    """Show the newest or oldest committed events of a topic, or of a source's topic, over all partitions.

    \b
    Examples:
      kappa peek flights
      kappa peek kappa.loads -n 3 --json
      kappa peek flights --from earliest
    """
    from connectors.peek import peek as read
    from infra.addresses import resolve

    project = load_project(folder)
    name = project.sources[topic].topic if topic in project.sources else topic
    events = read(resolve(project).kafka, name, count, start)
    if as_json:
        click.echo(json.dumps([event_json(event) for event in events], ensure_ascii=False))
        return
    if not events:
        click.echo(f"topic {name} has no committed events")
    width = shutil.get_terminal_size((120, 24)).columns
    for event in events:
        click.echo(_shown(event, width))


def event_json(event: Event) -> dict[str, Any]:
    return {
        "partition": event.partition,
        "offset": event.offset,
        "timestamp": event_time(event),
        **_text("key", event.key),
        **_text("value", event.value),
        "headers": [{"name": name, **_text("value", value)} for name, value in event.headers],
    }


def _text(name: str, value: bytes | None) -> dict[str, str | None]:
    """``{name: text}``, or ``{name_base64: ...}`` for bytes that are not UTF-8."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def event_time(event: Event) -> str | None:
    if event.timestamp_ms is None:
        return None
    return datetime.fromtimestamp(event.timestamp_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _shown(event: Event, width: int) -> str:
    lines = [f"{event.partition}/{event.offset}  {event_time(event) or 'no time'}", f"  key    {short(event.key, width)}"]
    lines.append(f"  value  {short(event.value, width)}")
    if event.headers:
        lines.append("  " + "  ".join(f"{name}={short(value, 60)}" for name, value in event.headers))
    return "\n".join(lines)


def short(value: bytes | None, width: int) -> str:
    """One line; control characters and bytes that are no text are escaped, so that nothing reaches the terminal's own language."""
    if value is None:
        return "null"
    room = max(20, width - 12)
    text = value[: room * 4].decode("utf-8", "backslashreplace")
    text = "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)
    return text if len(text) <= room and len(value) <= room * 4 else f"{text[: room - 1]}… ({len(value):,} bytes)"
