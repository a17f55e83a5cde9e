"""The catalogue beside the tables: which generation of each table is live.

Numbered files, each complete, made with put-if-absent; readers use the greatest. A definition is written before its generation's first
commit, so that every folder of a table can say what built it. JSON shapes: docs/formats.md.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from flows.errors import KappaError
from flows.objects import Place
from sinks.address import root_folder
from sinks.storage import put_if_absent, reaching

FORMAT = 1
PUBLISH_ATTEMPTS = 100
_NUMBER = re.compile(r"^(\d{20})\.json$")
_GENERATION = re.compile(r"^([0-9a-f]{12})-(\d+)$")


class FormatTooNew(KappaError):
    """A later kappa has written this storage root."""

    def __init__(self, path: Place, found: int) -> None:
        super().__init__(
            f"{path} has format {found}",
            cause=f"this kappa reads formats up to {FORMAT}",
            next_step="install the kappa that wrote it, or a newer one",
        )


class OtherWarehouse(KappaError):
    """The storage root belongs to a warehouse of another name."""

    def __init__(self, root: str, found: str, wanted: str) -> None:
        super().__init__(
            f"the storage root {root} belongs to the warehouse {found!r}, not to {wanted!r}",
            cause="two warehouses in one storage root would overwrite each other's catalogue",
            next_step="set another storage in warehouse.toml, or the name that the root was made with",
        )


class StorageOverwrites(KappaError):
    """The storage takes a second file of the same name, so that nothing would keep two owners from overwriting each other's commits."""

    def __init__(self, root: str) -> None:
        super().__init__(
            f"the storage root {root} cannot be used",
            cause="its server ignores If-None-Match: it overwrites what must be written only once",
            next_step="set storage to a server that puts conditionally, as AWS S3 does, or to a folder",
        )


class CatalogueContended(KappaError):
    """Others publish catalogues faster than this process."""


@dataclass(frozen=True, slots=True)
class TableEntry:
    """A live table. ``path``: relative to the storage root; ``forward``: its definition holds earlier ones, for rows at lower positions."""

    kind: str
    generation: str
    path: str
    forward: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "generation": self.generation, "path": self.path, **({"forward": True} if self.forward else {})}


@dataclass(frozen=True, slots=True)
class CatalogState:
    """One catalogue file. ``n`` is 0 before the first; ``views``: name -> SQL; ``by``: who wrote it."""

    n: int = 0
    created_at: str = ""
    by: str = ""
    tables: Mapping[str, TableEntry] = field(default_factory=dict)
    views: Mapping[str, str] = field(default_factory=dict)

    def replace(self, *, tables: Mapping[str, TableEntry] | None = None, views: Mapping[str, str] | None = None) -> CatalogState:
        """The same with other tables or views."""
        return dataclasses.replace(self, tables=self.tables if tables is None else tables, views=self.views if views is None else views)

    def to_json(self) -> dict[str, Any]:
        tables = {name: entry.to_json() for name, entry in sorted(self.tables.items())}
        head = {"format": FORMAT, "n": self.n, "created_at": self.created_at, "by": self.by}
        return {**head, "tables": tables, "views": dict(sorted(self.views.items()))}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CatalogState:
        tables = {name: TableEntry(e["kind"], e["generation"], e["path"], e.get("forward", False)) for name, e in values["tables"].items()}
        return cls(values["n"], values["created_at"], values["by"], tables, values["views"])


