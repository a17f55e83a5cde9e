"""Files that appear whole or not at all, in a folder or a bucket; and what is said when they cannot be used.

A ``Place`` is a ``pathlib.Path`` or an ``S3Path``, which has the same methods. What the two do in different ways is here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import uuid4

from flows.errors import KappaError
from flows.objects import Place, S3Path
from flows.objects.errors import ObjectStoreFailed


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
    """Raises StorageUnusable for what the system says of the storage root. FileNotFoundError passes, since what is missing may be made, and
    so does what S3 says, which names cause and next command itself.
    """
    try:
        yield
    except (FileNotFoundError, ObjectStoreFailed):
        raise
    except OSError as error:
        raise StorageUnusable(root, str(error)) from error


def put_if_absent(path: Place, data: bytes, *, durable: bool) -> bool:
    """Write ``path`` unless it exists. Returns False when it does. ``durable``: also survive a loss of power, as what S3 takes always does.

    The hard link makes it atomic: opening the final name with O_EXCL would show readers an empty file; S3 has ``If-None-Match``. An OSError
    leaves the outcome unknown: the file may be there.
    """
    if isinstance(path, S3Path):
        return path.put_if_absent(data)
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


class NewFile(Protocol):
    """A file that is being written to ``sink``; it is in its place once ``finish`` has returned."""

    @property
    def sink(self) -> Path | BinaryIO:
        """What a writer opens: a path, or a stream."""

    def finish(self) -> int:
        """Returns its size in bytes."""

    def discard(self) -> None:
        """Nothing is left of it."""


def new_file(path: Place, *, durable: bool) -> NewFile:
    """A file to be written at ``path``. ``durable``: it survives a loss of power."""
    return Upload(path) if isinstance(path, S3Path) else LocalFile(path, durable=durable)


class LocalFile:
    """Written in its place: nobody reads a data file before a commit names it."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.sink = path
        self._durable = durable

    def finish(self) -> int:
        if self._durable:
            sync(self.sink)
            sync(self.sink.parent)
        return self.sink.stat().st_size

    def discard(self) -> None:
        self.sink.unlink(missing_ok=True)


class Upload:
    """Written to a nameless file of the temp folder, then put whole: memory holds none of it, and a process that dies leaves nothing."""

    def __init__(self, path: S3Path) -> None:
        self._path = path
        self.sink: BinaryIO = tempfile.TemporaryFile(prefix="kappa-")  # noqa: SIM115 - closed by finish and discard

    def finish(self) -> int:
        with self.sink as content:
            nbytes = content.seek(0, os.SEEK_END)
            self._path.put(content)
        return nbytes

    def discard(self) -> None:
        self.sink.close()


def readable(path: Place) -> Path | BinaryIO:
    """What Parquet readers open: the path of a file, a stream over an object."""
    return path.open() if isinstance(path, S3Path) else path  # type: ignore[return-value]


def link(source: Place, target: Place) -> None:
    """The same file under a second name: a hard link; a copy on a file system without them, and in a bucket, whose server makes it.

    A target that is there already is the same. Raises FileNotFoundError.
    """
    if isinstance(target, S3Path):
        assert isinstance(source, S3Path)
        target.copy_of(source)
        return
    assert isinstance(source, Path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        try:
            os.link(source, target)
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError:
            shutil.copy2(source, target)


def all_exist(folder: Place, names: Iterable[str]) -> bool:
    """Whether every file is in ``folder``: one question a file, or one listing of a bucket."""
    if isinstance(folder, S3Path):
        found = {str(path) for path in folder.rglob("*")}
        return all(str(folder / name) in found for name in names)
    return all((folder / name).exists() for name in names)
