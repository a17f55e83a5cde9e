"""From a sample to a proposed contract, which the sample's own records then have to pass."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import msgspec
from duckdb.sqltypes import DuckDBPyType

from flows.sql.storage import COLUMN_NAME
from flows.sql.tree import quoted
from flows.types import TypeRefused, storage_type
from infra.infer.proposal import Guess, Proposal
from infra.infer.sample import NothingToInfer, Sample
from infra.infer.texts import WIDE, Texts
from infra.infer.verify import verify

_TEXTUAL = ("varchar", "date", "timestamp", "timestamp with time zone", "time", "uuid", "timestamp_ns")
_EXACT = ("boolean", "bigint", "double", "hugeint", "ubigint")
_KEY_TRIES = 12


def propose(sample: Sample, name: str, topic: str, origin: str) -> Proposal:
    """Propose a source for a sample of records."""
    scope = f"{len(sample.values):,} records" if sample.whole else f"the first {len(sample.values):,} records"
    proposal = Proposal(name, topic, sample.format, f"{scope} of {origin}", {}, sample.dialect)
    if sample.broken:
        proposal.remarks.append(f"{sample.broken:,} records could not be read: they will be rejects with the code unreadable_row")
    if sample.format == "json":
        sample = _decodable(sample, proposal)
    if sample.format == "text":
        proposal.columns["line"] = Guess("varchar", True, "the whole value")
    else:
        _columns(sample, proposal)
    verify(sample, proposal)
    _event_time(proposal)  # only now: a column that refused records may be none of a time any more
    return proposal


def _decodable(sample: Sample, proposal: Proposal) -> Sample:
    """Without the values that are no JSON objects, which are remarked. Raises NothingToInfer when none is left."""
    values = [value for value in sample.values if _is_object(value)]
    if not values:
        raise NothingToInfer(f"nothing in {proposal.origin} is a JSON object", next_step="name a file or a topic with JSON objects")
    if left_out := len(sample.values) - len(values):
        proposal.remarks.append(f"{left_out:,} records are no JSON objects, or name a field twice: they will be rejects")
    return replace(sample, values=values)


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(value), dict) and json.loads(value, object_pairs_hook=_unique, parse_int=str) is not None
    except (ValueError, RecursionError):  # also msgspec's and UnicodeDecodeError
        return False


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    """Raises ValueError for a field that is named twice: msgspec takes the last one without a word, and DuckDB refuses it."""
    if len(found := dict(members)) < len(members):
        raise ValueError("a field is named twice")
    return found


def _columns(sample: Sample, proposal: Proposal) -> None:
    with tempfile.TemporaryDirectory(prefix="kappa-infer-") as folder, duckdb.connect(config={"threads": 2}) as connection:
        file = Path(folder) / "sample.ndjson"
        file.write_bytes(b"\n".join(value.replace(b"\n", b" ") for value in sample.values) + b"\n")
        connection.execute("SET TimeZone = 'UTC'")
        found = _detected(connection, file, sample.format == "csv")
        names = _names(list(found), proposal)
        if not names:
            raise NothingToInfer(
                f"no field in {proposal.origin} has a name that a column can have",
                cause=f"there are: {', '.join(proposal.left_out)}",
                next_step="name them with letters, digits and _, or describe the file in sources/ by hand",
            )
        columns = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names)
        read = f"read_ndjson({_literal(str(file))}, columns = {{{columns}}}, maximum_object_size = 33554432)"
        connection.execute(f"CREATE TABLE texts AS FROM {read}")
        texts = Texts(connection, "texts")
        if sample.format == "csv":
            nulls = texts.null_texts(names)
            proposal.dialect = proposal.dialect.model_copy(update={"null": nulls})
            proposal.columns = {name: texts.guess(name, nulls, numbers=True) for name in names}
        elif sample.types:
            proposal.columns = {
                name: Guess(_given_type(sample.types[name]), texts.guess(name, (), numbers=False).not_null) for name in names
            }
        else:
            proposal.columns = {name: _json_guess(texts, name, found[name]) for name in names}
        _key(texts, proposal)


def _event_time(proposal: Proposal) -> None:
    times = [name for kind in ("timestamptz", "timestamp", "date") for name, guess in proposal.columns.items() if guess.type == kind]
    proposal.event_time = times[0] if times else None


def _detected(connection: duckdb.DuckDBPyConnection, file: Path, texts: bool) -> dict[str, DuckDBPyType]:
    """Field -> the type that DuckDB sniffs from all records; nothing is read yet."""
    options = "sample_size = -1, maximum_object_size = 33554432, map_inference_threshold = -1"
    if texts:
        options += ", maximum_depth = 1"
    relation = connection.sql(f"FROM read_ndjson({_literal(str(file))}, {options})")
    keys = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(json)) FROM read_ndjson_objects({_literal(str(file))}, maximum_object_size = 33554432)"
    )
    fields = {key for (key,) in keys.fetchall()}
    # Of names that differ only in case DuckDB renames the later ones: ID becomes ID_1.
    names = [name if name in fields else re.sub(r"_[0-9]+$", "", name) for name in relation.columns]
    return dict(zip(names, relation.types, strict=True))


def _names(fields: list[str], proposal: Proposal) -> list[str]:
    """The fields that can be columns; the others are noted."""
    names: dict[str, str] = {}
    for field in fields:
        if not COLUMN_NAME.match(field):
            proposal.left_out[field] = "the name cannot be a column's; the values are kept in _extra"
        elif field.lower() in names:
            proposal.left_out[field] = f"differs only in case from {names[field.lower()]}; the values are kept in _extra"
        else:
            names[field.lower()] = field
    return list(names.values())


def _json_guess(texts: Texts, name: str, sniffed: DuckDBPyType) -> Guess:
    """A column of JSON whose members' types DuckDB sniffed; times are texts there."""
    guess = texts.guess(name, (), numbers=False)
    kind = _json_type(sniffed)
    if kind == "double" and (wide := texts.guess(name, (), numbers=True)).type == WIDE:
        return wide
    if kind == "varchar":
        return guess
    if kind == "json" and guess.note == "always null":
        return Guess("json", False, guess.note)
    return Guess(kind, guess.not_null, "a guess: decimal(p,s) keeps all digits of amounts" if kind == "double" else "")


