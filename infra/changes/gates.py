"""What stands between a build and its promotion: limits on what it changes, and the warehouse's own assertions."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from flows.errors import KappaError
from flows.project import Project
from flows.settings import Share
from infra.changes.diff import diff
from infra.run.selection import REJECTED, Target
from sinks import Warehouse
from sinks.address import TableAddress
from sinks.catalog import CatalogState

FOLDER = "tests"
SHOWN_ROWS = 3


class TooManyChanges(KappaError):
    """A new generation changes or removes more rows than [promotion] allows."""

    def __init__(self, table: str, what: str, rows: int, of: int, setting: str, limit: Share) -> None:
        super().__init__(
            f"nothing is swapped in: the new generation of {table} has {rows:,} of {of:,} rows {what}",
            cause=f"promotion.{setting} allows {limit}",
            next_step=f"kappa diff {table} shows them; KAPPA_PROMOTION__{setting.upper()}=100% kappa promote lets them through",
        )


class AssertionFailed(KappaError):
    """Queries of the warehouse's tests folder that must return nothing have returned rows, or failed."""

    def __init__(self, failures: list[str]) -> None:
        super().__init__(
            f"nothing is swapped in: {len(failures)} assertion{'s' if len(failures) > 1 else ''} of the warehouse failed",
            cause="; ".join(failures),
            next_step="correct the definitions, then kappa apply; or the assertion, then kappa promote",
        )


def check_limits(project: Project, built: Iterable[Target], base: CatalogState) -> None:
    """Compare each new generation with the one that it replaces, where [promotion] has limits. Raises TooManyChanges, NotComparable."""
    limits = project.settings.promotion
    if limits.max_changed_rows is None and limits.max_removed_rows is None:
        return
    for target in built:
        was = base.tables.get(target.name)
        if was is None or target.name.endswith(REJECTED):
            continue
        old, new = (TableAddress(project.storage, target.name, generation) for generation in (was.generation, target.generation))
        found = diff(old, new, target.definition.summary, samples=0)
        for setting, what, rows, limit in (
            ("max_changed_rows", "changed", found.changed, limits.max_changed_rows),
            ("max_removed_rows", "removed", found.only_a, limits.max_removed_rows),
        ):
            if limit is not None and not limit.allows(rows, found.a.rows):
                raise TooManyChanges(target.name, what, rows, found.a.rows, setting, limit)


def assertions(folder: Path) -> list[Path]:
    """The queries that must return no rows: ``tests/*.sql``."""
    return sorted((folder / FOLDER).glob("*.sql"))


def check_assertions(project: Project, state: CatalogState) -> int:
    """Run every assertion over a catalogue that is not live yet. Returns how many there are. Raises AssertionFailed."""
    files = assertions(project.folder)
    if not files:
        return 0
    failures = []
    with Warehouse(project.storage, state=state) as warehouse:
        for path in files:
            name = path.relative_to(project.folder).as_posix()
            try:
                rows = warehouse.sql(path.read_text(encoding="utf-8")).arrow()
            except (KappaError, UnicodeDecodeError) as error:
                failures.append(f"{name}: {error.what}: {error.cause}" if isinstance(error, KappaError) else f"{name}: {error}")
                continue
            if rows.num_rows:
                shown = ", ".join(str(row) for row in rows.slice(0, SHOWN_ROWS).to_pylist())
                failures.append(f"{name} returned {rows.num_rows:,} rows: {shown}")
    if failures:
        raise AssertionFailed(failures)
    return len(files)
