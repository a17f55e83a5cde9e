"""Published cuts: which versions of the tables belonged together at a moment, kept so that they can be asked again.

Numbered files ``<root>/_kappa/cuts/<n>.json``, each complete, made with put-if-absent; beside a pinned one lies ``<n>.pin``. Vacuum and log
cleanup keep what a cut names until it expires. ``<n>.gone`` keeps the number of the newest one from being given again. JSON shapes:
docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from flows.errors import KappaError, UsageError
from flows.objects import Place
from sinks.address import TableAddress, root_folder
from sinks.catalog import FORMAT, Catalog, CatalogueContended, FormatTooNew
from sinks.cut import Cut, LeftOut
from sinks.errors import TableUnreadable
from sinks.snapshot import Snapshot, is_readable, take_snapshot
from sinks.storage import put_if_absent, reaching

PUBLISH_ATTEMPTS = 20
NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
_FILE = re.compile(r"^(\d{20})\.(json|pin|gone)$")


class CutUnknown(UsageError):
    """No published cut is meant by a number, a name or a time."""

    def __init__(self, wanted: str, cause: str) -> None:
        super().__init__(f"no cut {wanted}", cause=cause, next_step="kappa cuts")


class CutExpiring(KappaError):
    """A cut is not pinned, because it may be deleted at any moment."""

    def __init__(self, n: int, age_s: float, keep_s: float) -> None:
        super().__init__(
            f"cut {n} is not pinned",
            cause=f"it is {age_s:,.0f} s old, and a cut that is not pinned is kept for {keep_s:,.0f} s (maintenance.keep_cuts_s)",
            next_step="pin a newer one: kappa cuts; or the present: kappa cuts publish --pin NAME",
        )


class NameTaken(UsageError):
    """Another cut is pinned under the name."""

    def __init__(self, name: str, n: int) -> None:
        super().__init__(
            f"the name {name} is taken", cause=f"cut {n} is pinned by it", next_step=f"kappa cuts unpin {name}, or another name"
        )


@dataclass(frozen=True, slots=True)
class TableVersion:
    """A version of a table's generation."""

    kind: str
    generation: str
    version: int


