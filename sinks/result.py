"""The answer to a query: lazy until one of its forms is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import duckdb
import pyarrow as pa

from sinks.engine import QueryFailed, message
from sinks.texts import with_texts

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]
    import polars as pl

BATCH_ROWS = 50_000
_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT"}
_PLAIN = {*_INTEGERS, "BOOLEAN", "FLOAT", "DOUBLE", "DECIMAL"}
T = TypeVar("T")


class Result:
    """One query's answer. Each form runs the query anew; iterating streams it. All raise QueryFailed when the query fails on the way."""

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self.relation = relation

    @property
    def columns(self) -> list[str]:
        """The columns' names as the query gives them: they may repeat."""
        return list(self.relation.columns)

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the batches."""
        return self._run(lambda: self.relation.limit(0).to_arrow_table()).schema

    def arrow(self) -> pa.Table:
        """All rows as an Arrow table."""
        return self._run(self.relation.to_arrow_table)

    def pandas(self) -> pd.DataFrame:
        """All rows as a pandas data frame; pandas must be installed.

        numpy has no 128-bit numbers: decimals and HUGEINT (such as the sum of a BIGINT) become float64, exact up to 2**53. All digits:
        ``arrow().to_pandas(types_mapper=pandas.ArrowDtype)``, or a CAST to BIGINT.
        """
        return self._run(self.relation.df)

    def polars(self) -> pl.DataFrame:
        """All rows as a polars data frame; polars must be installed."""
        return self._run(self.relation.pl)

    def flat(self) -> Result:
        """The same answer with numbers and booleans as they are, and every other column as DuckDB's text of it: for CSV."""
        kept = [str(kind).partition("(")[0] in _PLAIN for kind in self.relation.types]
        return self._projected([f"#{n}" if keep else f"#{n}::VARCHAR" for n, keep in enumerate(kept, 1)])

    def readable(self) -> Result:
        """The same answer with texts for what Python's values cannot hold: times of any year, intervals, bits and such: for JSON."""
        return self._projected([with_texts(f"#{n}", kind) for n, kind in enumerate(self.relation.types, 1)])

    def _projected(self, values: list[str]) -> Result:
        """The columns computed by ``values``, under their names."""
        if values == [f"#{n}" for n in range(1, len(values) + 1)]:
            return self
        names = [f'"{name.replace(chr(34), chr(34) * 2)}"' for name in self.columns]
        return Result(self.relation.project(", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))))

    def show(self, max_width: int, max_rows: int) -> None:
        """Print DuckDB's box with the columns' types."""
        self._run(lambda: self.relation.show(max_width=max_width, max_rows=max_rows))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Record batches of up to BATCH_ROWS rows, streamed."""
        reader = self._run(lambda: self.relation.to_arrow_reader(BATCH_ROWS))
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                return
            except (duckdb.Error, OSError) as error:  # Arrow's reader passes DuckDB's errors on as OSError
                raise QueryFailed("the query failed", cause=message(error)) from None
            yield batch

    def _run(self, form: Callable[[], T]) -> T:
        try:
            return form()
        except duckdb.Error as error:
            raise QueryFailed("the query failed", cause=message(error)) from None
