"""``kappa plan``: what applying the folder would do, as a value that can be shown, stored, and held against the world later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.errors import KappaError, UsageError
from flows.project import Project
from infra.changes.compare import Change, compare
from infra.changes.estimate import Estimate, estimate
from infra.changes.forward import from_now_on, keeps
from infra.inventory import read_all
from infra.run.live import Live, of_folder
from sinks.catalog import Catalog, CatalogState

FORMAT = 1


class PlanStale(KappaError):
    """The folder or the catalogue is not what the plan was made from."""

    def __init__(self, file: Path, moved: list[str]) -> None:
        super().__init__(
            f"{file} is not applied",
            cause=f"since it was made, these have moved: {'; '.join(moved)}",
            next_step=f"kappa plan -o {file} shows what would be done now",
        )


class PlanUnreadable(UsageError):
    """The file is no plan."""

    def __init__(self, file: Path, cause: str) -> None:
        super().__init__(f"{file} is not a plan", cause=cause, next_step=f"kappa plan -o {file}")


@dataclass(frozen=True, slots=True)
class ChangePlan:
    """``n``: the catalogue's number; ``changes``: every table and view, upstream first; ``kept``: the tables that keep the rows they have,
    because the change is to hold from now on only.
    """

    warehouse: str
    n: int
    changes: tuple[Change, ...]
    cost: Estimate = field(default_factory=Estimate)
    kept: tuple[str, ...] = ()

    @property
    def changed(self) -> list[Change]:
        """What applying would alter."""
        return [change for change in self.changes if change.status not in ("unchanged", "metadata")]

    @property
    def builds(self) -> list[str]:
        """The tables that get a new generation, upstream first."""
        return [change.name for change in self.changes if change.builds]

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "warehouse": self.warehouse,
            "catalogue": self.n,
            "changes": len(self.changed),
            "kept": list(self.kept),
            "tables": [change.to_json() for change in self.changes],
            "reads": [reading.to_json() for reading in self.cost.readings],
            "warnings": list(self.cost.warnings),
        }

    def check(self, file: Path) -> None:
        """Raises PlanStale when the plan in ``file`` says otherwise than this one, which was made now; PlanUnreadable."""
        stored = _stored(file)
        was, now = (
            {each["name"]: (each["status"], each["generation"], each["fingerprint"], tuple(each["diff"])) for each in tables}
            for tables in (stored["tables"], self.to_json()["tables"])
        )
        names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
        moved = [f"{name} ({_status(was.get(name))}; now {_status(now.get(name))})" for name in names]
        if stored["warehouse"] != self.warehouse:
            moved.insert(0, f"the warehouse ({stored['warehouse']}, now {self.warehouse})")
        if stored.get("kept", []) != list(self.kept):
            moved.append(f"what keeps its rows ({', '.join(stored.get('kept', [])) or 'nothing'}; now {', '.join(self.kept) or 'nothing'})")
        if moved:
            raise PlanStale(file, moved)


def make_plan(project: Project, config: Mapping[str, str] | None, *, costs: bool = True, forward_only: bool = False) -> ChangePlan:
    """Compare the folder with what is live. ``config``: librdkafka's; None without Kafka, whose part of the costs is then unknown.

    Raises ProjectInvalid, ForwardRefused, and what reading the storage root raises.
    """
    folder = of_folder(project)
    catalog = Catalog(project.storage)
    state = catalog.read()
    changes = tuple(compare(folder, state, catalog))
    kept: tuple[str, ...] = ()
    if forward_only:
        live = from_now_on(folder, state, catalog)
        kept = tuple(change.name for change in changes if change.status == "changed" and keeps(live, change.name, state))
    plan = ChangePlan(project.settings.name, state.n, changes, kept=kept)
    building = [name for name in plan.builds if name not in kept]
    return replace(plan, cost=_cost(folder, state, building, config)) if costs and building else plan


def _cost(folder: Live, state: CatalogState, builds: list[str], config: Mapping[str, str] | None) -> Estimate:
    standing, _ = read_all(folder.project.storage, state, None)
    return estimate(folder, builds, {status.name: status for status in standing if status.unreadable is None}, config)


def kept_in(file: Path) -> list[str]:
    """The tables that keep their rows by the plan in ``file``. Raises PlanUnreadable."""
    kept: list[str] = _stored(file).get("kept", [])
    return kept


def _stored(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if values["format"] > FORMAT:
            raise PlanUnreadable(file, f"it has format {values['format']}, and this kappa reads up to {FORMAT}")
        _ = values["warehouse"], [(each["name"], each["status"], each["generation"], each["fingerprint"]) for each in values["tables"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanUnreadable(file, f"{type(error).__name__}: {error}") from error
    return values


def _status(entry: tuple[Any, ...] | None) -> str:
    return "absent" if entry is None else f"{entry[0]}, live {entry[1] or 'none'}"
