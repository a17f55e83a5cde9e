"""Text encodings of delimited files. Rows are split on bytes, so that the bytes of a row that cannot be decoded are kept as they are."""

from __future__ import annotations

import codecs

from connectors.files.errors import FormatMismatch
from connectors.files.input import Stream
from flows.objects import Place

_ASCII = bytes(range(128))
UTF8_BOM = b"\xef\xbb\xbf"


class Encoding:
    """An encoding in which ASCII characters are single bytes: UTF-8, Latin-1, Windows and East Asian code pages."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._utf8 = name == "utf-8"

    def open(self, stream: Stream) -> Stream:
        """The stream whose bytes are split into rows."""
        return stream

    def to_utf8(self, raw: bytes) -> bytes:
        """Raises UnicodeDecodeError."""
        if raw.isascii():
            return raw
        text = raw.decode(self._name)
        return raw if self._utf8 else text.encode()

    def original(self, raw: bytes) -> bytes:
        """The bytes of the file that ``raw`` stands for."""
        return raw


class Utf16(Encoding):
    """UTF-16 is turned into UTF-8 before rows are split. A lone surrogate becomes invalid UTF-8, which ``original`` turns back."""

    def __init__(self, name: str) -> None:
        super().__init__("utf-8")
        self._variant = name

    def open(self, stream: Stream) -> Stream:
        """Reads the byte order mark, when the name leaves the order open; without one, little endian."""
        start = b""
        if self._variant == "utf-16":
            start = stream.read(2)
            self._variant = "utf-16-be" if start == codecs.BOM_UTF16_BE else "utf-16-le"
            start = b"" if start in (codecs.BOM_UTF16_BE, codecs.BOM_UTF16_LE) else start
        return _Transcoded(stream, self._variant, start)

    def original(self, raw: bytes) -> bytes:
        """The UTF-16 bytes."""
        text, _, rest = raw.partition(_CUT)
        decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")  # a row that was cut may end in a part of a character
        return decoder.decode(text).encode(self._variant, "surrogatepass") + rest


# A file of UTF-16 that ends in half a character: the odd bytes follow this one, which is never part of UTF-8.
_CUT = b"\xff"


class _Transcoded:
    def __init__(self, stream: Stream, variant: str, start: bytes) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(variant)("surrogatepass")
        self._start = start

    def read(self, size: int, /) -> bytes:
        while True:
            raw, self._start = self._start + self._stream.read(size), b""
            if not raw:
                rest, _ = self._decoder.getstate()
                self._decoder.reset()
                return _CUT + bytes(rest) if rest else b""
            text = self._decoder.decode(raw)
            if text:
                return text.encode("utf-8", "surrogatepass")


def encoding(name: str, path: Place, special: str) -> Encoding:
    """The encoding called ``name``; ``special``: delimiter and quote. Raises FormatMismatch for one that cannot be split on bytes."""
    try:
        known = codecs.lookup(name).name
    except LookupError:
        raise FormatMismatch(path, f"encoding {name!r} is not known", 'name one that Python knows, such as "utf-8" or "cp1252"') from None
    if known in ("utf-16", "utf-16-le", "utf-16-be"):
        return Utf16(known)
    known = "utf-8" if known == "utf-8-sig" else known
    if not _splits_on_bytes(known, special + "\r\n"):
        raise FormatMismatch(
            path,
            f"rows in encoding {name!r} with these delimiters cannot be told apart by their bytes",
            f"make it UTF-8 first: iconv -f {name} -t utf-8",
        )
    return Encoding(known)


def _splits_on_bytes(name: str, special: str) -> bool:
    """ASCII is ASCII, and none of the special characters can be the second byte of another one."""
    try:
        if _ASCII.decode(name) != _ASCII.decode("ascii"):
            return False
    except (UnicodeDecodeError, LookupError):  # LookupError: a codec of bytes to bytes, such as hex
        return False
    pairs = (bytes([first, ord(character)]) for first in range(128, 256) for character in special)
    return all(pair.decode(name, "replace")[-1:] == chr(pair[1]) for pair in pairs)
