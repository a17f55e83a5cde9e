"""Every row that the log has given for one key of an upsert table: the one that stands, those that it outranks, and deletes.

The rows of the upstream go through the same code as in a run, so that the records that a run rejects are rejected here, and rows of one
record have the same numbers. Where the key's columns are the upstream's, only the rows of the key are read; else all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa

from flows.batch import RECORDS, Batch, fitted
from flows.conform import Conform
from flows.contract import Source
from flows.database import Database
from flows.plan import Node
from flows.sql.rewrite import ROW
from flows.sql.tree import quoted
from flows.stage.deletes import KeyReader, deletes
from flows.upsert import DELETED, tombstones
from infra.run.eras import Eras
from infra.trace.keys import condition
from infra.trace.tables import Tables


class History:
    """Of one upsert table."""

    def __init__(self, node: Node, source: Source, eras: Eras, tables: Tables) -> None:
        assert node.upsert is not None
        self._node = node
        self._upsert = node.upsert
        self._source = source
        self._eras = eras
        self._tables = tables
        self._database = Database()

    def of(self, key: Mapping[str, str | None]) -> pa.Table:
        """The rows of a key as the table would store them, the latest first. ``key``: its columns as texts. Raises QueryFailed."""
        where = condition(list(key.items()), self._tables.types(self._node.name))
        cursor = self._database.cursor()
        found = [self._node.schema.empty_table()]
        for rows in chain(self._made(key), self._deletes()):
            found.append(cursor.query(f"SELECT * FROM given WHERE {where}", given=rows).cast(self._node.schema))
        return cursor.query(self._ordered_sql(), given=pa.concat_tables(found))

    def _ordered_sql(self) -> str:
        """A delete without a sequence has that of the greatest row before it in its partition (sinks.deletes); all rows are of one key."""
        order = ", ".join(f"{quoted(name)} DESC NULLS LAST" for name in self._upsert.order(self._node.has_row))
        open_sequence = self._upsert.open_sequence
        if open_sequence is None:
            return f"SELECT * FROM given ORDER BY {order}"
        name = quoted(open_sequence)
        before = f"max({name}) OVER (PARTITION BY _partition ORDER BY _offset ROWS UNBOUNDED PRECEDING)"
        filled = f"CASE WHEN {DELETED} AND {name} IS NULL THEN {before} ELSE {name} END AS {name}"
        return f"SELECT * FROM (SELECT * REPLACE ({filled}) FROM given) ORDER BY {order}"

    def _made(self, key: Mapping[str, str | None]) -> Iterator[pa.Table]:
        conforms: dict[str, Conform] = {}
        try:
            for rows in _by_record(self._tables.batches(self._upstream_sql(key))):
                for part in self._stretches(rows):
                    node = self._node_at(part)
                    if node.sql not in conforms:
                        conforms[node.sql] = Conform(node, self._database)
                    conform = conforms[node.sql]
                    given = part.select(self._node.upstream_schema.names).cast(self._node.upstream_schema)
                    yield fitted(conform.conform(given, self._batch(part)).rows, self._node.schema)
        finally:
            for conform in conforms.values():
                conform.close()

    def _stretches(self, rows: pa.Table) -> Iterator[pa.Table]:
        """``rows`` of one partition, cut where a change was applied forward only."""
        offsets = rows.column("_offset").to_numpy()
        cuts = np.searchsorted(offsets, self._eras.edges(rows.column("_partition")[0].as_py())).tolist()
        for start, end in pairwise(sorted({0, *cuts, rows.num_rows})):
            yield rows.slice(start, end - start)

    def _node_at(self, rows: pa.Table) -> Node:
        makers = self._eras.at(rows.column("_partition")[0].as_py(), rows.column("_offset")[0].as_py())
        return next(node for node in makers.nodes if node.name == self._node.name)

    def _upstream_sql(self, key: Mapping[str, str | None]) -> str:
        node, picks = self._node, self._node.picks or {}
        types = self._tables.types(node.upstream)
        place = ["_partition", "_offset", *([ROW] if ROW in types else [])]
        where = ""
        if all(name in picks for name in key):
            where = " WHERE " + condition([(picks[name], text) for name, text in key.items()], types)
        return f"SELECT * FROM {node.upstream}{where} ORDER BY {', '.join(place)}"

    def _deletes(self) -> Iterator[pa.Table]:
        """Records without a value, as tombstones; they are nowhere but in the raw table."""
        raw, refused = f"raw.{self._source.name}", f"staging.{self._source.name}__rejected"
        if not self._upsert.delete_key or raw not in self._tables.names:
            return
        same = "r._partition = n._partition AND r._offset = n._offset"
        accepted = f" AND NOT EXISTS (SELECT 1 FROM {refused} AS r WHERE {same})" if refused in self._tables.names else ""
        sql = f"SELECT * FROM {raw} AS n WHERE value IS NULL{accepted} ORDER BY _partition, _offset"
        reader = KeyReader(self._source)
        for rows in _by_record(self._tables.batches(sql)):
            keys = reader.read(rows.column("key").combine_chunks())
            yield tombstones(self._node.schema, self._upsert, deletes(keys.rows, keys.indices, self._batch(rows)))

    def _batch(self, rows: pa.Table) -> Batch:
        """The records of ``rows``, of which nothing but places and times is needed here."""
        firsts = np.unique(rows.column("_offset").to_numpy(), return_index=True)[1]
        chosen = rows.take(pa.array(firsts))
        columns = [
            chosen.column(field.name).combine_chunks().cast(field.type)
            if field.name in ("_offset", "_timestamp")
            else pa.nulls(len(firsts), field.type)
            for field in RECORDS
        ]
        records = pa.RecordBatch.from_arrays(columns, schema=RECORDS)
        partition, offsets = chosen.column("_partition")[0].as_py(), records.column(0)
        return Batch(self._source.topic, partition, offsets[0].as_py(), offsets[-1].as_py() + 1, records)


def _by_record(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows in the order of their places, in pieces of one partition that never cut a record in two."""
    held: pa.Table | None = None
    for batch in batches:
        rows = pa.Table.from_batches([batch])
        rows = rows if held is None else pa.concat_tables([held, rows])
        partitions, offsets = rows.column("_partition").to_numpy(), rows.column("_offset").to_numpy()
        edges = (np.flatnonzero(np.diff(partitions)) + 1).tolist()
        last = int(np.flatnonzero((partitions == partitions[-1]) & (offsets == offsets[-1]))[0])
        for start, end in pairwise(sorted({0, *edges, last})):
            yield rows.slice(start, end - start)
        held = rows.slice(last)
    if held is not None:
        yield held
