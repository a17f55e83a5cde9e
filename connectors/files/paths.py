"""Which files a command line means."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from connectors.files.errors import FilesNotFound, FileUnreadable

HIDDEN = (".", "_", "~$")
TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")  # ends of names; Office's locks begin with ~$


def _raise(unreadable: FileUnreadable) -> None:
    raise unreadable


def find_files(paths: Iterable[str], failed: Callable[[FileUnreadable], None] = _raise) -> list[Path]:
    """The files of files, folders (all that is in them, sorted) and globs (sorted, ``**`` too), each once.

    Names that begin with ``.`` or ``_`` inside a folder are left out, as Spark and Hive do (``_SUCCESS``), and those of files that
    a program is still writing (``TEMPORARY``). ``failed`` is told of folders that cannot be entered; by default it raises. Raises
    FilesNotFound.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            files = list(_expand(path, failed))
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
            elif there.is_file():
                yield there


def _inside(folder: Path, failed: Callable[[FileUnreadable], None]) -> Iterator[Path]:
    found = []

    def closed(error: OSError) -> None:
        failed(FileUnreadable(Path(str(error.filename)), str(error), "give this user the right to enter it, or name the other folders"))

    for inside, folders, files in os.walk(folder, onerror=closed):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        names = (name for name in files if not name.startswith(HIDDEN) and not name.lower().endswith(TEMPORARY))
        found += [file for name in names if (file := Path(inside) / name).is_file()]
    yield from sorted(found)
