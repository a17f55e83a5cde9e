"""Reading a warehouse from Python: ``from sinks import Warehouse``."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from flows.errors import UsageError
from flows.objects import is_url
from flows.project import load_project
from sinks.address import TableAddress
from sinks.catalog import CatalogState
from sinks.engine import Engine, Pinned
from sinks.log import DeltaLog
from sinks.published import Cuts, snapshot_at
from sinks.result import Result
from sinks.snapshot import Snapshot, take_snapshot
from sinks.statement import check_statement
from sinks.table import record_of

_HIDING = ("core", "analytics")
REJECTED = "__rejected"


class Warehouse:
    """All tables and views of a storage root, as they were at one cut: every query of one Warehouse sees the same rows.

    ``refresh`` takes a newer cut, ``at`` gives an older one. Versions are kept for the setting ``maintenance.retention_s``, so do not hold
    one for longer, unless it is a published cut's.

    >>> with Warehouse.open("examples/flights") as warehouse:
    ...     frame = warehouse.sql("SELECT carrier, count(*) AS n FROM core.flight GROUP BY ALL").polars()
    """

    def __init__(
        self, root: str, memory_limit: int | None = None, state: CatalogState | None = None, snapshot: Snapshot | None = None
    ) -> None:
        """Until ``refresh``: ``state``: a catalogue in the place of the newest; ``snapshot``: what to read instead of the newest cut."""
        self.root = root
        self._memory_limit = memory_limit
        self.snapshot = snapshot or take_snapshot(root, state)
        self._engine = Engine(pinned(self.snapshot), self.snapshot.views, memory_limit, self.snapshot.lost)

    @classmethod
    def open(cls, path: str | Path, memory_limit: int | None = None) -> Warehouse:
        """``path``: a warehouse folder (with warehouse.toml) or a storage root (with _kappa, or a URL); ``memory_limit``: bytes for DuckDB.

        Raises UsageError when it is neither, and what reading the settings or the catalogue raises.
        """
        if isinstance(path, str) and is_url(path):
            return cls(path.rstrip("/"), memory_limit)
        folder = Path(path)
        if (folder / "warehouse.toml").exists():
            return cls(load_project(folder).storage, memory_limit)
        if (folder / "_kappa").is_dir():
            return cls(str(folder.resolve()), memory_limit)
        raise UsageError(
            f"no warehouse in {path}",
            cause="it has neither warehouse.toml (a warehouse folder) nor _kappa (a storage root)",
            next_step="name the folder with -C DIR, or make one: kappa init DIR",
        )

    def at(self, cut: int | str) -> Warehouse:
        """The same warehouse as it was at a published cut: by number, by the name of its pin, or the newest at or before a time (ISO 8601).

        Close it as well. Raises CutUnknown.
        """
        published = Cuts(self.root).find(str(cut))
        return Warehouse(self.root, self._memory_limit, snapshot=snapshot_at(published, self.root))

    def sql(self, query: str) -> Result:
        """One reading statement. Raises StatementRefused, SqlInvalid, TableUnknown, ViewInvalid or QueryFailed."""
        check_statement(query)
        return Result(self._engine.relation(query))

    def tables(self) -> list[str]:
        """The names of all tables and views, ``layer.name``, sorted."""
        return sorted([*self.snapshot.tables, *self.snapshot.views])

    @property
    def warnings(self) -> list[str]:
        """Which of the tables that were asked for until now are not at the cut of their source, and why."""
        return [str(left) for left in self.snapshot.cut.left_out if left.table in self._engine.made]

    def refresh(self) -> None:
        """Take a newer cut. When there is one, answers that were not read yet are void. A cut that cannot be taken leaves this one."""
        before, self.snapshot = self.snapshot, take_snapshot(self.root)
        if _what_is_read(before) != _what_is_read(self.snapshot):
            self._engine.move(pinned(self.snapshot), self.snapshot.views, self.snapshot.lost)

    def interrupt(self) -> None:
        """End the query that runs in another thread: it raises QueryFailed. One that has not begun yet is not ended; call it again."""
        self._engine.interrupt()

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Warehouse:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _what_is_read(snapshot: Snapshot) -> tuple[object, ...]:
    """What decides an engine's answers."""
    return pinned(snapshot), dict(snapshot.views), {name: str(error) for name, error in snapshot.lost.items()}


def _live(address: TableAddress, version: int) -> str | None:
    """What tells the live rows of an upsert table from its tombstones; None when the version says that it has none.

    Measured on 2 M rows: the condition costs nothing in a query over most columns, and two fifths in one over a single column.
    """
    actions = DeltaLog(address.folder).read(version)
    record = None if actions is None else record_of(address, actions)
    return None if record is not None and record.tombstones == 0 else "_deleted = false"


def pinned(snapshot: Snapshot) -> list[Pinned]:
    """The tables at the snapshot's cut; core and analytics hide system columns, except in tables of rejects."""
    return [
        Pinned(
            name,
            snapshot.address(name).uri,
            snapshot.cut.versions[name],
            hidden=name.startswith(_HIDING) and not name.endswith(REJECTED),
            where=_live(snapshot.address(name), snapshot.cut.versions[name]) if entry.kind == "upsert" else None,
        )
        for name, entry in snapshot.tables.items()
    ]
