"""The lock decides which jars run: nothing else is ever on the class path."""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

import pytest

from infra.stack.errors import JarAltered, JarsUnavailable
from infra.stack.jars import FETCH_ATTEMPTS, LOCK, Jar, class_path, read_lock

GOOD = b"the right bytes"
JAR = Jar("org.example", "thing", "1.0", hashlib.sha256(GOOD).hexdigest())


class Registry:
    """Serves the given answers one after the other; the last one for ever. An exception is raised."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, jar: Jar, folder: Path) -> Path:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        folder.mkdir(parents=True)
        (folder / jar.file_name).write_bytes(answer)
        return folder / jar.file_name


def fetch(registry: Registry, folder: Path) -> str:
    return class_path(lambda _: None, jars=[JAR], folder=folder, fetch=registry)


def test_a_jar_is_fetched_once(tmp_path):
    registry = Registry(GOOD)
    assert fetch(registry, tmp_path) == fetch(registry, tmp_path) == str(tmp_path / "thing-1.0.jar")
    assert registry.asked == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thing-1.0.jar"]


def test_an_altered_jar_is_refused(tmp_path):
    with pytest.raises(JarAltered, match=r"org\.example:thing:1\.0") as raised:
        fetch(Registry(b"other bytes"), tmp_path)
    assert JAR.sha256 in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", GOOD[:-1], b"altered on the disk"])
def test_a_cached_jar_that_was_altered_is_fetched_again(tmp_path, damage):
    (tmp_path / JAR.file_name).write_bytes(damage)
    fetch(Registry(GOOD), tmp_path)
    assert (tmp_path / JAR.file_name).read_bytes() == GOOD


def test_a_broken_download_is_tried_again(tmp_path):
    registry = Registry(ConnectionError("reset"), GOOD[:5], GOOD)
    fetch(registry, tmp_path)
    assert registry.asked == 3


def test_a_registry_out_of_reach_is_a_clear_error(tmp_path):
    registry = Registry(ConnectionError("no route"))
    with pytest.raises(JarsUnavailable, match="no route") as raised:
        fetch(registry, tmp_path)
    assert registry.asked == FETCH_ATTEMPTS
    assert "Maven Central" in raised.value.next_step


def test_a_cache_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JarsUnavailable, match="KAPPA_CACHE_DIR"):
        fetch(Registry(GOOD), tmp_path / "file" / "jars")


def test_the_class_path_keeps_the_order_of_the_lock(tmp_path):
    jars = [Jar("g", name, "1", JAR.sha256) for name in ("b", "a", "c")]
    joined = class_path(lambda _: None, jars=jars, folder=tmp_path, fetch=Registry(GOOD))
    assert [Path(path).name for path in joined.split(os.pathsep)] == ["b-1.jar", "a-1.jar", "c-1.jar"]


def test_the_lock_holds_what_jgo_toml_asks_for_and_one_kafka():
    jars = read_lock()
    asked = tomllib.loads(LOCK.with_name("jgo.toml").read_text())["dependencies"]["coordinates"]
    assert {coordinate.rstrip("!") for coordinate in asked} <= set(map(str, jars))
    assert all(len(jar.sha256) == 64 for jar in jars)
    kafka = next(jar.version for jar in jars if jar.artifact == "kafka_2.13")
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {kafka}
    assert "://" not in LOCK.read_text()
