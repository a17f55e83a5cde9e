"""The columns that a file has, against those of the contract."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.files.errors import HeaderInvalid
from connectors.files.input import InputFile
from flows.contract import Source


def check_names(source: Source, file: InputFile, names: Sequence[str], fix: str) -> None:
    """Raises HeaderInvalid for a name that is there twice, and with ``fix`` when the contract has none of them."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise HeaderInvalid(
            file.path, f"columns named twice: {', '.join(map(repr, twice))}", "give each column of the file a name of its own"
        )
    if source.columns and not set(names) & set(source.columns):  # no columns: a contract is only about to be proposed
        shown = f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        raise HeaderInvalid(file.path, f"none of its columns ({shown}) is in the contract", fix)


def missing_columns(source: Source, file: InputFile, names: Sequence[str]) -> list[str]:
    """What follows from columns that the file does not have, for people."""
    missing = [name for name in source.columns if name not in names]
    if not missing:
        return []
    needed = [name for name in missing if source.columns[name].not_null or name in source.key]
    effect = f"the contract needs {', '.join(needed)}, so every row of this file will be a reject" if needed else "null in every row"
    return [f"{file.path}: no column {', '.join(missing)}: {effect}"]
