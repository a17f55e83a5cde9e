"""A batch of records -> typed, validated rows and rejects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import Batch, Staged
from flows.contract import Source
from flows.database import Database
from flows.stage.buffers import Mask, invalid_utf8
from flows.stage.codes import Code
from flows.stage.decoder import Decoded, Decoder
from flows.stage.refusal import Refused, rejected, shown
from flows.stage.rules import Rules

_BROKEN = "kappa-broken"


class Stage:
    """What a contract makes of its topic. One stage serves one thread, which is that of its ``database``.

    ``fast = False`` decodes record by record: the oracle of the tests.
    """

    def __init__(self, source: Source, database: Database | None = None, *, fast: bool = True) -> None:
        self._source = source
        self._decoder = Decoder(source, fast=fast) if source.format != "text" else None
        self._rules = Rules(source, database or Database())
        if source.format == "text" and [field.type for field in source.contract_schema] != [pa.string()]:
            raise ValueError(f"source {source.name}: format text needs exactly one varchar column")

    @property
    def tolerant_records(self) -> int:
        """How many records were decoded one by one since the start."""
        return self._decoder.tolerant_records if self._decoder else 0

    def stage(self, batch: Batch) -> Staged:
        """Every offset of the batch ends in exactly one of rows, rejects and filtered. Raises RuleFailed."""
        refused, filtered = self._screen(batch.records)
        left_out = np.zeros(batch.records.num_rows, np.bool_)
        left_out[list(refused)] = True
        left_out[filtered] = True
        decoded = self._decode(batch.records.column("value"), left_out)
        refused |= decoded.refused
        rows = self._system(decoded, batch)
        judged = self._rules.judge(rows, batch.topic, batch.partition)
        if judged.refused:
            refused |= {int(decoded.indices[row]): refusal for row, refusal in judged.refused.items()}
            stays = np.ones(rows.num_rows, np.bool_)
            stays[list(judged.refused)] = False
            rows = rows.filter(pa.array(stays))
        order = sorted(refused)
        rejects = rejected(batch, order, [refused[index] for index in order])
        offsets = batch.records.column("_offset")
        return Staged(rows, rejects, offsets.take(pa.array(filtered, pa.int64())), judged.warned)

    def _screen(self, records: pa.RecordBatch) -> tuple[dict[int, Refused], list[int]]:
        """What is decided without parsing: index -> refusal, and the indices that the null policy filters."""
        values = records.column("value")
        refused = _broken(records.column("headers"))
        filtered: list[int] = []
        if values.null_count:
            nulls = [index for index in np.flatnonzero(np.asarray(values.is_null())).tolist() if index not in refused]
            if self._source.null_values == "delete":
                filtered = nulls
            else:
                refused |= {index: Refused(Code.NULL_VALUE, "the record has no value") for index in nulls}
        limit = self._source.max_record_bytes
        lengths = pc.binary_length(values)
        if (pc.max(lengths).as_py() or 0) > limit:
            for index in np.flatnonzero(np.asarray(pc.greater(lengths, limit).fill_null(False))).tolist():
                reason = f"{lengths[index].as_py()} bytes are more than max_record_bytes = {limit}"
                refused.setdefault(index, Refused(Code.TOO_LARGE, reason))
        for index in np.flatnonzero(invalid_utf8(values)).tolist():
            refused.setdefault(index, Refused(Code.INVALID_UTF8, _where_not_utf8(values[index].as_py())))
        return refused, filtered

    def _decode(self, values: pa.Array, left_out: Mask) -> Decoded:
        indices = np.flatnonzero(~left_out)
        if left_out.any():
            values = values.filter(pa.array(~left_out))
        if self._decoder is None:
            table = pa.Table.from_arrays([values.cast(pa.string())], schema=self._source.contract_schema)
            return Decoded(table, indices, {})
        decoded = self._decoder.decode(values)
        refused = {int(indices[index]): refusal for index, refusal in decoded.refused.items()}
        return Decoded(decoded.rows, indices[decoded.indices], refused)

    def _system(self, decoded: Decoded, batch: Batch) -> pa.Table:
        """The rows with the system columns: the schema of staging.<source>."""
        records, indices = batch.records, decoded.indices
        system = [records.column("_offset"), records.column("_timestamp")]
        if len(indices) < records.num_rows:
            system = [column.take(pa.array(indices)) for column in system]
        partition = pa.array(np.full(len(indices), batch.partition, np.int32))
        return pa.Table.from_arrays([*decoded.rows.columns, partition, *system], schema=self._source.staging_schema)


def _broken(headers: pa.Array) -> dict[int, Refused]:
    """Rows that ``load`` could not read: their headers name the cause, the line, the file and the load."""
    names = headers.flatten().field(0)
    if not len(names) or not pc.any(pc.equal(names, _BROKEN)).as_py():
        return {}
    refused = {}
    parents = pc.list_parent_indices(headers).filter(pc.equal(names, _BROKEN).fill_null(False))
    for index in pc.unique(parents).to_pylist():
        found = {header["name"]: (header["value"] or b"").decode("utf-8", "replace") for header in headers[index].as_py()}
        where = "".join(f", {what} {found[f'kappa-{what}']}" for what in ("line", "file", "load") if f"kappa-{what}" in found)
        refused[index] = Refused(Code.UNREADABLE_ROW, f"{found[_BROKEN]}{where}")
    return refused


def _where_not_utf8(value: bytes) -> str:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"{error.reason} at byte {error.start}: {shown(value[error.start : error.start + 8].hex())}"
    raise AssertionError("valid after all")
