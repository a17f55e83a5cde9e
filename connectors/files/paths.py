"""Which files a command line means."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from connectors.files.errors import FilesNotFound

TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")  # ends of names; Office's locks begin with ~$


def find_files(paths: Iterable[str]) -> list[Path]:
    """The files of files, folders (all that is in them, sorted) and globs (sorted, ``**`` too), each once.

    Names that begin with ``.`` or ``_`` inside a folder are left out, as Spark and Hive do (``_SUCCESS``), and those of files that
    a program is still writing (``TEMPORARY``). Raises FilesNotFound.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            files = list(_expand(path))
        except OSError as error:  # a folder that may not be entered, a name too long
            raise FilesNotFound(path, str(error)) from None
        if not files:
            raise FilesNotFound(path, "it is no file, no folder with files and no glob that matches one")
        found.update(dict.fromkeys(files))
    return list(found)


def _expand(path: str) -> Iterator[Path]:
    here = Path(path)
    if here.is_file():
        yield here
    elif here.is_dir():
        yield from _inside(here)
    else:
        for match in sorted(glob.glob(path, recursive=True)):  # noqa: PTH207 - the pattern may be absolute
            yield from (
                _inside(Path(match)) if Path(match).is_dir() and not path.endswith("**") else [Path(match)] if Path(match).is_file() else []
            )


def _inside(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "_", "~$")) for part in file.relative_to(folder).parts)
        if file.is_file() and not hidden and not file.name.lower().endswith(TEMPORARY):
            yield file
