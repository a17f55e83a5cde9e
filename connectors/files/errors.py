"""What can be wrong with a file as a whole. A single bad row is never an error: it becomes an event of its raw bytes."""

from __future__ import annotations

from flows.errors import KappaError, UsageError
from flows.objects import Place


class FilesNotFound(UsageError):
    """A path names no file."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(f"no file at {path}", cause=cause, next_step="correct the path")


class FileUnreadable(KappaError):
    """The file cannot be opened, decompressed, or is not what its name says."""

    def __init__(self, path: Place, cause: str, next_step: str = "") -> None:
        super().__init__(f"{path} cannot be read", cause=cause, next_step=next_step or "mend the file, then load it again")


class FormatMismatch(UsageError):
    """The file's format does not fit the source's."""

    def __init__(self, path: Place, cause: str, next_step: str) -> None:
        super().__init__(f"{path} does not fit the source", cause=cause, next_step=next_step)


class HeaderInvalid(KappaError):
    """The columns of a file cannot be told from its first row."""

    def __init__(self, path: Place, cause: str, next_step: str) -> None:
        super().__init__(f"the header of {path} cannot be used", cause=cause, next_step=next_step)
