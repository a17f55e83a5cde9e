"""Where a table generation lies, and the names under which its Delta log keeps positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import KappaError

_UNUSABLE = re.compile(r"%[0-9A-Fa-f]{2}|\\")


class StorageUnsupported(KappaError):
    """The storage root is not a folder, or one whose name Delta's libraries take for another's."""

    def __init__(self, root: str, cause: str) -> None:
        super().__init__(
            f"the storage root {root} cannot be written", cause=cause, next_step="name another folder as storage in warehouse.toml"
        )


def local_folder(root: str) -> Path:
    """The folder of a storage root. Raises StorageUnsupported for a URL, and for a name with a URL's escape in it."""
    if "://" in root:
        raise StorageUnsupported(root, "this version writes tables to a folder; object stores come later")
    if _UNUSABLE.search(root):  # told "a%20b" and "a\\b", deltalake 1.6.6 goes to "a b" and "a/b"
        raise StorageUnsupported(root, "Delta's libraries go to another folder for a name with a backslash, or with % and two digits")
    return Path(root)


@dataclass(frozen=True, slots=True)
class TableAddress:
    """One generation of a table. ``root``: the storage root; ``name``: ``layer.table``; ``storage_options`` go to deltalake."""

    root: str
    name: str
    generation: str
    storage_options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def path(self) -> str:
        """Relative to the root: ``core/flight/3f9a0c12b7de-1``."""
        layer, _, table = self.name.partition(".")
        return f"{layer}/{table}/{self.generation}"

    @property
    def uri(self) -> str:
        return f"{self.root.rstrip('/')}/{self.path}"

    @property
    def folder(self) -> Path:
        """Raises StorageUnsupported when the root is not a folder."""
        return local_folder(self.root) / self.path

    @property
    def txn_prefix(self) -> str:
        """What the app ids of all of this generation's Delta transactions begin with."""
        return f"kappa/{self.name}/{self.generation}/"

    @property
    def owner_txn(self) -> str:
        return f"{self.txn_prefix}owner"

    def txn(self, topic: str, partition: int) -> str:
        """The app id whose version is the next position of a topic partition."""
        return f"{self.txn_prefix}{topic}/{partition}"
