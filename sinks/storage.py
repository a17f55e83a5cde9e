"""Files that appear whole or not at all, in a folder; and what is said when the folder cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from flows.errors import KappaError


class StorageUnusable(KappaError):
    """The storage root is no folder, or may not be read or written."""

    def __init__(self, root: str, cause: str) -> None:
        super().__init__(
            f"the storage root {root} cannot be used",
            cause=cause,
            next_step="make it a folder that this user can write, or set another storage in warehouse.toml; then the command again",
        )


@contextmanager
def reaching(root: str) -> Iterator[None]:
    """Raises StorageUnusable for what the system says of the storage root; FileNotFoundError passes, since what is missing may be made."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageUnusable(root, str(error)) from error


def put_if_absent(path: Path, data: bytes, *, durable: bool) -> bool:
    """Write ``path`` unless it exists. Returns False when it does. ``durable``: also survive a loss of power.

    The hard link makes it atomic: opening the final name with O_EXCL would show readers an empty file. An OSError leaves the outcome
    unknown: the file may be there.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    if durable:
        sync(path.parent)
    return True


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