def _json_type(kind: DuckDBPyType) -> str:
    """The contract's type for what DuckDB sniffed in JSON."""
    name = str(kind).lower()
    if name in _TEXTUAL:
        return "varchar"
    return name if name in _EXACT else _nested(kind, _json_type)


def _given_type(kind: DuckDBPyType) -> str:
    """The contract's type for a type that the file itself names."""
    if kind.id in ("list", "struct"):
        return _nested(kind, _given_type)
    name = str(kind).lower()
    try:
        storage_type(kind)
    except TypeRefused:
        return "timestamp" if name.startswith("timestamp_") else "varchar" if name in _TEXTUAL or kind.id == "enum" else "json"
    return "timestamptz" if name == "timestamp with time zone" else name


def _nested(kind: DuckDBPyType, inner: Callable[[DuckDBPyType], str]) -> str:
    if kind.id not in ("list", "struct"):
        return "json"
    members = [(member, inner(child)) for member, child in kind.children if isinstance(child, DuckDBPyType)]
    if kind.id == "list":
        return f"{members[0][1]}[]"
    return f"struct({', '.join(f'{quoted(member)} {child}' for member, child in members)})"


def _key(texts: Texts, proposal: Proposal) -> None:
    """A single column without nulls that no two rows share; named ones first."""
    fit = [name for name, guess in proposal.columns.items() if guess.not_null and guess.type in ("integer", "bigint", "varchar")]
    fit.sort(key=lambda name: not name.lower().endswith(("id", "key", "code", "number", "no")))
    unique = [name for name in fit[:_KEY_TRIES] if texts.unique([name])]
    if unique:
        proposal.key = (unique[0],)
        others = f"; so are {', '.join(unique[1:])}" if unique[1:] else ""
        proposal.key_note = f"a guess: unique and never null here{others}"
    else:
        proposal.key_note = "no single column is unique and never null: name the columns that together identify a row"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
