"""Where a table generation lies, and the names under which its Delta log keeps positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from flows.errors import KappaError
from flows.objects import Place, S3Path, is_url, parse_url
from flows.objects.account import account

# deltalake and DuckDB decode % in a path, and refuse the others (measured; spaces and all letters are fine)
_NOT_IN_PATHS = re.compile(r"[%\[\]^|\\\x00-\x1f\x7f]")
_NOT_IN_URLS = re.compile(r"[%\[\]^|\\\x00-\x1f\x7f#?]|(?<!s3:)//|(?<=/)\.{1,2}(?=/|$)")  # and what ends or alters the path of a URL


class StorageUnsupported(KappaError):
    """The storage root is neither a folder nor s3://, or one whose path Delta readers cannot open."""

    def __init__(self, root: str, cause: str, next_step: str) -> None:
        super().__init__(f"the storage root {root} cannot be written", cause=cause, next_step=next_step)


def root_folder(root: str) -> Place:
    """The folder, or bucket and prefix, of a storage root. Raises StorageUnsupported, UrlInvalid."""
    if is_url(root) and not root.startswith("s3://"):
        cause = "tables are written to a folder or to s3://bucket/prefix"
        raise StorageUnsupported(root, cause, 'set storage = "data" (a folder) or "s3://bucket/prefix" in warehouse.toml')
    place = parse_url(root) if is_url(root) else Path(root)
    if wrong := (_NOT_IN_URLS if is_url(root) else _NOT_IN_PATHS).search(root):
        cause = f"Delta's readers cannot open a path with {wrong[0]!r}"
        raise StorageUnsupported(root, cause, "rename it, or set storage in warehouse.toml to one without it")
    return place


@dataclass(frozen=True, slots=True)
class TableAddress:
    """One generation of a table. ``root``: the storage root; ``name``: ``layer.table``."""

    root: str
    name: str
    generation: str

    @property
    def path(self) -> str:
        """Relative to the root: ``core/flight/3f9a0c12b7de-1``."""
        layer, _, table = self.name.partition(".")
        return f"{layer}/{table}/{self.generation}"

    @property
    def uri(self) -> str:
        return f"{self.root.rstrip('/')}/{self.path}"

    @property
    def folder(self) -> Place:
        """Raises StorageUnsupported."""
        return root_folder(self.root) / self.path

    @property
    def storage_options(self) -> dict[str, str] | None:
        """What deltalake needs to reach it: secrets among it, so that it is never kept. Raises what flows.objects.account raises."""
        folder = self.folder
        return account().delta_options(folder.bucket) if isinstance(folder, S3Path) else None

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
