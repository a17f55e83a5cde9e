"""The tolerant path: one record at a time, exact, and the judge of what is wrong with it.

It is the meaning of the decoder; the whole-batch path (flows.stage.block) may only be quicker. The conformance table and a property
test keep the two equal.
"""

from __future__ import annotations

from typing import Any

from flows.contract import Source
from flows.stage import unnamed
from flows.stage.codes import Code
from flows.stage.document import Constant, Members, Node, Number, parse, raw_items, raw_members, type_name
from flows.stage.grammar import number, parse_text
from flows.stage.kinds import FLOATS, INTEGERS, TIMES, Kind, List, Map, Scalar, Struct, holds_json, kind_of
from flows.stage.refusal import Refused, shown

_QUOTED = (*TIMES, "varchar", "blob")


class RecordDecoder:
    """Decodes values of format json or csv, one by one."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._kinds = {name: kind_of(column) for name, column in source.columns.items()}
        self._raw = source.format == "json" and any(map(holds_json, self._kinds.values()))
        self._keep = source.extra == "keep"

    def decode(self, value: bytes) -> list[Any]:
        """The contract's columns in order, then ``_extra`` with extra = keep. ``value`` is UTF-8. Raises Refused."""
        document = parse(value.decode())
        members = document.root
        if not isinstance(members, Members):
            raise Refused(Code.NOT_AN_OBJECT, f"the value is {type_name(members)}")
        unnamed.check_members(members, self._kinds, self._source.extra)
        # NaN is not JSON: where it stands, no bytes are read. A column that it belongs to names it, else the record does.
        raws = raw_members(value) if self._raw and not document.constants else {}
        fields = dict(members.pairs)
        row = [self._column(name, fields, raws) for name in self._kinds]
        if document.constants:
            raise Refused(Code.BAD_VALUE, "NaN and Infinity are not JSON values")
        self._check_key(fields)
        if self._keep:
            row.append(self._extra(members, value))
        return row

    def _column(self, name: str, fields: dict[str, Node], raws: dict[str, bytes]) -> Any:
        token = fields.get(name)
        if token is None and self._source.columns[name].not_null and name not in fields:
            raise Refused(Code.MISSING_FIELD, f"the field {name!r} is absent and its column is not null", name)
        try:
            cast = self._cell if self._source.format == "csv" else self._json
            value = cast(self._kinds[name], token, raws.get(name))
        except Refused as refused:
            raise refused.at(name) from None
        if value is None and self._source.columns[name].not_null:
            raise Refused(Code.NULL_FIELD, f"the field {name!r} is null and its column is not null", name)
        return value

    def _check_key(self, fields: dict[str, Node]) -> None:
        for name in self._source.key:
            if fields.get(name) is None:
                raise Refused(Code.NULL_KEY, f"the key column {name!r} is null", name)

    def _cell(self, kind: Kind, token: Node, _raw: bytes | None) -> Any:
        """A csv cell: null, or a string of the type's grammar; for json and nested types the string is a JSON document."""
        if token is None:
            return None
        if not isinstance(token, str) or isinstance(token, (Number, Constant)):
            raise Refused(Code.WRONG_TYPE, f"expected a string, found {type_name(token)}")
        if isinstance(kind, Scalar) and kind.name != "json":
            return parse_text(kind, token)
        root = self._document(token)
        return token if isinstance(kind, Scalar) else self._json(kind, root, token.encode())

    @staticmethod
    def _document(text: str) -> Node:
        try:
            document = parse(text)
        except Refused as refused:
            raise Refused(Code.BAD_VALUE, f"not a JSON document: {refused.reason}") from None
        if document.constants:
            raise Refused(Code.BAD_VALUE, "NaN and Infinity are not JSON values")
        return document.root

    def nested(self, kind: Kind, text: str) -> Any:
        """The value of a nested kind that stands in ``text``. Raises Refused, also where it holds what ``_extra`` keeps."""
        root = self._document(text)
        if self._keep and unnamed.of_value(kind, root, text.encode()) is not None:
            raise Refused(Code.EXTRA_FIELD, "it goes to _extra")
        return self._json(kind, root, text.encode())

    def _json(self, kind: Kind, token: Node, raw: bytes | None) -> Any:
        """A member with its JSON type. ``raw``: its bytes, where a kind below keeps them (None with NaN in the document)."""
        if isinstance(kind, Scalar) and kind.name == "json":
            return None if token is None or raw is None else raw.decode()
        if token is None:
            return None
        if isinstance(token, Constant):
            raise Refused(Code.BAD_VALUE, f"{token} is not a JSON value")
        if isinstance(kind, Struct):
            return self._struct(kind, token, raw)
        if isinstance(kind, List):
            if not isinstance(token, list):
                raise Refused(Code.WRONG_TYPE, f"expected an array, found {type_name(token)}")
            raws = raw_items(raw) if raw and holds_json(kind) else [None] * len(token)
            return [self._json(kind.item, item, item_raw) for item, item_raw in zip(token, raws, strict=True)]
        return self._map(kind, token, raw) if isinstance(kind, Map) else self._scalar(kind, token)

    def _struct(self, kind: Struct, token: Node, raw: bytes | None) -> dict[str, Any]:
        if not isinstance(token, Members):
            raise Refused(Code.WRONG_TYPE, f"expected an object, found {type_name(token)}")
        unnamed.check_members(token, kind.fields, self._source.extra)
        raws = raw_members(raw) if raw and holds_json(kind) else {}
        fields = dict(token.pairs)
        return {name: self._json(field, fields.get(name), raws.get(name)) for name, field in kind.fields.items()}

    def _map(self, kind: Map, token: Node, raw: bytes | None) -> list[tuple[str, Any]]:
        if not isinstance(token, Members):
            raise Refused(Code.WRONG_TYPE, f"expected an object, found {type_name(token)}")
        if len(dict(token.pairs)) < len(token.pairs):
            name = next(name for index, (name, _) in enumerate(token.pairs) if name in dict(token.pairs[:index]))
            raise Refused(Code.DUPLICATE_FIELD, f"field {shown(name)} is there twice")
        raws = raw_members(raw) if raw and holds_json(kind) else {}
        return [(name, self._json(kind.item, value, raws.get(name))) for name, value in token.pairs]

    @staticmethod
    def _scalar(kind: Scalar, token: Node) -> Any:
        if kind.name == "boolean" and isinstance(token, bool):
            return token
        if kind.name in _QUOTED and isinstance(token, str) and not isinstance(token, Number):
            return parse_text(kind, token)
        if isinstance(token, Number):
            whole = token.lstrip("-").isdigit()
            if kind.name in (*FLOATS, "decimal") or (whole and kind.name in INTEGERS):
                return number(kind, token)
        raise Refused(Code.WRONG_TYPE, f"expected {kind.title}, found {type_name(token)}")

    def _extra(self, members: Members, value: bytes) -> str | None:
        if self._source.format == "json":
            return unnamed.of_object(members, value, self._kinds)
        raws = raw_members(value)
        fields = dict(members.pairs)
        # A csv cell of struct or list is a JSON text of its own, and what it does not name is kept like the json format's.
        for name, kind in self._kinds.items():
            token = fields.get(name)
            if not isinstance(kind, Scalar) and isinstance(token, str):
                fields[name] = parse(token).root
                raws[name] = token.encode()
        return unnamed.of_members(Members(list(fields.items())), raws, self._kinds)
