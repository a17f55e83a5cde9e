"""A proposed source, and the TOML that says it."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import Literal

from flows.contract import Dialect, Source

Format = Literal["csv", "json", "text"]


@dataclass(slots=True)
class Guess:
    """A proposed column. ``note``: why, where the data leave room for doubt."""

    type: str
    not_null: bool
    note: str = ""

    @property
    def text(self) -> str:
        return f"{self.type} not null" if self.not_null else self.type


@dataclass(slots=True)
class Proposal:
    """A proposed source. ``origin``: what it was made from; ``left_out``: fields that cannot be columns -> why."""

    name: str
    topic: str
    format: Format
    origin: str
    columns: dict[str, Guess]
    dialect: Dialect = field(default_factory=Dialect)
    key: tuple[str, ...] = ()
    key_note: str = ""
    event_time: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def source(self) -> Source:
        """The source as ``sources/<name>.toml`` would give it."""
        return Source(name=self.name, **tomllib.loads(self.toml()))

    def toml(self) -> str:
        """The text of ``sources/<name>.toml``."""
        lines = [f"# Proposed by `kappa source infer` from {self.origin}. Look at every comment: there it had to guess."]
        lines += [f"# {remark}" for remark in self.remarks]
        lines += [f"topic = {_string(self.topic)}", f'format = "{self.format}"']
        if self.key:
            lines.append(_noted(f"key = [{', '.join(map(_string, self.key))}]", self.key_note))
        elif self.key_note:
            lines.append(f"# key = [...]    {self.key_note}")
        if self.event_time:
            lines.append(_noted(f"event_time = {_string(self.event_time)}", "a guess: the first column that is a time"))
        lines += self._dialect()
        lines += ["", "[columns]"]
        lines += [_noted(f"{name} = {_string(guess.text)}", guess.note) for name, guess in self.columns.items()]
        lines += [f"# {json.dumps(name, ensure_ascii=False)}: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines) + "\n"

    def _dialect(self) -> list[str]:
        if self.format != "csv":
            return []
        default, lines = Dialect(), []
        for name in ("delimiter", "quote", "encoding"):
            if getattr(self.dialect, name) != getattr(default, name):
                note = "a guess: it is not UTF-8" if name == "encoding" else ""
                lines.append(_noted(f"{name} = {_string(getattr(self.dialect, name))}", note))
        if not self.dialect.header:
            lines.append(_noted("header = false", "a guess: the first line looks like data; name the columns below"))
        if self.dialect.null != default.null:
            note = "a guess: without these the columns that hold them would be numbers or times"
            lines.append(_noted(f"null = [{', '.join(map(_string, self.dialect.null))}]", note))
        return ["", "[csv]", *lines] if lines else []


def source_name(text: str) -> str:
    """A source's name from a file's or topic's: lower-case letters, digits and ``_``."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_").lstrip("0123456789_")
    return name[:63] or "source"


def _string(value: str) -> str:
    if '"' in value and value.isprintable() and "'" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _noted(line: str, note: str) -> str:
    return f"{line.ljust(40)}  # {note}" if note else line
