"""A file on disk or in a bucket: opened once, hashed, then read, so that both see the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from typing import BinaryIO, Protocol, cast

import pyarrow as pa

from connectors.files.errors import FileUnreadable
from flows.errors import KappaError
from flows.objects import Place, S3Path

COMPRESSED = (".gz", ".zst")
_BLOCK_BYTES = 1024 * 1024


class Stream(Protocol):
    """Something to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


@contextmanager
def reading(path: Place, *broken: type[Exception]) -> Iterator[None]:
    """A disk that fails, and ``broken``, as FileUnreadable; what already says its cause, such as an error of S3, stays as it is."""
    failures: tuple[type[Exception], ...] = (OSError, *broken)
    try:
        yield
    except KappaError:
        raise
    except failures as error:
        raise FileUnreadable(path, str(error)) from error


class InputFile:
    """An open file. Use as a context manager. ``format``: its lower-case suffix without the compression's, such as ``.csv``."""

    def __init__(self, path: Place) -> None:
        self.path = path
        suffixes = [suffix.lower() for suffix in path.suffixes]
        self.compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSED else None
        self.format = suffixes[-1] if suffixes else ""
        with reading(path):
            self.uri = path.resolve().as_uri()
            self.file = cast(BufferedReader, path.open("rb"))
        self._streams: list[Stream] = []  # one that is dropped closes the file
        self._opened = self._state()
        self.size = self._opened[0]

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def sha256(self) -> str:
        """The hash of the whole file as it lies on disk, in hex. Raises FileUnreadable."""
        with reading(self.path):
            self.file.seek(0)
            return hashlib.file_digest(self.file, "sha256").hexdigest()

    def content(self) -> Stream:
        """The decompressed bytes, from the beginning."""
        self.file.seek(0)
        self._streams.append(_decompressed(self.file, self.compression))
        return _Content(self.path, self._streams[-1])

    def check_compression(self) -> None:
        """Decompress the file once, to its end: what breaks there would break after rows have been sent. Raises FileUnreadable."""
        if self.compression:
            content = self.content()
            while content.read(_BLOCK_BYTES):
                pass

    @property
    def position(self) -> int:
        """How many bytes on disk have been read (a little ahead of the rows)."""
        return self.file.tell()

    @property
    def modified_at(self) -> str:
        """When the file was last written, UTC, as ISO 8601 with microseconds."""
        path, ns = self.path, 1_000_000_000
        written_ns = int(path.head().st_mtime) * ns if isinstance(path, S3Path) else os.fstat(self.file.fileno()).st_mtime_ns
        seconds, rest = divmod(written_ns, ns)
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest // 1000:06}Z"

    @property
    def changed(self) -> bool:
        """Whether someone wrote to the file since it was opened."""
        try:
            return self._state() != self._opened
        except FileNotFoundError:  # an object that was deleted
            return True

    def _state(self) -> tuple[int, int | str]:
        """Size in bytes, and what changes with every change."""
        if isinstance(self.path, S3Path):
            found = self.path.head()
            return found.st_size, found.etag
        state = os.fstat(self.file.fileno())
        return state.st_size, state.st_mtime_ns


def _decompressed(file: BinaryIO, compression: str | None) -> Stream:
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if compression == ".zst":
        return cast(Stream, pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"))
    return file


class _Content:
    """Says of which file a broken compression is."""

    def __init__(self, path: Place, stream: Stream) -> None:
        self._path = path
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        with reading(self._path, EOFError, zlib.error, pa.ArrowInvalid):
            return self._stream.read(size)
