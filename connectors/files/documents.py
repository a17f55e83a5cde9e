"""Documents: each file is one event, a JSON object of what is known of it and, up to a limit, its content: of a larger one where it is.

The event goes out with the file's hash, so that a reference can be told from what the file holds later.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from connectors.files.chunk import Broken, Chunk, Rows
from connectors.files.input import InputFile, reading
from connectors.files.media import media_type
from flows.contract import Source


def read_document(source: Source, file: InputFile) -> Rows:
    """The file as it lies on disk, compressed or not. Members of the event: ``uri``, ``name``, ``media_type``, ``size_bytes``,
    ``modified_at`` (UTC), ``sha256``, and ``content``: a text, base64, or null. Raises FileUnreadable while reading.
    """
    return Rows([], _chunks(source, file))


def _chunks(source: Source, file: InputFile) -> Iterator[Chunk]:
    assert source.documents is not None
    content, cause = None, ""
    if source.documents.content != "none" and file.size <= source.documents.max_bytes:
        content, cause = _content(file, source.documents.content)
    about: dict[str, Any] = {
        "uri": file.uri,
        "name": file.path.name,
        "media_type": media_type(file.path.name),
        "size_bytes": file.size,
        "modified_at": file.modified_at,
        "sha256": file.sha256(),
        "content": content,
    }
    event = msgspec.json.encode(about)
    if len(event) > source.max_record_bytes:
        event = msgspec.json.encode({**about, "content": None})
    key = msgspec.json.encode({name: about[name] for name in source.key}) if source.key and set(source.key) <= about.keys() else None
    yield Chunk([key], [event], {0: Broken(cause, None)} if cause else {})


def _content(file: InputFile, kind: str) -> tuple[str | None, str]:
    """The content as a member of the event, and why there is none."""
    with reading(file.path):
        file.file.seek(0)
        raw = file.file.read()
    if kind == "binary":
        return base64.b64encode(raw).decode(), ""
    try:
        return raw.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        return None, f'not UTF-8 at byte {error.start}: [documents] content = "binary" takes such files'
