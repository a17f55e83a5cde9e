"""Random events for the tables of ``tests.warehouse.write_folder``, and the check that the tables are what DuckDB makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import strategies as st

At = tuple[int, int]


@dataclass(frozen=True)
class Value:
    """The bytes of a value, and the typed row that it must become; None when it must be rejected."""

    data: bytes | None
    row: dict[str, Any] | None


@st.composite
def good(draw: st.DrawFn) -> Value:
    row = {
        "id": draw(st.integers(-(2**63), 2**63 - 1)),
        "kind": draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)),
        "amount": draw(st.none() | st.decimals(Decimal(-999999), Decimal(999999), places=2)),
        "tags": draw(st.none() | st.lists(st.text("abc", max_size=2), max_size=3)),
    }
    members = [f'"{name}": {value}' if isinstance(value, Decimal) else f'"{name}": {json.dumps(value)}' for name, value in row.items()]
    return Value(("{" + ", ".join(draw(st.permutations(members))) + "}").encode(), row)


BAD = st.sampled_from(
    [
        None,
        b"",
        b"   ",
        b"null",
        b"[1]",
        b'{"id": 1',
        b'{"id": 1} {"id": 2}',
        b'{"id": 1,}',
        b'{"id": "1"}',
        b'{"id": 1.5}',
        b'{"id": null}',
        b'{"kind": "x"}',
        b'{"id": 1, "id": 2}',
        b'{"id": 9223372036854775808}',
        b'{"id": 1, "kind": "\xff"}',
        b'{"id": 1, "amount": NaN}',
        b'{"id": 1, "amount": 2000000}',
        b'{"id": 1, "tags": [1]}',
        b'{"id": true}',
    ]
).map(lambda data: Value(data, None))


def check_tables(read: Callable[[str], pa.Table], log: Sequence[tuple[At, Value]]) -> None:
    """``read`` gives a table by its name; ``log``: (partition, offset) and value of every committed record."""

    def rows(table: str) -> list[dict[str, Any]]:
        return sorted(read(table).to_pylist(), key=lambda row: (*at(row), row.get("_row") or 0))

    everything = sorted(position for position, _ in log)
    assert [at(row) for row in rows("raw.events")] == everything
    staged = rows("staging.events")
    typed = [(at(row), {name: row[name] for name in ("id", "kind", "amount", "tags")}) for row in staged]
    assert typed == sorted(((position, value.row) for position, value in log if value.row is not None), key=lambda pair: pair[0])
    assert sorted([at(row) for row in rows("staging.events__rejected")] + [at(row) for row in staged]) == everything
    table = read("staging.events")
    events = oracle("SELECT _partition, _offset, id, upper(kind), amount * 2 FROM staged WHERE id % 5 <> 0 ORDER BY 1, 2", table)
    assert [(*at(row), row["id"], row["kind"], row["twice"]) for row in rows("core.event")] == events
    tags = oracle(
        "SELECT _partition, _offset, id, tag"
        " FROM (SELECT *, unnest(tags) AS tag, generate_subscripts(tags, 1) AS n FROM staged) ORDER BY 1, 2, n",
        table,
    )
    assert [(*at(row), row["id"], row["tag"]) for row in rows("core.tag")] == tags
    slots = oracle(
        "SELECT _partition, _offset, id % 20 AS slot, kind, if(id % 13 = 0, NULL, id) FROM staged WHERE kind IS NOT NULL"
        " QUALIFY row_number() OVER (PARTITION BY id % 20, kind ORDER BY amount DESC NULLS LAST, _partition DESC, _offset DESC) = 1"
        " ORDER BY 1, 2",
        table,
    )
    assert [(*at(row), row["slot"], row["kind"], row["id"]) for row in rows("core.slot")] == slots
    keyless = [at(row) for row in rows("core.slot__rejected") if row["code"] == "null_key"]
    assert keyless == [at(row) for row in staged if row["kind"] is None]


def at(row: dict[str, Any]) -> At:
    return row["_partition"], row["_offset"]


def oracle(query: str, staged: pa.Table) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("staged", staged)
        return connection.execute(query).fetchall()
