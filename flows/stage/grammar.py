"""The written grammar of text values, and one value's text -> Python value.

The same grammar serves csv strings and the JSON strings of times and blobs. ``docs/types.md`` shows it; the patterns are in the common
subset of ``re`` and RE2, so that the whole-batch path (flows.stage.columns) tests what this module means.
"""

from __future__ import annotations

import binascii
import datetime as dt
import re
from decimal import Decimal

import pyarrow as pa

from flows.stage.codes import Code
from flows.stage.kinds import FLOATS, INTEGERS, Scalar
from flows.stage.refusal import Refused, shown

_TIME = r"([01][0-9]|2[0-3])(:[0-5][0-9](:[0-5][0-9](\.[0-9]{1,6})?)?)?"
_ZONE = r"(Z|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)"
_NUMBER = r"-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?"
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

INTEGER_TEXT = r"-?[0-9]+"
GRAMMAR: dict[str, str] = {
    **dict.fromkeys(INTEGERS, INTEGER_TEXT),
    **dict.fromkeys((*FLOATS, "decimal"), _NUMBER),
    "boolean": r"(?i:true|false|t|f|1|0)",
    "date": _DATE,
    "timestamp": rf"{_DATE}([T ]{_TIME})?",
    "timestamptz": rf"{_DATE}[T ]{_TIME}{_ZONE}",
}
_COMPILED = {name: re.compile(pattern, re.ASCII) for name, pattern in GRAMMAR.items()}
_TRUE = ("true", "t", "1")
_UTC = dt.UTC

Value = bool | int | float | Decimal | str | bytes | dt.date | dt.datetime


def parse_text(kind: Scalar, text: str) -> Value:
    """The value that a text names. Raises Refused (bad_value, out_of_range). ``json`` is not for this function."""
    if kind.name == "varchar":
        return text
    if kind.name == "blob":
        return parse_base64(text)
    if not _COMPILED[kind.name].fullmatch(text):
        raise Refused(Code.BAD_VALUE, f"{shown(text)} is not {kind.noun}")
    if kind.name == "boolean":
        return text.lower() in _TRUE
    if kind.name in ("date", "timestamp", "timestamptz"):
        return _time(kind, text)
    return number(kind, text)


def parse_base64(text: str) -> bytes:
    """RFC 4648 base64, standard alphabet, with padding and nothing around it. Raises Refused (bad_value)."""
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Refused(Code.BAD_VALUE, f"{shown(text)} is not base64") from None


def number(kind: Scalar, text: str) -> Value:
    """The exact value of a well-formed number. Raises Refused (out_of_range)."""
    if kind.name in INTEGERS:
        return _integer(kind, text)
    if kind.name == "decimal":
        return _decimal(kind, text)
    value = float(text) if kind.name == "double" else _float32(text)
    if value in (float("inf"), float("-inf")):
        raise Refused(Code.OUT_OF_RANGE, f"{shown(text)} is too large for {kind.noun}")
    return value


def _float32(text: str) -> float:
    # From the decimal text in one step, as Arrow does: rounding to a double first would round some values twice.
    value = pa.scalar(text).cast(pa.float32()).as_py()
    assert isinstance(value, float)
    return value


def _integer(kind: Scalar, text: str) -> int:
    low, high = INTEGERS[kind.name]
    digits = text.lstrip("-").lstrip("0") or "0"
    if len(digits) <= 39:  # int() is quadratic, and refuses 4,300 digits
        value = -int(digits) if text.startswith("-") else int(digits)
        if low <= value <= high:
            return value
    raise Refused(Code.OUT_OF_RANGE, f"{shown(text)} is outside {low}..{high}, the range of {kind.noun}")


def _decimal(kind: Scalar, text: str) -> Decimal:
    """Exact: a value that needs more digits than the type has is refused, never rounded. Trailing zeros need no digit."""
    precision, scale = kind.arrow.precision, kind.arrow.scale
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return Decimal(0).scaleb(-scale)
    power = _exponent(exponent) - len(fraction) + len(digits) - len(significant)  # value = significant * 10 ** power
    if power < -scale or len(significant) + power > precision - scale:
        raise Refused(Code.OUT_OF_RANGE, f"{shown(text)} does not fit {kind.title} exactly")
    sign = 1 if text.startswith("-") else 0
    return Decimal((sign, tuple(map(int, significant)) + (0,) * (power + scale), -scale))


def _exponent(text: str) -> int:
    """An exponent with more than nine digits is as good as infinite: its size decides, not its value."""
    digits = text.lstrip("+-").lstrip("0") or "0"
    value = int(digits[:9]) if len(digits) <= 9 else 10**9
    return -value if text.startswith("-") else value


def _time(kind: Scalar, text: str) -> dt.date | dt.datetime:
    """A date, or a timestamp in UTC: years 0001 to 9999, also after the zone is applied."""
    if text.startswith("0000"):
        raise Refused(Code.OUT_OF_RANGE, f"{shown(text)} is before the year 0001")
    try:
        if kind.name == "date":
            return dt.date.fromisoformat(text)
        if kind.name == "timestamp":
            return dt.datetime.fromisoformat(_padded(text))
        value = dt.datetime.fromisoformat(_padded(text))
    except ValueError as error:
        raise Refused(Code.BAD_VALUE, f"{shown(text)} is not {kind.noun}: {error}") from None
    try:
        return value.astimezone(_UTC)
    except OverflowError:
        raise Refused(Code.OUT_OF_RANGE, f"{shown(text)} is outside the years 0001 to 9999 in UTC") from None


def _padded(text: str) -> str:
    """Fractions to six digits and zones to minutes: what every Python that we support reads in full."""
    text = re.sub(r"\.([0-9]{1,6})", lambda found: "." + found[1].ljust(6, "0"), text)
    return re.sub(r"([T ][0-9:.]+)([+-][0-9]{2}):?([0-9]{2})?$", lambda found: f"{found[1]}{found[2]}:{found[3] or '00'}", text)
