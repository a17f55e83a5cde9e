"""msgspec's typed decoder as a second witness: it finds the records that the whole-batch reader stumbles on.

It is strict where pyarrow.json is lax (a string for a decimal) and quick one record at a time, but it merges duplicate fields and does not
know the grammars: so it only points at suspects, or confirms.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa

from flows.contract import Source
from flows.stage.buffers import Mask, array_text
from flows.stage.kinds import FLOATS, INTEGERS, Kind, List, Scalar, Struct, is_left, kind_of

_INT64 = 2**63


class Witness:
    """Knows a source's record as a msgspec type."""

    def __init__(self, source: Source) -> None:
        closed = source.extra != "ignore"
        csv = source.format == "csv"
        types = {name: str | None if csv else _type(kind_of(column), closed) for name, column in source.columns.items()}
        record = _record(types, closed=source.extra == "reject")
        self._one = msgspec.json.Decoder(record)
        self._all = msgspec.json.Decoder(list[record])  # type: ignore[valid-type]

    def suspects(self, values: pa.Array) -> Mask:
        """Which of the values it refuses."""
        return np.fromiter((not self._confirms(value) for value in values.to_pylist()), np.bool_, len(values))

    def confirms(self, values: pa.Array) -> bool:
        """Whether it refuses none of the values, each exactly one object."""
        try:
            self._all.decode(array_text(values))
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True

    def _confirms(self, value: bytes) -> bool:
        try:
            self._one.decode(value)
        except (msgspec.MsgspecError, RecursionError):
            return False
        return True


def _record(types: dict[str, Any], closed: bool) -> Any:
    """A struct type with every field optional. Fields are renamed, because a column's name need not be a Python name."""
    return msgspec.defstruct(
        "Record",
        [(f"c{index}", kind, msgspec.Raw(b"null") if kind is msgspec.Raw else None) for index, kind in enumerate(types.values())],
        rename={f"c{index}": name for index, name in enumerate(types)},
        forbid_unknown_fields=closed,
    )


def _type(kind: Kind, closed: bool) -> Any:
    if is_left(kind):
        return msgspec.Raw
    if isinstance(kind, Struct):
        return _record({name: _type(field, closed) for name, field in kind.fields.items()}, closed) | None
    if isinstance(kind, List):
        return list[_type(kind.item, closed)] | None  # type: ignore[misc]
    assert isinstance(kind, Scalar)
    if kind.name == "boolean":
        return bool | None
    if kind.name in INTEGERS:
        low, high = INTEGERS[kind.name]
        # msgspec's bounds are 64-bit; wider ones are checked by the columns.
        return Annotated[int, msgspec.Meta(ge=low, le=high)] | None if low >= -_INT64 and high < _INT64 else int | None
    return float | None if kind.name in (*FLOATS, "decimal") else str | None
