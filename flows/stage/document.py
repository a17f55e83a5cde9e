"""One JSON document -> a tree that keeps every number's text and every pair of an object. Nothing is rounded, merged or guessed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from flows.stage.codes import Code
from flows.stage.refusal import Refused, shown

MAX_DEPTH = 200  # objects and arrays within each other; far below what any parser here recurses to

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[{\]}]")


class Number(str):
    """The text of a number."""

    __slots__ = ()


class Constant(str):
    """NaN, Infinity or -Infinity: Python's parser knows them, JSON does not."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Members:
    """The members of an object in order, duplicates included."""

    pairs: list[tuple[str, Node]]


Node: TypeAlias = "bool | str | Number | Constant | Members | list[Node] | None"


@dataclass(frozen=True, slots=True)
class Document:
    """``root``: the tree. ``constants``: whether NaN or an infinity occurs anywhere in it."""

    root: Node
    constants: bool


_decoder = json.JSONDecoder(object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=Constant)
_raw_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_items = msgspec.json.Decoder(list[msgspec.Raw])


def parse(text: str) -> Document:
    """Parse exactly one document. Raises Refused (invalid_json)."""
    if text.count("[") + text.count("{") > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise Refused(Code.INVALID_JSON, f"nested deeper than {MAX_DEPTH} levels")
    try:
        root = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise Refused(Code.INVALID_JSON, f"{error.msg} at character {error.pos}") from None
    if "\\u" in text:
        _check_surrogates(root)
    return Document(root, ("NaN" in text or "Infinity" in text) and _has_constants(root))


def depth(text: str) -> int:
    """How deeply brackets nest, whether or not the text is well formed."""
    level = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    return deepest


def _check_surrogates(token: Node) -> None:
    if isinstance(token, Members):
        for name, value in token.pairs:
            _check_surrogates(name)
            _check_surrogates(value)
    elif isinstance(token, list):
        for value in token:
            _check_surrogates(value)
    elif isinstance(token, str) and not token.isascii():
        try:
            token.encode()
        except UnicodeEncodeError:
            raise Refused(Code.INVALID_JSON, f"{shown(token)} holds half of a surrogate pair") from None


def _has_constants(token: Node) -> bool:
    if isinstance(token, Members):
        return any(_has_constants(value) for _, value in token.pairs)
    if isinstance(token, list):
        return any(map(_has_constants, token))
    return isinstance(token, Constant)


def raw_members(raw: bytes) -> dict[str, bytes]:
    """The members of an object (parsed before, without duplicates that matter) with their bytes as received."""
    return {name: bytes(value) for name, value in _raw_members.decode(raw).items()}


def raw_items(raw: bytes) -> list[bytes]:
    """The items of an array (parsed before) with their bytes as received."""
    return [bytes(value) for value in _raw_items.decode(raw)]


def type_name(token: Node) -> str:
    """The JSON type as people call it."""
    if isinstance(token, Members):
        return "an object"
    if isinstance(token, list):
        return "an array"
    if isinstance(token, (Number, Constant)):
        return f"the number {shown(token)}"
    if isinstance(token, str):
        return f"the string {shown(token)}"
    return "null" if token is None else "a boolean"
