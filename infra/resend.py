"""What of a file of corrections is to be sent: each record is compared with the reject that it names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from connectors.files.corrections import Correction
from connectors.files.lines import key_reader
from flows.contract import Source
from flows.errors import KappaError, UsageError
from flows.project import Project
from flows.stage.codes import Code
from infra.rejects import every, takes_corrections
from sinks import Warehouse

_ASKED = 10_000  # positions a query
_NAMED = 5
_NOTHING: Mapping[str, Any] = {}


class CorrectionsOff(UsageError):
    """The source, or the table that was built from it, takes no corrections."""

    def __init__(self, source: Source, built: bool) -> None:
        staging = f"staging.{source.name}"
        cause = f"the live generation of {staging} was built without them" if source.corrections else "corrections = true is not set"
        write = f"when nothing but kappa writes to topic {source.topic}: write corrections = true into sources/{source.name}.toml, then "
        run = "kappa apply" if built else f"kappa run {source.name} --until-caught-up"
        super().__init__(
            f"source {source.name} takes no corrections", cause=cause, next_step=run if source.corrections else f"{write}{run}"
        )


class CorrectionsRefused(KappaError):
    """Records of the file correct nothing. ``problems``: one a record."""

    def __init__(self, path: Path, source: str, problems: list[str]) -> None:
        shown = "; ".join(problems[:_NAMED]) + (f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else "")
        super().__init__(
            f"{path} cannot be sent",
            cause=shown,
            next_step=f"take these records out of it, nothing was sent; what can be corrected: kappa rejects {source} --open",
        )
        self.problems = problems


@dataclass(slots=True)
class Sorted:
    """``send``: in the file's order, each with its key; ``unchanged``: as they were rejected; ``corrected``: already."""

    send: list[Correction] = field(default_factory=list)
    unchanged: int = 0
    corrected: int = 0
    problems: list[str] = field(default_factory=list)


def sort_out(project: Project, source: Source, warehouse: Warehouse, path: Path, corrections: Sequence[Correction]) -> Sorted:
    """Compare the file with the rejects as they are. Raises CorrectionsOff, CorrectionsRefused, UsageError."""
    rejects = every(project, source.name, warehouse)
    if not (source.corrections and takes_corrections(source, warehouse)):
        raise CorrectionsOff(source, built=f"staging.{source.name}" in warehouse.tables())
    stored = _stored(rejects, source, warehouse, corrections)
    key_of = key_reader(source.key)
    found, seen = Sorted(), set()
    for one in corrections:
        reject = stored.get(one.position, _NOTHING)
        problem = "is there twice" if one.position in seen else _problem(one, source, reject)
        if problem:
            found.problems.append(f"record {one.number} ({one.position}) {problem}")
        elif reject["corrected_by"]:
            found.corrected += 1
        elif (one.key, one.value) == (reject["key"], reject["value"]):
            found.unchanged += 1
        elif one.value is None:
            found.problems.append(f"record {one.number} ({one.position}) has no value")
        else:
            found.send.append(one if one.key is not None else replace(one, key=key_of(one.value)))
        seen.add(one.position)
    if found.problems:
        raise CorrectionsRefused(path, source.name, found.problems)
    return found


def _stored(rejects: str, source: Source, warehouse: Warehouse, corrections: Sequence[Correction]) -> dict[str, dict[str, Any]]:
    """Position -> the reject of staging, for those of the file that there are."""
    mine = sorted({(one.partition, one.offset) for one in corrections if one.topic == source.topic})
    found: dict[str, dict[str, Any]] = {}
    for start in range(0, len(mine), _ASKED):
        values = ", ".join(f"({partition}, {offset})" for partition, offset in mine[start : start + _ASKED])
        rows = warehouse.sql(
            f"SELECT position, code, key, value, headers, corrected_by FROM {rejects}"
            f" WHERE \"table\" = 'staging.{source.name}' AND (_partition, _offset) IN (VALUES {values})"
        )
        found |= {row["position"]: row for row in rows.arrow().to_pylist()}
    return found


def _problem(one: Correction, source: Source, reject: Mapping[str, Any]) -> str:
    """Why a record cannot be sent; empty when it can."""
    if one.topic != source.topic:
        return f"is not of topic {source.topic}"
    if one.table and not one.table.startswith("staging."):
        return f"was refused by {one.table}, not by the contract: correct its SQL, then kappa apply"
    if not reject:
        return "is not rejected"
    if reject["code"] == Code.SUPERSEDED:
        return "is a correction that was superseded: nothing corrects it"
    if not any(header["name"] == "kappa-load" for header in reject["headers"] or ()):
        return "was sent by another program than kappa, whose topics are never written to"
    return ""
