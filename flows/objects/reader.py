"""Reading an object as a file, a block at a time."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from flows.objects.errors import ObjectChanged, Unreachable

if TYPE_CHECKING:
    from flows.objects.account import Account

BLOCK_BYTES = 8 * 1024 * 1024
_ATTEMPTS = 3  # of a block whose connection breaks while its bytes arrive, which botocore does not repeat


class ObjectReader(io.RawIOBase):
    """The bytes of one version of an object: each request asks for ``etag``, so that all of them see the same bytes.

    Holds one block. Raises ObjectChanged, and what ``flows.objects.errors.explain`` makes.
    """

    def __init__(self, account: Account, bucket: str, key: str, size: int, etag: str, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()
        self._account = account
        self._bucket = bucket
        self._key = key
        self.size = size
        self.etag = etag
        self._block_bytes = block_bytes
        self._at = 0
        self._block = memoryview(b"")
        self._block_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fills the buffer unless the object ends, although a raw stream need not: Arrow takes a short read for the end."""
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), max(0, self.size - self._at))
        filled = 0
        while filled < wanted:
            if not self._block_start <= self._at < self._block_start + len(self._block):
                self._fetch(wanted - filled)
            part = self._block[self._at - self._block_start :][: wanted - filled]
            target[filled : filled + len(part)] = part
            filled += len(part)
            self._at += len(part)
        return filled

    def _fetch(self, wanted: int) -> None:
        end = min(self.size, self._at + max(wanted, self._block_bytes))
        self._block = memoryview(b"")  # not two blocks at once
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._account.asking(self._bucket, self._key):
                    found = self._account.client.get_object(
                        Bucket=self._bucket, Key=self._key, Range=f"bytes={self._at}-{end - 1}", IfMatch=self.etag
                    )
                    body = found["Body"].read()
                break
            except (ObjectChanged, FileNotFoundError):
                raise ObjectChanged(f"s3://{self._bucket}/{self._key}") from None
            except Unreachable:
                if attempt == _ATTEMPTS:
                    raise
        if len(body) != end - self._at:
            raise ObjectChanged(f"s3://{self._bucket}/{self._key}")
        self._block, self._block_start = memoryview(body), self._at
