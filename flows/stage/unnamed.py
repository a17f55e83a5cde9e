"""What a record holds and its contract does not name: the text of ``_extra``."""

from __future__ import annotations

import json
from collections.abc import Mapping

from flows.stage.codes import Code
from flows.stage.document import Members, Node, raw_items, raw_members
from flows.stage.kinds import Kind, List, Map, Scalar, Struct
from flows.stage.refusal import Refused, shown


def check_members(members: Members, names: Mapping[str, Kind], extra: str) -> None:
    """Raises Refused: duplicate_field for a field named twice (unnamed ones are not looked at with extra = ignore), extra_field."""
    seen: set[str] = set()
    for name, _ in members.pairs:
        if name in seen and (name in names or extra != "ignore"):
            raise Refused(Code.DUPLICATE_FIELD, f"field {shown(name)} is there twice", name if name in names else None)
        seen.add(name)
    if extra == "reject" and not seen <= names.keys():
        name = next(name for name, _ in members.pairs if name not in names)
        raise Refused(Code.EXTRA_FIELD, f"the contract does not name the field {shown(name)}")


def of_object(members: Members, raw: bytes, names: Mapping[str, Kind]) -> str | None:
    """The unnamed members as a JSON object, by name, each value's bytes as received; None without any.

    Below a struct column they stand under the column's name, below a list in an array with one entry an item (null: none), below a map
    under the value's name.
    """
    if all(name in names and isinstance(names[name], Scalar) for name, _ in members.pairs):
        return None
    return of_members(members, raw_members(raw), names)


def of_members(members: Members, raws: Mapping[str, bytes], names: Mapping[str, Kind]) -> str | None:
    """``of_object`` where each member's bytes are at hand."""
    texts = [(name, of_value(names[name], value, raws[name]) if name in names else raws[name].decode()) for name, value in members.pairs]
    return _object(sorted((name, text) for name, text in texts if text is not None))


def of_value(kind: Kind, token: Node, raw: bytes) -> str | None:
    """The unnamed members somewhere below a column's value."""
    if isinstance(kind, Struct) and isinstance(token, Members):
        return of_object(token, raw, kind.fields)
    if isinstance(kind, List) and isinstance(token, list):
        texts = [of_value(kind.item, item, item_raw) for item, item_raw in zip(token, raw_items(raw), strict=True)]
        return f"[{','.join(text or 'null' for text in texts)}]" if any(texts) else None
    if isinstance(kind, Map) and isinstance(token, Members):
        raws = raw_members(raw)
        found = [(name, of_value(kind.item, value, raws[name])) for name, value in token.pairs]
        return _object(sorted((name, text) for name, text in found if text is not None))
    return None


def _object(members: list[tuple[str, str]]) -> str | None:
    texts = (f"{json.dumps(name, ensure_ascii=False)}:{text}" for name, text in members)
    return f"{{{','.join(texts)}}}" if members else None
