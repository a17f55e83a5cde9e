"""Which names inside a folder, or below a prefix, are no data."""

from __future__ import annotations

from collections.abc import Sequence

_HIDDEN = (".", "_", "~$")  # as Spark and Hive do (``_SUCCESS``); Office's locks begin with ~$
_TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".swp", "~")  # ends of names of files that a program is still writing


def left_out(parts: Sequence[str]) -> bool:
    """Whether a file is left out; ``parts``: of its path, from the folder that was named."""
    return any(part.startswith(_HIDDEN) for part in parts) or (bool(parts) and parts[-1].lower().endswith(_TEMPORARY))
