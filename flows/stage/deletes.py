"""Records without a value, each of which deletes the row of its Kafka key: the key, read as the columns of the source's key."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.batch import SYSTEM, Batch
from flows.contract import Column, Source
from flows.stage import columns
from flows.stage.buffers import invalid_utf8
from flows.stage.codes import Code
from flows.stage.columns import Doubt
from flows.stage.decoder import Decoded, Decoder
from flows.stage.grammar import parse_text
from flows.stage.kinds import Scalar, kind_of
from flows.stage.refusal import Refused


class KeyReader:
    """Reads Kafka keys. ``key_format = "json"``: an object as ``load`` writes it, whose members are read as those of the record's value
    would be, others ignored; ``"text"``: the text of a key of one column, by the grammar of its type.
    """

    def __init__(self, source: Source) -> None:
        key = {name: Column(text=source.columns[name].text, not_null=True) for name in source.key}
        written = "json" if source.format == "json" else "csv"
        self._contract = Source(name=source.name, topic=source.topic, format=written, columns=key, key=source.key, extra="ignore")
        self._text = source.key_format == "text"
        self._decoder = Decoder(self._contract)

    def read(self, keys: pa.Array) -> Decoded:
        """``keys``: binary. ``rows``: the columns of the source's key."""
        refused = {
            index: Refused(Code.NULL_KEY, "the record has neither a value nor a key, so nothing says what it deletes")
            for index in np.flatnonzero(np.asarray(keys.is_null())).tolist()
        }
        for index in np.flatnonzero(invalid_utf8(keys)).tolist():
            refused[index] = Refused(Code.INVALID_UTF8, "the record's key is not UTF-8")
        indices = np.array([index for index in range(len(keys)) if index not in refused], np.int64)
        given = keys.take(pa.array(indices))
        decoded = self._texts(given) if self._text else self._decoder.decode(given)
        refused |= {
            int(indices[index]): Refused(wrong.code, f"the record's key: {wrong.reason}", wrong.column)
            for index, wrong in decoded.refused.items()
        }
        return replace(decoded, indices=indices[decoded.indices], refused=refused)

    def _texts(self, keys: pa.Array) -> Decoded:
        """Keys that are texts: all at once, or one by one where one of them is in doubt."""
        ((name, column),) = self._contract.columns.items()
        kind, texts = kind_of(column), keys.cast(pa.string())
        assert isinstance(kind, Scalar), "check refuses a key that is no scalar"
        try:
            values, doubtful = columns.from_text(kind, texts)
        except Doubt:
            doubtful = np.ones(len(keys), np.bool_)
        indices, refused = np.arange(len(keys)), {}
        if doubtful is not None and doubtful.any():
            parsed = {}
            for index, text in enumerate(texts.to_pylist()):
                try:
                    parsed[index] = parse_text(kind, text)
                except Refused as wrong:
                    refused[index] = wrong.at(name)
            values, indices = pa.array(parsed.values(), kind.arrow), np.array(list(parsed), np.int64)
        return Decoded(pa.table([values], schema=self._contract.contract_schema), indices, refused)


def deletes(keys: pa.Table, indices: npt.NDArray[np.int64], batch: Batch) -> pa.Table:
    """``keys`` with the SYSTEM columns of their records, which are at ``indices`` of the batch."""
    chosen = pa.array(indices)
    system = [
        pa.repeat(pa.scalar(batch.partition, pa.int32()), len(indices)),
        batch.records.column("_offset").take(chosen),
        batch.records.column("_timestamp").take(chosen),
    ]
    return pa.Table.from_arrays([*keys.columns, *system], schema=pa.schema([*keys.schema, *SYSTEM]))
