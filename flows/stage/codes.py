"""The reject codes: one list, used by every stage, shown in ``docs/types.md`` (a test keeps the two equal)."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Why a record was refused. The value is what the column ``code`` of a ``__rejected`` table holds."""

    SUPERSEDED = "superseded"
    UNREADABLE_ROW = "unreadable_row"
    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    INVALID_UTF8 = "invalid_utf8"
    INVALID_JSON = "invalid_json"
    NOT_AN_OBJECT = "not_an_object"
    DUPLICATE_FIELD = "duplicate_field"
    EXTRA_FIELD = "extra_field"
    MISSING_FIELD = "missing_field"
    NULL_FIELD = "null_field"
    WRONG_TYPE = "wrong_type"
    BAD_VALUE = "bad_value"
    OUT_OF_RANGE = "out_of_range"
    NULL_KEY = "null_key"
    RULE = "rule"
    TRANSFORM_ERROR = "transform_error"
    PARKED = "parked"


# In the order in which a record is judged: the first that applies is its code.
DESCRIPTIONS: dict[Code, str] = {
    Code.SUPERSEDED: "a correction (header `kappa-corrects`) of a record that is not rejected in this generation, or is corrected already",
    Code.UNREADABLE_ROW: "`load` could not read this row of the file (header `kappa-broken` holds the cause); the value is the raw line",
    Code.NULL_VALUE: 'the record has no value and the source says `null_values = "reject"`',
    Code.TOO_LARGE: "the value has more bytes than the source's `max_record_bytes`",
    Code.INVALID_UTF8: "the value is not UTF-8",
    Code.INVALID_JSON: "the value is not exactly one JSON document, is nested too deeply, or holds half of a surrogate pair",
    Code.NOT_AN_OBJECT: "the value is a JSON document but not an object",
    Code.DUPLICATE_FIELD: "an object names the same field twice",
    Code.EXTRA_FIELD: 'the record has a field that the contract does not name and the source says `extra = "reject"`',
    Code.MISSING_FIELD: "a `not null` column's field is absent",
    Code.NULL_FIELD: "a `not null` column's field is null",
    Code.WRONG_TYPE: "the field has another JSON type than its column: a string for a number, `1.0` for an integer",
    Code.BAD_VALUE: "the field's text is not one of its type's grammar, or is not a value of it (a 30th of February, NaN)",
    Code.OUT_OF_RANGE: "the value is well formed and the column's type cannot hold it exactly",
    Code.NULL_KEY: "a column of the source's or an upsert table's key is null or absent, or a record has neither value nor key",
    Code.RULE: 'a rule of the contract with `on_failure = "reject"` is false for the row, or fails on it',
    Code.TRANSFORM_ERROR: "the SQL of a table fails on this record, or gives an empty text for a partition column",
    Code.PARKED: "the record was set aside by an operator",
}
