"""The live tables with all of their columns, system columns and tombstones included, at one cut."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any

import pyarrow as pa

from sinks.engine import Engine, Pinned
from sinks.result import Result
from sinks.snapshot import take_snapshot


class Tables:
    """DuckDB over one cut. ``names``: the stored tables."""

    def __init__(self, root: str) -> None:
        self.snapshot = take_snapshot(root)
        pins = [
            Pinned(name, self.snapshot.address(name).uri, version, hidden=False) for name, version in self.snapshot.cut.versions.items()
        ]
        self.names = frozenset(self.snapshot.tables)
        self._engine = Engine(pins, {}, lost=self.snapshot.lost)

    @property
    def warnings(self) -> list[str]:
        """The tables asked so far that are not at the cut of their source, and why: what is said of them may not agree with the others."""
        return [str(left) for left in self.snapshot.cut.left_out if left.table in self._engine.made]

    def ask(self, sql: str) -> list[dict[str, Any]]:
        """Rows. Raises QueryFailed, and why a table is lost."""
        rows: list[dict[str, Any]] = Result(self._engine.relation(sql)).arrow().to_pylist()
        return rows

    def number(self, sql: str) -> int:
        """The one number that ``sql`` gives. Raises as ``ask``."""
        ((value,),) = (row.values() for row in self.ask(sql))
        return int(value)

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Rows, streamed. Raises as ``ask``."""
        yield from Result(self._engine.relation(sql))

    def types(self, table: str) -> dict[str, str]:
        """All columns, with DuckDB's names of their types. Raises as ``ask``."""
        relation = self._engine.relation(f"FROM {table}")
        return dict(zip(relation.columns, map(str, relation.types), strict=True))

    def topic_id(self, table: str, topic: str) -> str:
        """The id of the topic that a table was read from; empty when nothing says so."""
        record = self.snapshot.record(table) if table in self.names else None
        return record.log.topics.get(topic, "") if record is not None else ""

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._engine.close()
