"""Whole columns: text -> typed arrays, and the values that the column's type may not hold.

``finish`` never decides that a value is wrong: it marks what it cannot vouch for, and the tolerant path (flows.stage.record) judges it.
So a pattern here may be narrower than the grammar, never wider.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stage.buffers import Mask, content
from flows.stage.grammar import GRAMMAR, parse_base64
from flows.stage.kinds import FLOATS, INTEGERS, TIMES, Kind, List, Scalar, Struct
from flows.stage.refusal import Refused

_MONTH_DAY = "((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999  # the years 0001 to 9999
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
_TRUE, _BOOLEANS = 3, pa.array(["true", "t", "1", "false", "f", "0"])


class Doubt(Exception):
    """The whole-batch path cannot vouch for a group of records and cannot tell which of them are to blame."""


def json_type(kind: Kind) -> pa.DataType:
    """The type that pyarrow.json reads a member as: as exact as the column's and no narrower, so that ranges are checked here."""
    if isinstance(kind, Struct):
        return pa.struct([pa.field(name, json_type(field)) for name, field in kind.fields.items()])
    if isinstance(kind, List):
        return pa.list_(json_type(kind.item))
    assert isinstance(kind, Scalar), "maps are read one by one"
    if kind.name in INTEGERS:
        return {"ubigint": pa.uint64(), "hugeint": kind.arrow}.get(kind.name, pa.int64())
    if kind.name == "decimal":
        return _roomy(kind)
    return pa.string() if kind.name in (*TIMES, "blob") else kind.arrow


