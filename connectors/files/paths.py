"""Which files a command line means."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from connectors.files.errors import FilesNotFound, FileUnreadable
from connectors.files.leave_out import left_out
from connectors.files.objects import find_objects
from flows.objects import Place, is_url
from flows.objects.errors import ObjectStoreFailed


def _raise(unreadable: FileUnreadable) -> None:
    raise unreadable


def find_files(paths: Iterable[str], failed: Callable[[FileUnreadable], None] = _raise) -> list[Place]:
    """The files of files, folders (all that is in them, sorted) and globs (sorted, ``**`` too), each once; the same of s3:// URLs.

    Inside a folder, hidden names and those of temporary files are left out (``left_out``). ``failed`` is told of folders that cannot be
    entered; by default it raises. Raises FilesNotFound, UrlInvalid, ObjectStoreFailed.
    """
    found: dict[Place, None] = {}
    for path in paths:
        try:
            files: list[Place] = list(find_objects(path) if is_url(path) else _expand(path, failed))
        except ObjectStoreFailed:
            raise
        except OSError as error:  # a folder that may not be entered, a name too long
            raise FilesNotFound(path, str(error)) from None
        if not files:
            raise FilesNotFound(path, "it is no file, no folder with files and no glob that matches one")
        found.update(dict.fromkeys(files))
    return list(found)


def _expand(path: str, failed: Callable[[FileUnreadable], None]) -> Iterator[Path]:
    here = Path(path)
    if here.is_file():
        yield here
    elif here.is_dir():
        yield from _inside(here, failed)
    else:
        for match in sorted(glob.glob(path, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
            there = Path(match)
            if there.is_dir() and not path.endswith("**"):
                yield from _inside(there, failed)
            elif there.is_file() and not match.endswith("/"):  # Python 3.11 takes a file for what a/** means
                yield there


def _inside(folder: Path, failed: Callable[[FileUnreadable], None]) -> Iterator[Path]:
    found = []

    def closed(error: OSError) -> None:
        failed(FileUnreadable(Path(str(error.filename)), str(error), "give this user the right to enter it, or name the other folders"))

    for inside, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not left_out([name, ""])]
        found += [file for name in files if not left_out([name]) and (file := Path(inside) / name).is_file()]
    yield from sorted(found)
