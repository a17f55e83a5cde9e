"""Spreadsheets (.xlsx, .xlsm, .xlsb, .xls, .ods): the rows of one sheet below its header as JSON objects.

A spreadsheet's numbers are doubles: a whole one below 2^53 is written without a point, any other as its shortest exact text. An empty
cell is null. The reader holds the whole sheet, so larger files are refused before they are read (``MAX_BYTES``).
"""

from __future__ import annotations

import datetime as dt
import zipfile
from collections.abc import Iterator

import msgspec
from python_calamine import CalamineError, CalamineWorkbook, PasswordError

from connectors.files.chunk import Broken, Chunk, Rows, cut, too_long
from connectors.files.errors import FileUnreadable, FormatMismatch, HeaderInvalid
from connectors.files.input import InputFile, reading
from connectors.files.names import check_names, missing_columns
from flows.contract import Source

SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
MAX_BYTES = 256 * 1024 * 1024  # unpacked
_CHUNK_ROWS = 10_000
_EXACT = 2**53  # below it a double holds every whole number

Cell = str | bool | float | int | dt.datetime | dt.date | dt.time | dt.timedelta


def read_sheet(source: Source, file: InputFile) -> Rows:
    """The rows of the sheet ``[sheet] name``, or of the first. Raises FileUnreadable, FormatMismatch or HeaderInvalid."""
    if file.compression:
        raise FormatMismatch(file.path, "a spreadsheet is compressed inside", f"unpack {file.path}")
    rows = _rows(source, file)
    header = next((row for row in rows if any(cell != "" for cell in row)), [])
    if not header:
        return Rows([], iter(()))
    names = [_text(cell) for cell in header]
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise HeaderInvalid(file.path, f"column {names.index('') + 1} of its first row has no name", "give each column a name")
    check_names(source, file, names, f"name the sheet under [sheet] in sources/{source.name}.toml, or correct [columns]")
    return Rows(missing_columns(source, file, names), _chunks(source, names, rows))


def _rows(source: Source, file: InputFile) -> Iterator[list[Cell]]:
    unpacked_bytes = _unpacked_bytes(file)
    if unpacked_bytes > MAX_BYTES:
        cause = f"it has {unpacked_bytes} bytes unpacked, and a spreadsheet is read whole, up to {MAX_BYTES} bytes"
        raise FormatMismatch(file.path, cause, "save the sheet as CSV, and load that")
    with reading(file.path, CalamineError):
        file.file.seek(0)
        try:
            book = CalamineWorkbook.from_filelike(file.file)
        except PasswordError as error:
            raise FileUnreadable(file.path, str(error), "save it without a password") from error
        name = source.sheet.name
        if name is not None and name not in book.sheet_names:
            have = ", ".join(map(repr, book.sheet_names))
            raise FormatMismatch(file.path, f"it has no sheet {name!r}, but {have}", f"correct [sheet] name in sources/{source.name}.toml")
        sheet = book.get_sheet_by_name(name) if name is not None else book.get_sheet_by_index(0)
        return iter(sheet.iter_rows())


def _unpacked_bytes(file: InputFile) -> int:
    with reading(file.path):
        file.file.seek(0)
        try:
            with zipfile.ZipFile(file.file) as archive:
                return sum(entry.file_size for entry in archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError):  # .xls is no archive; what should be one is told by the reader
            return file.size


def _chunks(source: Source, names: list[str], rows: Iterator[list[Cell]]) -> Iterator[Chunk]:
    members = [msgspec.json.encode(name).decode() + ":" for name in names]
    keyed = [names.index(name) for name in source.key] if source.key and set(source.key) <= set(names) else []
    texts = source.format == "csv"
    keys: list[bytes | None] = []
    values: list[bytes] = []
    broken: dict[int, Broken] = {}
    for row in rows:
        if all(cell == "" for cell in row):
            continue
        cells = [_json(cell, texts) for cell in row] + ["null"] * (len(names) - len(row))
        key, value = _object(members, cells, keyed) if keyed else None, _object(members, cells, range(len(names)))
        cause = ""
        if any(cell != "" for cell in row[len(names) :]):
            cause, value = "a cell stands beside the columns that the first row names", f"[{','.join(cells)}]".encode()
        if len(value) > source.max_record_bytes:
            cause, value = cut(too_long(source.max_record_bytes)), value[: source.max_record_bytes]
        if cause:
            broken[len(values)] = Broken(cause, None)
        keys.append(None if cause else key)
        values.append(value)
        if len(values) == _CHUNK_ROWS:
            yield Chunk(keys, values, broken)
            keys, values, broken = [], [], {}
    if values:
        yield Chunk(keys, values, broken)


def _object(members: list[str], cells: list[str], which: range | list[int]) -> bytes:
    return ("{" + ",".join([members[index] + cells[index] for index in which]) + "}").encode()


def _json(cell: Cell, texts: bool) -> str:
    """A cell as JSON; with ``texts`` as a string, as the cells of a csv source."""
    if cell == "" and isinstance(cell, str):
        return "null"
    text = _text(cell)
    if not texts and isinstance(cell, (bool, float, int)):
        return text
    return msgspec.json.encode(text).decode()


def _text(cell: Cell) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < _EXACT else repr(cell)
    if isinstance(cell, dt.timedelta):
        seconds, rest = divmod(cell, dt.timedelta(seconds=1))
        decimals = f".{rest.microseconds:06}" if rest else ""
        return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{decimals}"
    return cell.isoformat() if isinstance(cell, (dt.date, dt.time)) else str(cell)