@dataclass(frozen=True, slots=True)
class PublishedCut:
    """``catalog``: the number of the catalogue whose views and kinds belong to it; ``vectors``: topic -> partition -> next position of the
    tables that share it; ``left_out``: the tables that do not, and why; ``pin``: the name that it is pinned by.
    """

    n: int
    created_at: str
    by: str
    catalog: int
    tables: Mapping[str, TableVersion]
    vectors: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    pin: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is stored, without its pin."""
        return {
            "format": FORMAT,
            "n": self.n,
            "created_at": self.created_at,
            "by": self.by,
            "catalog": self.catalog,
            "tables": {
                name: {"kind": at.kind, "generation": at.generation, "version": at.version} for name, at in sorted(self.tables.items())
            },
            "vectors": {topic: {str(p): offset for p, offset in sorted(each.items())} for topic, each in sorted(self.vectors.items())},
            "left_out": dict(sorted(self.left_out.items())),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], pin: str | None) -> PublishedCut:
        return cls(
            values["n"],
            values["created_at"],
            values["by"],
            values["catalog"],
            {name: TableVersion(**at) for name, at in values["tables"].items()},
            {topic: {int(p): offset for p, offset in each.items()} for topic, each in values["vectors"].items()},
            values["left_out"],
            pin,
        )

    @property
    def at(self) -> datetime:
        return datetime.fromisoformat(self.created_at)


class Cuts:
    """The published cuts of a storage root. A file is read once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._read: dict[int, dict[str, Any]] = {}

    @property
    def folder(self) -> Place:
        return root_folder(self.root) / "_kappa" / "cuts"

    def all(self) -> list[PublishedCut]:
        """The oldest first. Raises FormatTooNew, StorageUnusable."""
        with reaching(self.root):
            there = self._numbers()
            found = []
            for n in there["json"]:
                with suppress(FileNotFoundError):  # it has just expired
                    found.append(
                        PublishedCut.from_json(self._content(n), _decode(self._path(n, "pin"))["name"] if n in there["pin"] else None)
                    )
            return found

    def standing(self, keep_s: float) -> list[PublishedCut]:
        """Those that have not expired: pinned, or no older than ``keep_s``."""
        now = datetime.now(UTC)
        return [cut for cut in self.all() if cut.pin is not None or (now - cut.at).total_seconds() <= keep_s]

    def newest(self) -> PublishedCut | None:
        """Raises as ``all``."""
        return self._last()[0]

    def find(self, wanted: str) -> PublishedCut:
        """By number, by the name of its pin, or the newest at or before a time (ISO 8601; without a zone: UTC). Raises CutUnknown."""
        cuts = self.all()
        if not cuts:
            raise CutUnknown(wanted, "none is published yet: kappa run publishes them, and kappa cuts publish")
        if wanted.isdigit():
            found = [cut for cut in cuts if cut.n == int(wanted)]
        elif NAME.match(wanted):
            found = [cut for cut in cuts if cut.pin == wanted]
        else:
            found = [cut for cut in cuts if cut.at <= _time(wanted)]
            if not found:
                raise CutUnknown(wanted, f"the oldest that is kept is of {cuts[0].created_at}")
        if not found:
            pins = ", ".join(cut.pin for cut in cuts if cut.pin)
            raise CutUnknown(wanted, f"there are {cuts[0].n} to {cuts[-1].n}, but for those that have expired; pinned: {pins or 'none'}")
        return found[-1]

    def publish(self, by: str, pin: str | None = None) -> PublishedCut:
        """Publish the present cut; returns it, or the newest one when that shows the same rows and no ``pin`` is asked for.

        Raises what reading the tables raises, UsageError and NameTaken for the pin, and CatalogueContended when its versions are
        deleted, or others publish, again and again.
        """
        if pin is not None:
            self._refuse_name(pin)
        for _ in range(PUBLISH_ATTEMPTS):
            last, n = self._last()
            cut = _of(take_snapshot(self.root), n + 1, by, pin)
            if pin is None and last is not None and _shows_the_same(last, cut):
                return last
            with reaching(self.root):
                self.folder.mkdir(parents=True, exist_ok=True)
                # the pin first: a cut must not expire before it is pinned
                landed = (pin is None or self._put_pin(cut.n, pin)) and put_if_absent(
                    self._path(cut.n, "json"), _encode(cut.to_json()), durable=True
                )
            if landed and not list(_unreadable(cut, self.root)):
                return cut
            if landed:  # a vacuum that had not seen it yet has deleted what it names
                self._path(cut.n, "json").unlink(missing_ok=True)
        raise CatalogueContended(
            f"no cut could be published in {self.folder}",
            cause=f"{PUBLISH_ATTEMPTS} times another process was first",
            next_step="run the command again",
        )

    def pin(self, cut: PublishedCut, name: str, keep_s: float) -> PublishedCut:
        """Keep a cut under a name until ``unpin``. Raises UsageError, NameTaken, CutExpiring."""
        if cut.pin == name:
            return cut
        if cut.pin is not None:
            raise UsageError(f"cut {cut.n} is pinned already", cause=f"by {cut.pin}", next_step=f"kappa cuts unpin {cut.pin}")
        self._refuse_name(name)
        age_s = (datetime.now(UTC) - cut.at).total_seconds()
        if age_s > 0.9 * keep_s:
            raise CutExpiring(cut.n, age_s, keep_s)
        with reaching(self.root):
            self._put_pin(cut.n, name)
        return self.find(name)

    def _refuse_name(self, name: str) -> None:
        if not NAME.match(name):
            cause = "a name begins with a letter; then small letters, digits, - and _; 63 at most"
            raise UsageError(f"{name!r} cannot be the name of a cut", cause=cause, next_step="kappa cuts publish --pin month-end-2026-11")
        for other in self.all():
            if other.pin == name:
                raise NameTaken(name, other.n)

    def _put_pin(self, n: int, name: str) -> bool:
        return put_if_absent(self._path(n, "pin"), _encode({"format": FORMAT, "name": name, "pinned_at": _now()}), durable=True)

    def unpin(self, cut: PublishedCut) -> None:
        """It goes as the others do."""
        with reaching(self.root):
            self._path(cut.n, "pin").unlink(missing_ok=True)

    def expire(self, keep_s: float) -> int:
        """Delete the cuts that are older than ``keep_s`` and not pinned; returns how many."""
        standing = {cut.n for cut in self.standing(keep_s)}
        gone = [cut for cut in self.all() if cut.n not in standing]
        self._delete(gone)
        return len(gone)

    def forget(self, table: str, generation: str) -> None:
        """Delete the cuts that name a generation and are not pinned."""
        self._delete([cut for cut in self.all() if cut.pin is None and (at := cut.tables.get(table)) and at.generation == generation])

    def _delete(self, cuts: list[PublishedCut]) -> None:
        with reaching(self.root):
            _, last = self._last()
            for cut in cuts:
                if cut.n == last:
                    put_if_absent(self._path(cut.n, "gone"), b"", durable=True)
                self._path(cut.n, "json").unlink(missing_ok=True)
            for n in self._numbers()["gone"]:
                if n < last:
                    self._path(n, "gone").unlink(missing_ok=True)

    def _last(self) -> tuple[PublishedCut | None, int]:
        """The newest cut, and the greatest number that was given: 0 before the first."""
        cuts, there = self.all(), self._numbers()
        return (cuts[-1] if cuts else None), max([n for numbers in there.values() for n in numbers], default=0)

    def _numbers(self) -> dict[str, list[int]]:
        there: dict[str, list[int]] = {"json": [], "pin": [], "gone": []}
        with reaching(self.root), suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if match := _FILE.match(path.name):
                    there[match[2]].append(int(match[1]))
        return {suffix: sorted(numbers) for suffix, numbers in there.items()}

    def _content(self, n: int) -> dict[str, Any]:
        if n not in self._read:
            self._read[n] = _decode(self._path(n, "json"))
        return self._read[n]

    def _path(self, n: int, suffix: str) -> Place:
        return self.folder / f"{n:020}.{suffix}"


