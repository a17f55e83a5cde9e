"""SQL that makes texts of values which Arrow or Python cannot hold, at any depth of a column."""

from __future__ import annotations

from duckdb.sqltypes import DuckDBPyType

_TEXT = "{}::VARCHAR"
# ISO 8601; what has no such form (infinity, years before Christ) stays as DuckDB writes it
_TIMESTAMP = r"regexp_replace({}::VARCHAR, '^(\d+-\d\d-\d\d) ([\d:.]+)$', '\1T\2')"
_TIMESTAMPTZ = r"regexp_replace({}::VARCHAR, '^(\d+-\d\d-\d\d) ([\d:.]+)\+00$', '\1T\2Z')"
_LEAVES = {
    **dict.fromkeys(("date", "time", "time_ns", "time with time zone", "interval"), _TEXT),
    **dict.fromkeys(("bit", "uhugeint", "bignum", "union", "variant"), _TEXT),
    **dict.fromkeys(("timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"), _TIMESTAMP),
    "timestamp with time zone": _TIMESTAMPTZ,
}


def children(kind: DuckDBPyType) -> list[tuple[str, DuckDBPyType]]:
    """The types that a nested type consists of, by name; none for any other. Without the size of an array, which DuckDB lists too."""
    if kind.id not in ("list", "array", "map", "struct", "union"):
        return []
    return [(name, child) for name, child in kind.children if isinstance(child, DuckDBPyType)]


def with_texts(value: str, kind: DuckDBPyType, depth: int = 0) -> str:
    """``value``, an SQL expression of type ``kind``, with texts in place of such parts; ``value`` itself when it has none."""
    if kind.id in _LEAVES:
        return _LEAVES[kind.id].format(value)
    if kind.id in ("list", "array"):
        return _each(value, children(kind)[0][1], depth)
    if kind.id == "map":
        return _map(value, kind, depth)
    if kind.id == "struct":
        return _struct(value, kind, depth)
    return value


def _each(value: str, kind: DuckDBPyType, depth: int) -> str:
    item = f"v{depth}"
    inner = with_texts(item, kind, depth + 1)
    return value if inner == item else f"list_transform({value}, lambda {item}: {inner})"


def _map(value: str, kind: DuckDBPyType, depth: int) -> str:
    (_, keys), (_, values) = children(kind)
    key, item = _each(f"map_keys({value})", keys, depth), _each(f"map_values({value})", values, depth)
    return value if (key, item) == (f"map_keys({value})", f"map_values({value})") else f"map({key}, {item})"


def _struct(value: str, kind: DuckDBPyType, depth: int) -> str:
    members = children(kind)
    if not all(name for name, _ in members):  # row(1, 2): no object without names
        return _TEXT.format(value)
    parts = [f"struct_extract({value}, '{name.replace(chr(39), chr(39) * 2)}')" for name, _ in members]
    texts = [with_texts(part, child, depth) for part, (_, child) in zip(parts, members, strict=True)]
    if texts == parts:
        return value
    names = ['"' + name.replace('"', '""') + '"' for name, _ in members]
    packed = ", ".join(f"{name} := {text}" for name, text in zip(names, texts, strict=True))
    return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({packed}) END"
