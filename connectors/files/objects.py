"""Which objects of a bucket an URL on the command line means: the same rules as for files."""

from __future__ import annotations

from fnmatch import fnmatchcase

from connectors.files.leave_out import left_out
from flows.objects import S3Path, parse_url

_SPECIAL = "*?["


def find_objects(url: str) -> list[S3Path]:
    """The object called so, else all below that prefix, else what a glob matches (``**`` too); in the order of the parts of their keys.

    Below a prefix, hidden names and those of temporary files are left out (``left_out``). Raises UrlInvalid, and what listing raises.
    """
    here = parse_url(url)
    if here.key and not url.endswith("/") and here.exists():
        return [here]
    found = [path for path in here.rglob("*") if not left_out(_parts(path)[len(_parts(here)) :])]
    if not found and any(sign in here.key for sign in _SPECIAL):
        found = _globbed(here)
    return sorted(found, key=_parts)


def _globbed(pattern: S3Path) -> list[S3Path]:
    """Objects that match, and all below prefixes that match, listed from the last prefix without a special character."""
    wanted = _parts(pattern)
    fixed = next(index for index, part in enumerate(wanted) if any(sign in part for sign in _SPECIAL))
    folder = S3Path(pattern.bucket, "/".join(wanted[:fixed]))
    wanted = wanted[fixed:]
    return [path for path in folder.rglob("*") if chosen(_parts(path)[fixed:], wanted)]


def chosen(parts: list[str], wanted: list[str]) -> bool:
    """Whether a glob means a key, both as parts between slashes."""
    if wanted[-1] == "**":
        return _matches(parts, wanted)
    return any(_matches(parts[:end], wanted) and not left_out(parts[end:]) for end in range(1, len(parts) + 1))


def _matches(parts: list[str], wanted: list[str]) -> bool:
    """As Python's glob: ``*`` stays within a part, ``**`` is any number of them, and neither matches a name that begins with a dot."""
    if not wanted:
        return not parts
    if wanted == ["**"]:
        return bool(parts) and not any(part.startswith(".") for part in parts)
    if wanted[0] == "**":
        visible = next((index for index, part in enumerate(parts) if part.startswith(".")), len(parts))
        return any(_matches(parts[skipped:], wanted[1:]) for skipped in range(visible + 1))
    if not parts or (parts[0].startswith(".") and not wanted[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def _parts(path: S3Path) -> list[str]:
    return path.key.split("/") if path.key else []