def snapshot_at(cut: PublishedCut, root: str) -> Snapshot:
    """What readers of a published cut see. Tables whose versions are gone all the same are ``lost``."""
    state, lost = Catalog(root).read(cut.catalog), dict(_unreadable(cut, root))
    versions = {name: at.version for name, at in cut.tables.items() if name not in lost}
    left_out = [LeftOut(name, versions[name], cause) for name, cause in cut.left_out.items() if name in versions]
    tables = {name: state.tables[name] for name in versions}
    return Snapshot(root, state.n, tables, state.views, Cut(versions, cut.vectors, left_out), lost)


def _shows_the_same(one: PublishedCut, other: PublishedCut) -> bool:
    """Equal positions are equal rows, whatever claims and compactions lie between the versions; tables off the cut say it by versions."""
    off = [[(name, cut.tables.get(name)) for name in cut.left_out] for cut in (one, other)]
    return (one.catalog, one.vectors, one.left_out, off[0]) == (other.catalog, other.vectors, other.left_out, off[1])


def _unreadable(cut: PublishedCut, root: str) -> Iterator[tuple[str, KappaError]]:
    for name, at in cut.tables.items():
        try:
            if not is_readable(TableAddress(root, name, at.generation), at.version):
                yield name, TableUnreadable(name, f"files of version {at.version}, which cut {cut.n} names, were deleted")
        except TableUnreadable as error:
            yield name, error


def _of(snapshot: Snapshot, n: int, by: str, pin: str | None) -> PublishedCut:
    tables = {name: TableVersion(entry.kind, entry.generation, snapshot.cut.versions[name]) for name, entry in snapshot.tables.items()}
    left_out = {each.table: each.cause for each in snapshot.cut.left_out}
    return PublishedCut(n, _now(), by, snapshot.n, tables, snapshot.cut.vectors, left_out, pin)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise CutUnknown(text, "it is no number, no name of a pin and no time, such as 2026-11-22T18:00:00Z") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _decode(path: Place) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    if values["format"] > FORMAT:
        raise FormatTooNew(path, values["format"])
    return values


def _encode(values: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(values), indent=2) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
