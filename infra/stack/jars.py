"""Kafka's jars: exactly those of ``jgo.lock.toml``, fetched once with jgo, and each compared with its SHA-256 before every use."""

from __future__ import annotations

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import KappaError
from infra.stack.errors import JarAltered, JarsUnavailable

Say = Callable[[str], None]

LOCK = Path(__file__).with_name("jgo.lock.toml")
FETCH_ATTEMPTS = 3
FETCH_TIMEOUT_S = 60
FETCH_THREADS = 4


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock: Maven coordinate and SHA-256 (hex)."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The jars of a jgo lock, in class path order."""
    locked = tomllib.loads(path.read_text(encoding="utf-8"))["dependencies"]
    return [Jar(jar["groupId"], jar["artifactId"], jar["version"], jar["sha256"]) for jar in locked]


def cache_dir() -> Path:
    """Where fetched jars are kept, shared by all warehouses of a user: ``KAPPA_CACHE_DIR``, else ``$XDG_CACHE_HOME/kappa``."""
    if named := os.environ.get("KAPPA_CACHE_DIR"):
        return Path(named).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "kappa"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_with_jgo(jar: Jar, folder: Path) -> Path:
    """Fetch one jar, and nothing that it depends on, into ``folder``. Raises whatever jgo and its HTTP client raise."""
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder, timeout=FETCH_TIMEOUT_S)
    path: Any = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    return Path(path)


def class_path(
    say: Say, *, jars: list[Jar] | None = None, folder: Path | None = None, fetch: Callable[[Jar, Path], Path] = fetch_with_jgo
) -> str:
    """Java's class path of the verified jars; those missing in ``folder`` (default: the user's cache) are fetched.

    Raises JarAltered when a freshly fetched jar is not the locked one, JarsUnavailable when one cannot be had. A cached jar
    that is not the locked one (cut short, or altered since) is never used: it is fetched again.
    """
    jars = read_lock() if jars is None else jars
    folder = folder or cache_dir() / "jars"
    missing = [jar for jar in jars if not _is_whole(jar, folder / jar.file_name)]
    if missing:
        say(f"fetching {len(missing)} of Kafka's {len(jars)} jars into {folder}")
        _fetch_all(missing, folder, fetch)
    return os.pathsep.join(str(folder / jar.file_name) for jar in jars)


def _is_whole(jar: Jar, path: Path) -> bool:
    return path.is_file() and sha256(path) == jar.sha256


def _fetch_all(jars: list[Jar], folder: Path, fetch: Callable[[Jar, Path], Path]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A private folder on the same disk: a jar appears in the cache whole or not at all, also when two runs fetch at once.
        with tempfile.TemporaryDirectory(dir=folder, prefix="fetching-") as temporary, ThreadPoolExecutor(FETCH_THREADS) as pool:
            for _ in pool.map(lambda jar: _fetch_one(jar, folder, Path(temporary), fetch), jars):
                pass
    except OSError as error:
        raise JarsUnavailable(
            f"cannot write {folder}",
            cause=error.strerror or str(error),
            next_step="make it writable, or name another folder: export KAPPA_CACHE_DIR=DIR",
        ) from error


def _fetch_one(jar: Jar, folder: Path, temporary: Path, fetch: Callable[[Jar, Path], Path]) -> None:
    failure: KappaError | None = None
    for attempt in range(FETCH_ATTEMPTS):
        try:
            fetched = fetch(jar, temporary / f"{jar.file_name}.{attempt}")
        except Exception as error:  # noqa: BLE001  jgo raises RuntimeError, AssertionError and its HTTP client's errors
            failure = JarsUnavailable(
                f"cannot fetch {jar}",
                cause=f"{type(error).__name__}: {error}",
                next_step="check that this machine reaches Maven Central (or its mirror), then: kappa up",
            )
            continue
        if (found := sha256(fetched)) == jar.sha256:
            fetched.replace(folder / jar.file_name)
            return
        failure = JarAltered(
            f"{jar} is not the jar of the lock",
            cause=f"its SHA-256 is {found}, {LOCK.name} says {jar.sha256}",
            next_step="find out what altered it on the way (a mirror, a proxy?); nothing was started",
        )
    assert failure is not None
    raise failure
