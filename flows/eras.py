"""What a table's rows were made by before: definitions that hold up to a position, when a change was applied from there on only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Era:
    """Below ``until`` (partition -> offset of the topic with the id ``topic_id``), a table's rows are what an earlier definition gives.

    ``generation``: the one whose rows were kept, its name beginning with the fingerprint of that definition; ``files``: the texts that
    say it, of the table and of all that it derives from.
    """

    topic_id: str
    until: Mapping[int, int]
    generation: str
    files: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        return self.generation.partition("-")[0]

    def to_json(self) -> dict[str, Any]:
        until = {str(partition): offset for partition, offset in sorted(self.until.items())}
        return {"topic_id": self.topic_id, "until": until, "generation": self.generation, "files": dict(self.files)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Era:
        until = {int(partition): offset for partition, offset in values["until"].items()}
        return cls(values["topic_id"], until, values["generation"], values["files"])


def eras_of(stored: Mapping[str, Any]) -> tuple[Era, ...]:
    """Those of a stored definition, the oldest first."""
    return tuple(Era.from_json(each) for each in stored.get("before", ()))
