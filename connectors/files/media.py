"""What a file holds, by its name: its media type, and whether it holds rows at all."""

from __future__ import annotations

import mimetypes

# Not the machine's own tables: the same file is the same event everywhere.
_TYPES = mimetypes.MimeTypes(filenames=())
for _suffix, _type in {
    ".md": "text/markdown",
    ".7z": "application/x-7z-compressed",
    ".rar": "application/vnd.rar",
    ".avro": "application/vnd.apache.avro",
    ".orc": "application/vnd.apache.orc",
    ".arrow": "application/vnd.apache.arrow.file",
    ".feather": "application/vnd.apache.arrow.file",
    ".parquet": "application/vnd.apache.parquet",
    ".sqlite": "application/vnd.sqlite3",
}.items():
    _TYPES.add_type(_type, _suffix)
_UNKNOWN = "application/octet-stream"
_NO_ROWS = (
    "image/",
    "audio/",
    "video/",
    "font/",
    "application/vnd.",
    "application/pdf",
    "application/zip",
    "application/msword",
    "application/x-tar",
    "application/x-7z-compressed",
)
_UNPACKED = {None, "gzip"}  # zstd, which kappa unpacks, too, is no name that Python knows


def media_type(name: str) -> str:
    """By the end of the name; of a compressed file that of the compression."""
    kind, compression = _TYPES.guess_type(name)
    return f"application/{compression}" if compression else kind or _UNKNOWN


def without_rows(name: str) -> str | None:
    """The media type of a file that holds no rows of text, or whose compression is not unpacked; None of any other name."""
    kind, compression = _TYPES.guess_type(name.removesuffix(".zst"))
    if compression not in _UNPACKED:
        return f"application/{compression}"
    return kind if kind and kind.startswith(_NO_ROWS) else None
