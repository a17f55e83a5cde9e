"""Delimited text. Cells travel as JSON strings, exactly as they stand in the file; nothing is guessed (docs/loading.md has the rules).

Most lines hold no quote and nothing to escape: they are split in bulk. Every other record goes through one exact path, which also finds
what is broken.
"""

from __future__ import annotations

from collections.abc import Iterator

from connectors.files.cells import Objects, Splitter, TextAfterQuote, escape
from connectors.files.chunk import Broken, Chunk, Rows, cut, too_long
from connectors.files.encoding import UTF8_BOM, encoding
from connectors.files.errors import FormatMismatch, HeaderInvalid
from connectors.files.input import InputFile
from connectors.files.names import check_names, missing_columns
from connectors.files.records import Records, Run
from flows.contract import Source

# What a bulk of lines may hold: all bytes but those that JSON escapes; tabs and ends of lines are looked at elsewhere.
_PLAIN = bytes(byte for byte in range(256) if byte in b"\t\n\r" or (byte >= 0x20 and byte not in b'"\\'))


def read_csv(source: Source, file: InputFile, *, fast: bool = True) -> Rows:
    """The rows of a delimited file. Raises HeaderInvalid or FormatMismatch, and FileUnreadable while reading."""
    reader = _Reader(source, file, fast)
    return Rows(reader.notices, reader.chunks())


class _Reader:
    """``_rows``: the escaped cells of the chunk under construction, one list a row; a broken row holds empty ones."""

    def __init__(self, source: Source, file: InputFile, fast: bool) -> None:
        dialect = source.csv
        special = dialect.delimiter + dialect.quote
        if not special.isascii() or dialect.delimiter in {dialect.quote, "\r", "\n"} or dialect.quote in {"\r", "\n"}:
            raise FormatMismatch(
                file.path,
                f"delimiter {dialect.delimiter!r} and quote {dialect.quote!r}: they must be two different ASCII characters",
                f"correct [csv] in sources/{source.name}.toml",
            )
        self._max_bytes = source.max_record_bytes
        self._encoding = encoding(dialect.encoding, file.path, special)
        self._delimiter, quote = dialect.delimiter.encode(), dialect.quote.encode()
        self._split = Splitter(self._delimiter, quote)
        self._records = Records(self._encoding.open(file.content()), self._delimiter, quote, self._max_bytes, fast=fast)
        if self._records.fill():
            self._records.skip_prefix(UTF8_BOM)
        names = self._header(source, file) if dialect.header else list(source.columns)
        self._width = len(names)
        self.notices = missing_columns(source, file, names)
        self._values = Objects(names, names, dialect.null)
        self._keys = Objects(source.key, names, dialect.null) if source.key and set(source.key) <= set(names) else None
        self._rows: list[list[bytes]] = []
        self._broken: dict[int, tuple[bytes, Broken]] = {}

    def _header(self, source: Source, file: InputFile) -> list[str]:
        """The names in the first record that is not blank; the contract's, when there is none."""
        while self._records.fill():
            record = self._records.record()
            if not record.raw:
                continue
            cause, fix = record.cause, f"mend line {record.line}, or correct [csv] in sources/{source.name}.toml"
            try:
                names = [cell.decode() for cell in self._split(self._encoding.to_utf8(record.raw))]
            except UnicodeDecodeError as error:
                cause = cause or f"not {error.encoding}: {error.reason} at byte {error.start} of line {record.line}"
                fix = f'name the file\'s encoding under [csv] in sources/{source.name}.toml, such as encoding = "latin-1"'
            except TextAfterQuote as error:
                cause = cause or str(error)
            if cause:
                raise HeaderInvalid(file.path, cause, fix)
            check_names(source, file, names, f"set header = false, or the right delimiter, under [csv] in sources/{source.name}.toml")
            return names
        return list(source.columns)

    def chunks(self) -> Iterator[Chunk]:
        """The rows, as many at a time as one filling of the buffer holds."""
        records = self._records
        while records.fill():
            while records.held:
                if run := records.run():
                    records.passed(self._bulk(run))
                else:
                    self._row(*records.record())
            if self._rows:
                yield self._chunk()

    def _bulk(self, run: Run) -> int:
        """Take a run's lines, each a record. Returns how many they are, blank ones included."""
        lines = run.raw.splitlines()
        rows = self._plain(run.raw, lines)
        if rows is not None:
            self._rows += rows
            return len(lines)
        for line, raw in enumerate(lines, run.line):
            self._row(raw[: self._max_bytes], line, cut(too_long(self._max_bytes)) if len(raw) > self._max_bytes else "")
        return len(lines)

    def _plain(self, run: bytes, lines: list[bytes]) -> list[list[bytes]] | None:
        """The cells of lines in which nothing needs care, else None."""
        if run.translate(None, _PLAIN) or len(max(lines, key=len)) > self._max_bytes or (b"\t" in run and self._delimiter != b"\t"):
            return None
        if not run.isascii():
            try:
                lines = self._encoding.to_utf8(run).splitlines()
            except UnicodeDecodeError:
                return None
        delimiter, width = self._delimiter, self._width
        rows = [line.split(delimiter) for line in lines if line or width == 1]
        return None if any([len(row) != width for row in rows]) else rows  # noqa: C419 - a list is quicker than a generator

    def _row(self, raw: bytes, line: int, cause: str = "") -> None:
        """One record, exactly. A blank line is none, but in a file of one column, where it is an empty cell."""
        if not raw and self._width != 1:
            return
        if not cause:
            try:
                cells = self._split(self._encoding.to_utf8(raw))
                if len(cells) == self._width:
                    self._rows.append([escape(cell) for cell in cells])
                    return
                cause = f"{len(cells)} cells where {self._width} are expected"
            except UnicodeDecodeError as error:
                cause = f"not {error.encoding}: {error.reason} at byte {error.start}"
            except TextAfterQuote as error:
                cause = str(error)
        self._broken[len(self._rows)] = self._encoding.original(raw), Broken(cause, line)
        self._rows.append([b""] * self._width)

    def _chunk(self) -> Chunk:
        values = self._values(self._rows)
        keys: list[bytes | None] = [None] * len(values)
        if self._keys is not None:
            keys = [*self._keys(self._rows)]
        for index, (raw, _) in self._broken.items():
            keys[index], values[index] = None, raw
        chunk = Chunk(keys, values, {index: why for index, (_, why) in self._broken.items()})
        self._rows, self._broken = [], {}
        return chunk
