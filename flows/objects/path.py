"""A path in a bucket, with the part of ``pathlib.Path`` that kappa uses, so that a folder and a prefix are used alike."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple, cast

from flows.objects.account import Account, account
from flows.objects.errors import Refused, UrlInvalid, explain
from flows.objects.reader import BLOCK_BYTES, ObjectReader

UNKNOWN_PAUSE_S = 0.5  # after a put of unknown outcome: its caller looks and puts again at once, and a server may be overloaded
PAGE_KEYS = 1000  # of one answer to a listing: the most that S3 gives
_URL = re.compile(r"s3://([a-z0-9][a-z0-9._-]{1,62})(?:/(.*))?", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class Stat(NamedTuple):
    """Size in bytes, time of the last change in seconds since 1970."""

    st_size: int
    st_mtime: float
    etag: str = ""


@dataclass(frozen=True, slots=True)
class S3Path:
    """``s3://bucket/key``; ``key`` without a slash at either end. ``listed``: what a listing said of it, which saves asking again.

    Every method raises what ``flows.objects.errors.explain`` makes; FileNotFoundError when there is no such object.
    """

    bucket: str
    key: str
    listed: Stat | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, other: str) -> S3Path:
        return S3Path(self.bucket, f"{self.key}/{other}".strip("/"))

    def __lt__(self, other: S3Path) -> bool:
        return (self.bucket, self.key) < (other.bucket, other.key)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.key).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def suffixes(self) -> list[str]:
        return PurePosixPath(self.key).suffixes

    @property
    def parent(self) -> S3Path:
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def as_uri(self) -> str:
        return str(self)

    def resolve(self) -> S3Path:
        return self

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Nothing: a prefix is there when an object is below it."""

    def stat(self) -> Stat:
        """From the listing that gave this path, else asked for."""
        if self.listed is not None:
            return self.listed
        return self.head()

    def head(self) -> Stat:
        """As it is now."""
        with self._account.asking(self.bucket, self.key):
            found = self._account.client.head_object(Bucket=self.bucket, Key=self.key)
        return Stat(found["ContentLength"], found["LastModified"].timestamp(), found["ETag"])

    def exists(self) -> bool:
        """Whether there is such an object: a prefix is none."""
        try:
            self.head()
        except FileNotFoundError:
            return False
        return True

    is_file = exists

    def is_dir(self) -> bool:
        """Whether any object is below it."""
        with self._account.asking(self.bucket, self.key):
            found = self._account.client.list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        return bool(found["KeyCount"])

    def iterdir(self) -> Iterator[S3Path]:
        """The objects right below it, in the order of their keys, then the prefixes."""
        prefixes = []
        for page in self._pages(Delimiter="/"):
            yield from self._objects(page)
            prefixes += [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ())]
        for prefix in prefixes:
            yield S3Path(self.bucket, prefix)

    def rglob(self, pattern: str) -> Iterator[S3Path]:
        """The objects anywhere below it whose names match, in the order of their keys."""
        for page in self._pages():
            yield from (path for path in self._objects(page) if fnmatchcase(path.name, pattern))

    def _objects(self, page: dict[str, Any]) -> Iterator[S3Path]:
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if not key.endswith("/"):  # consoles make such objects as folders
                yield S3Path(self.bucket, key, Stat(entry["Size"], entry["LastModified"].timestamp(), entry.get("ETag", "")))

    def _pages(self, **options: str) -> Iterator[dict[str, Any]]:
        lister = self._account.client.get_paginator("list_objects_v2")
        pages = iter(lister.paginate(Bucket=self.bucket, Prefix=self._prefix, PaginationConfig={"PageSize": PAGE_KEYS}, **options))
        while True:
            with self._account.asking(self.bucket, self.key):
                page = next(pages, None)
            if page is None:
                return
            yield page

    def read_bytes(self) -> bytes:
        """The whole object."""
        with self._account.asking(self.bucket, self.key):
            return cast(bytes, self._account.client.get_object(Bucket=self.bucket, Key=self.key)["Body"].read())

    def open(self, mode: str = "rb", block_bytes: int = BLOCK_BYTES) -> ObjectReader:
        """A seekable stream over the object as it is now; it holds one block."""
        assert mode == "rb"
        stat = self.head()
        return ObjectReader(self._account, self.bucket, self.key, stat.st_size, stat.etag, block_bytes)

    def unlink(self, *, missing_ok: bool = True) -> None:
        """Delete it. S3 does not say whether it was there."""
        with self._account.asking(self.bucket, self.key):
            self._account.client.delete_object(Bucket=self.bucket, Key=self.key)

    def put(self, content: BinaryIO) -> None:
        """Write it whole from the stream's beginning, over what there is; repeated when it fails. Up to 5 GiB, which S3 takes at once."""
        content.seek(0)
        with self._account.asking(self.bucket, self.key):
            self._account.client.put_object(Bucket=self.bucket, Key=self.key, Body=content)

    def copy_of(self, source: S3Path) -> None:
        """Make it a copy of another object, by the server, of any size. Raises FileNotFoundError."""
        with self._account.asking(source.bucket, source.key):
            self._account.client.copy({"Bucket": source.bucket, "Key": source.key}, self.bucket, self.key)

    def put_if_absent(self, data: bytes) -> bool:
        """Write it unless it exists. Returns False when it does. An error leaves the outcome unknown: it was sent once and not repeated."""
        from botocore.exceptions import BotoCoreError, ClientError

        here: Account = self._account
        try:
            here.once.put_object(Bucket=self.bucket, Key=self.key, Body=data, IfNoneMatch="*")
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 412:
                return False
            if status == 501:
                raise Refused(str(self), f"{here.endpoint} cannot put an object only where there is none (If-None-Match)") from None
            if status >= 500 or status in {408, 409, 429}:
                time.sleep(UNKNOWN_PAUSE_S)
            raise explain(error, self.bucket, self.key, here.endpoint, here.region) from None
        except BotoCoreError as error:
            time.sleep(UNKNOWN_PAUSE_S)
            raise explain(error, self.bucket, self.key, here.endpoint, here.region) from None
        return True

    @property
    def _prefix(self) -> str:
        return f"{self.key}/" if self.key else ""

    @property
    def _account(self) -> Account:
        return account()


Place = Path | S3Path


def is_url(text: str) -> bool:
    """Whether it names a scheme, such as s3://, and so is no path of this machine."""
    return bool(_SCHEME.match(text))


def parse_url(url: str) -> S3Path:
    """``s3://bucket/prefix``. Raises UrlInvalid."""
    match = _URL.fullmatch(url)
    if match is None:
        raise UrlInvalid(url, "it names no bucket" if url.startswith("s3://") else "only s3:// is known")
    return S3Path(match[1], (match[2] or "").strip("/"))