def finish(kind: Kind, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """An array read as ``json_type`` (format json) -> the column, and which of its rows are doubtful (None: none)."""
    if isinstance(kind, List):
        return _list(kind, array)
    if isinstance(kind, Struct):
        return _struct(kind, array)
    assert isinstance(kind, Scalar), "maps are read one by one"
    if pa.types.is_string(array.type):
        return (array, None) if kind.name in ("varchar", "json") else from_text(kind, array)
    return _in_range(kind, array)


def from_text(kind: Scalar, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """An array of texts of the grammar (format csv; times and blobs of both) -> the column, and which rows are doubtful."""
    if kind.name == "varchar":
        return array, None
    if kind.name == "blob":
        return _blobs(array)
    if kind.name == "boolean":
        found = pc.index_in(pc.ascii_lower(array), _BOOLEANS)
        return pc.less(found, _TRUE), _where(pc.and_(found.is_null(), array.is_valid()))
    target = json_type(kind) if kind.name in INTEGERS else kind.arrow
    doubtful: Mask | None = None
    if _suspicious(kind, array) or (typed := _cast(array, target)) is None:
        doubtful = _where(pc.invert(pc.match_substring_regex(array, _sure(kind))))
        typed = _cast(_without(array, doubtful), target)
        if typed is None:
            raise Doubt(f"{kind.title} texts")
    typed, outside = _in_range(kind, typed)
    return typed, either(doubtful, outside)


def either(left: Mask | None, right: Mask | None) -> Mask | None:
    """The union of two masks."""
    if left is None or right is None:
        return right if left is None else left
    return left | right


def _roomy(kind: Scalar) -> pa.DataType:
    """Arrow takes up to ``precision`` digits and then scales them up, past its own precision and, at 128 bits, around the corner."""
    precision, scale = kind.arrow.precision, kind.arrow.scale
    return kind.arrow if precision + scale <= pa.decimal128(38).precision else pa.decimal256(precision, scale)


def _suspicious(kind: Scalar, array: pa.Array) -> bool:
    """Whether a text holds a character with which Arrow's casts are laxer than the grammar, or digits that they scale around the corner."""
    if kind.name in TIMES:
        return False
    if kind.name == "decimal" and (pc.max(pc.binary_length(array)).as_py() or 0) + kind.arrow.scale > 38:
        return True
    lax = b".eE+" if kind.name == "hugeint" else b"xX" if kind.name in INTEGERS else b"eE+" if kind.name == "decimal" else b"+"
    text = content(array).to_pybytes()
    return any(text.find(byte) >= 0 for byte in lax)


def _sure(kind: Scalar) -> str:
    """A pattern of texts that the grammar allows and the cast surely takes."""
    if kind.name in FLOATS:
        return f"^({GRAMMAR[kind.name]})$"
    if kind.name == "decimal":
        whole, scale = kind.arrow.precision - kind.arrow.scale, kind.arrow.scale
        fraction = rf"\.[0-9]{{1,{scale}}}" if scale else r"\."
        return f"^-?0*([0-9]{{1,{whole}}}({fraction})?)$" if whole else f"^-?(0*{fraction})$"
    if kind.name in INTEGERS:
        return {"ubigint": "^0*[0-9]{1,19}$", "hugeint": "^-?0*[0-9]{1,38}$"}.get(kind.name, "^-?0*[0-9]{1,18}$")
    return f"^({GRAMMAR[kind.name].replace('-[0-9]{2}-[0-9]{2}', '-' + _MONTH_DAY)})$"


def _cast(array: pa.Array, target: pa.DataType) -> pa.Array | None:
    try:
        return array.cast(target)
    except pa.ArrowInvalid:
        return None


def _in_range(kind: Scalar, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """The stored type, and the rows whose value the contract's type does not hold."""
    if kind.name in FLOATS:
        finite = pc.is_finite(array)
        return array, None if pc.all(finite).as_py() in (True, None) else _where(pc.invert(finite))
    if kind.name in TIMES:
        low, high = (_FIRST_DAY, _LAST_DAY) if kind.name == "date" else (_FIRST_US, _LAST_US)
        return array, _outside(array.view(pa.int32() if kind.name == "date" else pa.int64()), low, high)
    if kind.name == "decimal":
        most = Decimal((0, (9,) * kind.arrow.precision, -kind.arrow.scale))
        outside = _outside(array, -most, most)
        return _without(array, outside).cast(kind.arrow), outside
    if kind.name not in INTEGERS or kind.name in ("bigint", "hugeint"):
        return array, None
    if kind.name == "ubigint":
        return array.cast(kind.arrow), None
    outside = _outside(array, *INTEGERS[kind.name])
    return _without(array, outside).cast(kind.arrow), outside


def _outside(array: pa.Array, low: int | Decimal, high: int | Decimal) -> Mask | None:
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is None or (bounds["min"] >= low and bounds["max"] <= high):
        return None
    return _where(pc.or_(pc.less(array, low), pc.greater(array, high)))


def _where(condition: pa.Array) -> Mask | None:
    """The rows for which a condition is true; None when there are none."""
    mask = np.asarray(condition.fill_null(False), np.bool_)
    return mask if mask.any() else None


def _without(array: pa.Array, mask: Mask | None) -> pa.Array:
    return array if mask is None else pc.if_else(pa.array(mask), None, array)


def _blobs(array: pa.Array) -> tuple[pa.Array, Mask | None]:
    """Base64: Arrow has no kernel for it, so value by value."""
    doubtful = np.zeros(len(array), np.bool_)
    blobs: list[bytes | None] = []
    for index, text in enumerate(array.to_pylist()):
        try:
            blobs.append(None if text is None else parse_base64(text))
        except Refused:
            blobs.append(None)
            doubtful[index] = True
    return pa.array(blobs, pa.binary()), doubtful if doubtful.any() else None


def _list(kind: List, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    items, doubtful = finish(kind.item, array.values)
    rows: Mask | None = None
    if doubtful is not None:
        rows = np.zeros(len(array), np.bool_)
        rows[np.searchsorted(np.asarray(array.offsets), np.flatnonzero(doubtful), side="right") - 1] = True
    return pa.ListArray.from_arrays(array.offsets, items, type=kind.arrow, mask=array.is_null()), rows


def _struct(kind: Struct, array: pa.Array) -> tuple[pa.Array, Mask | None]:
    rows: Mask | None = None
    columns = []
    for index, field in enumerate(kind.fields.values()):
        column, doubtful = finish(field, array.field(index))
        columns.append(column)
        rows = either(rows, doubtful)
    return pa.StructArray.from_arrays(columns, fields=list(kind.arrow), mask=array.is_null()), rows
