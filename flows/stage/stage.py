"""A batch of records -> typed, validated rows and rejects."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.batch import Batch, Staged
from flows.contract import CORRECTS, Source
from flows.database import Database
from flows.stage.buffers import Mask, invalid_utf8
from flows.stage.codes import Code
from flows.stage.corrections import Corrections, Settled, Stored
from flows.stage.decoder import Decoded, Decoder
from flows.stage.deletes import KeyReader, deletes
from flows.stage.marks import Marked
from flows.stage.refusal import Refused, rejected, shown
from flows.stage.rules import Rules


class Stage:
    """What a contract makes of its topic. One stage serves one thread, which is that of its ``database``.

    ``fast = False`` decodes record by record: the oracle of the tests.
    """

    def __init__(self, source: Source, database: Database | None = None, *, fast: bool = True, stored: Stored | None = None) -> None:
        """``stored``: what the tables hold of the records before the first batch; asked for corrections of these only."""
        self._source = source
        self._corrections = Corrections(source.name, stored) if source.corrections else None
        self._decoder = Decoder(source, fast=fast) if source.format != "text" else None
        self._keys = KeyReader(source) if source.null_values == "delete" and source.key else None
        self._rules = Rules(source, database or Database())
        if source.format == "text" and [field.type for field in source.contract_schema] != [pa.string()]:
            raise ValueError(f"source {source.name}: format text needs exactly one varchar column")

    @property
    def tolerant_records(self) -> int:
        """How many records were decoded one by one since the start."""
        return self._decoder.tolerant_records if self._decoder else 0

    def stage(self, batch: Batch) -> Staged:
        """Every offset of the batch ends in exactly one of rows, rejects and filtered.

        With corrections, the batches of a partition come in the log's order. Raises RuleFailed, RejectsUnknown.
        """
        marked = Marked(batch.records.column("headers"))
        refused, filtered = self._screen(batch.records, marked)
        keys = self._read_keys(batch.records, refused, filtered)
        left_out = np.zeros(batch.records.num_rows, np.bool_)
        left_out[list(refused)] = True
        left_out[filtered] = True
        decoded = self._decode(batch.records.column("value"), left_out)
        refused |= decoded.refused
        rows = self._system(decoded, batch)
        judged = self._rules.judge(rows)
        refused |= {int(decoded.indices[row]): refusal for row, refusal in judged.refused.items()}
        corrects = self._settle(batch, marked, refused, filtered)
        left_out[list(refused)] = True
        stays = ~left_out[decoded.indices]
        warned = self._rules.warn(judged, stays, batch, rows.column("_offset"))
        if corrects:
            column = pa.array([corrects.get(index) for index in decoded.indices.tolist()], CORRECTS.type)
            rows = rows.set_column(rows.schema.get_field_index(CORRECTS.name), CORRECTS, column)
        if not stays.all():
            rows = rows.filter(pa.array(stays))
        order = sorted(refused)
        rejects = rejected(batch, order, [refused[index] for index in order])
        offsets = batch.records.column("_offset")
        return Staged(rows, rejects, offsets.take(pa.array(filtered, pa.int64())), warned, _deletes(keys, filtered, batch))

    def _read_keys(self, records: pa.RecordBatch, refused: dict[int, Refused], filtered: list[int]) -> Decoded | None:
        """The keys of ``filtered``, which has the records without a value; those without a key that can be read go to ``refused``."""
        if self._keys is None or not filtered:
            return None
        indices = np.array(filtered, np.int64)
        keys = self._keys.read(records.column("key").take(pa.array(indices)))
        refused |= {filtered[index]: refusal for index, refusal in keys.refused.items()}
        keys.indices = indices[keys.indices]
        filtered[:] = keys.indices.tolist()
        return keys

    def _settle(self, batch: Batch, marked: Marked, refused: dict[int, Refused], filtered: list[int]) -> dict[int, int]:
        """Judge the corrections: those that are superseded go to ``refused``. Returns index -> what a correction that counts stands for."""
        found = marked.corrections()
        if self._corrections is None:
            reason = f"source {self._source.name} takes no corrections: corrections = true is not set"
            refused |= dict.fromkeys(found, Refused(Code.SUPERSEDED, reason))
            settled = Settled()
        else:
            named = {index: values for index, values in found.items() if index not in filtered}
            settled = self._corrections.settle(batch, named, refused)
            refused |= dict.fromkeys(found.keys() - named, Refused(Code.SUPERSEDED, "a correction has a value, and this record has none"))
        refused |= settled.superseded
        filtered[:] = [index for index in filtered if index not in found]
        return settled.corrects

    def _screen(self, records: pa.RecordBatch, marked: Marked) -> tuple[dict[int, Refused], list[int]]:
        """What is decided without parsing: index -> refusal, and the indices that the null policy filters."""
        values = records.column("value")
        refused = marked.broken()
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
        corrects = [pa.nulls(len(indices), CORRECTS.type)] if self._source.corrections else []
        return pa.Table.from_arrays([*decoded.rows.columns, *corrects, partition, *system], schema=self._source.staging_schema)


def _deletes(keys: Decoded | None, filtered: list[int], batch: Batch) -> pa.Table | None:
    """The keys of the records that are filtered still: a correction without a value is refused after its key was read."""
    if keys is None or not filtered:
        return None
    stays = np.isin(keys.indices, filtered)
    return deletes(keys.rows.filter(pa.array(stays)), keys.indices[stays], batch)


def _where_not_utf8(value: bytes) -> str:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return f"{error.reason} at byte {error.start}: {shown(value[error.start : error.start + 8].hex())}"
    raise AssertionError("valid after all")
