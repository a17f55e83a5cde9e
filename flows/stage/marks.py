"""The headers by which kappa marks a record: ``kappa-broken``, a row that ``load`` could not read; ``kappa-corrects``, a correction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.stage import buffers
from flows.stage.codes import Code
from flows.stage.corrections import HEADER, values
from flows.stage.refusal import Refused

_BROKEN = "kappa-broken"
_LENGTHS = (len(_BROKEN), len(HEADER))


class Marked:
    """The marked records of a batch. ``headers``: the column of RECORDS. Without a mark it costs one look at the lengths of the names."""

    def __init__(self, headers: pa.Array) -> None:
        self._headers = headers
        names = headers.flatten().field(0)
        lengths = np.diff(buffers.offsets(names)) if len(names) else np.empty(0)
        self._names = names if any((lengths == length).any() for length in _LENGTHS) else None

    def broken(self) -> dict[int, Refused]:
        """Rows that ``load`` could not read: their headers name the cause, the line, the file and the load."""
        refused = {}
        for index, pairs in self._with(_BROKEN).items():
            found = {header["name"]: (header["value"] or b"").decode("utf-8", "replace") for header in pairs}
            where = "".join(f", {what} {found[f'kappa-{what}']}" for what in ("line", "file", "load") if f"kappa-{what}" in found)
            refused[index] = Refused(Code.UNREADABLE_ROW, f"{found[_BROKEN]}{where}")
        return refused

    def corrections(self) -> dict[int, list[bytes | None]]:
        """Index -> the values of the headers that name what the record corrects, in the batch's order."""
        return {index: values(pairs) for index, pairs in self._with(HEADER).items()}

    def _with(self, name: str) -> dict[int, list[dict[str, Any]]]:
        """Index -> all headers of each record that has one of this name."""
        if self._names is None:
            return {}
        parents = pc.list_parent_indices(self._headers).filter(pc.equal(self._names, name).fill_null(False))
        return {index: self._headers[index].as_py() for index in pc.unique(parents).to_pylist()}
