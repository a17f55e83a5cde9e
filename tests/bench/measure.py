"""Run a contestant as a process and account for it: seconds, CPU of it and of the broker apart, peak memory."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
WATCH_INTERVAL_S = 0.02
TIMEOUT_S = 1800
_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a contestant. ``seconds``: as the program says, from after its imports to its end; ``wall_s``: the whole process;
    CPU is user and system time; ``peak_bytes``: VmHWM, summed over its processes.
    """

    records: int
    seconds: float
    wall_s: float
    cpu_s: float
    broker_cpu_s: float
    peak_bytes: int

    @property
    def per_s(self) -> float:
        """Records a second."""
        return self.records / self.seconds


class ContestantFailed(RuntimeError):
    """A contestant ended with an error, or did less than its work."""


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a module of this package, under this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def run(command: Sequence[str], broker: psutil.Process, until: Callable[[], bool] | None = None) -> Run:
    """Run ``command``, whose last line of output is JSON with ``records`` and ``seconds``. ``until``: stop it (SIGTERM) once this is true.

    Raises ContestantFailed with the end of its output.
    """
    broker_before = _cpu_s(broker)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=out, stderr=err)
        peak, cpu_s, status = _watch(process, until)
        wall_s = time.monotonic() - started
        out.seek(0), err.seek(0)
        text, complaint = out.read(), err.read()
    if status != 0:
        raise ContestantFailed(f"{' '.join(command)}\nended with {status}\n{text[-2000:]}{complaint[-4000:]}")
    end = json.loads(text.splitlines()[-1])
    return Run(end["records"], end["seconds"], wall_s, cpu_s, _cpu_s(broker) - broker_before, peak)


def _watch(process: subprocess.Popen[bytes], until: Callable[[], bool] | None) -> tuple[int, float, int]:
    """Wait for the end. Returns (sum of the peaks, CPU seconds with children, exit status)."""
    peaks: dict[int, int] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return sum(peaks.values()), usage.ru_utime + usage.ru_stime, process.returncode
        _note_peaks(process.pid, peaks)
        if time.monotonic() > deadline:
            process.kill()
        elif until is not None and until():
            process.send_signal(signal.SIGTERM)
            until = None
        time.sleep(WATCH_INTERVAL_S)


def _note_peaks(pid: int, peaks: dict[int, int]) -> None:
    """VmHWM only grows, so that the last look at a process is its peak."""
    try:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        for member in family:
            if found := _PEAK.search(Path(f"/proc/{member}/status").read_text()):
                peaks[member] = int(found[1]) * 1024
    except (psutil.Error, OSError):
        return  # it has just ended


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _environment() -> dict[str, str]:
    """Nothing of the caller's settings reaches a contestant."""
    return {name: value for name, value in os.environ.items() if not name.startswith("KAPPA_") or name == "KAPPA_CACHE_DIR"}
