"""Write a warehouse folder for a test, and analyse it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flows.plan import Plan, analyse
from flows.project import Project, load_project

FLIGHTS = """
topic = "flights"
format = "json"
key = ["carrier", "flight"]
event_time = "seen"
[columns]
carrier = "varchar not null"
flight = "integer not null"
seen = "timestamptz not null"
dep_delay = "double"
amount = "decimal(10,2)"
code = "varchar"
tags = "varchar[]"
scores = "integer[]"
plane = "struct(model varchar, seats integer)"
payload = "json"
"""


def write(folder: Path, files: Mapping[str, str]) -> Project:
    """``files``: path -> text, beside a ``warehouse.toml`` and, unless given, ``sources/flights.toml``."""
    for path, text in {"warehouse.toml": 'name = "test"\n', "sources/flights.toml": FLIGHTS, **files}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return load_project(folder)


def plan(folder: Path, files: Mapping[str, str]) -> Plan:
    """The analysis of such a folder."""
    return analyse(write(folder, files))


def append(sql: str, settings: str = "") -> str:
    """The text of an append table's file: its SQL begins on line 2."""
    return f'/* kind = "append"{settings} */\n{sql}\n'


def view(sql: str) -> str:
    """The text of a view's file: its SQL begins on line 2."""
    return f'/* kind = "view" */\n{sql}\n'