@dataclass(frozen=True, slots=True)
class Catalog:
    """The catalogue of a storage root. Nothing is made until something is published."""

    root: str

    @property
    def folder(self) -> Place:
        """``<root>/_kappa``. Raises StorageUnsupported."""
        return root_folder(self.root) / "_kappa"

    def create(self, warehouse: str) -> None:
        """Write ``format.json`` unless it is there; check it when it is.

        Raises FormatTooNew, OtherWarehouse, StorageOverwrites, StorageUnusable.
        """
        path = self.folder / "format.json"
        with reaching(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
            head = _encode({"format": FORMAT, "warehouse": warehouse, "created_at": _now()})
            if put_if_absent(path, head, durable=True) and put_if_absent(path, head, durable=True):
                raise StorageOverwrites(self.root)
            found = _read(path)["warehouse"]
        if found != warehouse:
            raise OtherWarehouse(self.root, found, warehouse)

    def numbers(self) -> list[int]:
        """The catalogues there are, ascending."""
        return sorted(int(match[1]) for path in _entries(self.folder / "catalog") if (match := _NUMBER.match(path.name)))

    def read(self, n: int | None = None) -> CatalogState:
        """Catalogue ``n``, or the greatest; an empty one (n = 0) before the first. Raises FormatTooNew, StorageUnusable."""
        with reaching(self.root):
            self._check_format()
            numbers = self.numbers() if n is None else [n]
            return CatalogState.from_json(_read(self._path(numbers[-1]))) if numbers else CatalogState()

    def publish(self, change: Callable[[CatalogState], CatalogState], by: str) -> CatalogState:
        """Write the next catalogue: ``change`` gets the greatest and returns what shall be.

        When another process is first, ``change`` is asked again. A change that alters nothing writes nothing.
        Raises FormatTooNew, CatalogueContended, StorageUnusable, and what ``change`` raises.
        """
        for _ in range(PUBLISH_ATTEMPTS):
            last = self.read()
            wanted = change(last)
            if (wanted.tables, wanted.views) == (last.tables, last.views):
                return last
            state = dataclasses.replace(wanted, n=last.n + 1, created_at=_now(), by=by)
            path = self._path(state.n)
            with reaching(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                if put_if_absent(path, _encode(state.to_json()), durable=True):
                    return state
        raise CatalogueContended(
            f"the catalogue in {self.folder} could not be written",
            cause=f"{PUBLISH_ATTEMPTS} times another process was first",
            next_step="run the command again",
        )

    def generations(self, table: str) -> list[str]:
        """The generations of ``layer.name`` that have a definition and were not dropped, by ordinal."""
        made, dropped = self._generations(table)
        return sorted(made - dropped, key=ordinal)

    def dropped(self, table: str) -> list[str]:
        """The generations whose data was dropped, or is about to be, by ordinal."""
        return sorted(self._generations(table)[1], key=ordinal)

    def _generations(self, table: str) -> tuple[set[str], set[str]]:
        names = [path.name.rpartition(".") for path in _entries(self.folder / "definitions" / table)]
        made = {stem for stem, _, suffix in names if suffix == "json" and _GENERATION.match(stem)}
        return made, {stem for stem, _, suffix in names if suffix == "dropped" and stem in made}

    def history(self) -> Iterator[CatalogState]:
        """All catalogues, the newest first. Raises FormatTooNew, StorageUnusable."""
        with reaching(self.root):
            numbers = self.numbers()
        for n in reversed(numbers):
            yield self.read(n)

    def defined(self) -> list[str]:
        """The tables that have a definition, live or not, sorted."""
        return sorted(path.name for path in _entries(self.folder / "definitions"))

    def new_generation(self, table: str, fingerprint: str, definition: Mapping[str, Any]) -> str:
        """Store a definition (with its ``format``) under the next ordinal; returns ``<fingerprint>-<ordinal>``.

        Call it before the generation's first commit. Raises StorageUnusable.
        """
        folder = self.folder / "definitions" / table
        with reaching(self.root):
            made, _ = self._generations(table)
        generation = f"{fingerprint}-{max(map(ordinal, made), default=0) + 1}"
        assert _GENERATION.match(generation), generation
        with reaching(self.root):
            folder.mkdir(parents=True, exist_ok=True)
            put_if_absent(folder / f"{generation}.json", _encode(definition), durable=True)
        return generation

    def mark_dropped(self, table: str, generation: str) -> None:
        """From now on nobody makes the generation live or goes on with it; its number is not used again. Raises StorageUnusable."""
        with reaching(self.root):
            put_if_absent(self.folder / "definitions" / table / f"{generation}.dropped", b"", durable=True)

    def definition(self, table: str, generation: str) -> dict[str, Any]:
        """What a generation was built from, as ``new_generation`` got it. Raises FileNotFoundError, FormatTooNew."""
        return _read(self.folder / "definitions" / table / f"{generation}.json")

    def _path(self, n: int) -> Place:
        return self.folder / "catalog" / f"{n:020}.json"

    def _check_format(self) -> None:
        with suppress(FileNotFoundError):  # nothing is stored yet
            _read(self.folder / "format.json")


def _entries(folder: Place) -> list[Place]:
    """What is in a folder; nothing when it is not there."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def ordinal(generation: str) -> int:
    """The number after the dash: ``3f9a0c12b7de-2`` -> 2."""
    return int(generation.rpartition("-")[2])


def _read(path: Place) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    if values["format"] > FORMAT:
        raise FormatTooNew(path, values["format"])
    return values


def _encode(values: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
