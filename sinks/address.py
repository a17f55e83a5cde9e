"""Where a table generation lies, and the names under which its Delta log keeps positions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import KappaError

# deltalake and DuckDB decode % in a path, and refuse the others (measured; spaces and all letters are fine)
_NOT_IN_PATHS = re.compile(r"[%\[\]^|\\\x00-\x1f\x7f]")


class StorageUnsupported(KappaError):
    """The storage root is not a folder, or one whose path Delta readers cannot open."""

    def __init__(self, root: str, cause: str, next_step: str) -> None:
        super().__init__(f"the storage root {root} cannot be written", cause=cause, next_step=next_step)


def local_folder(root: str) -> Path:
    """The folder of a storage root. Raises StorageUnsupported."""
    if "://" in root:
        cause = "this version writes tables to a folder; object stores come later"
        raise StorageUnsupported(root, cause, 'set storage = "data" (a folder) in warehouse.toml')
    if wrong := _NOT_IN_PATHS.search(root):
        cause = f"Delta's readers cannot open a path with {wrong[0]!r}"
        raise StorageUnsupported(root, cause, "rename the folder, or set storage in warehouse.toml to one without it")
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
        """Raises StorageUnsupported."""
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
