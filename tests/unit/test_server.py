"""A server is found again by pid and start time, or by its command line; never a stranger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.stack.errors import ServerFailed
from infra.stack.server import Record, Server

SLEEP = "import sys, time; print('up', flush=True); time.sleep(600)"


class Sleeper(Server):
    """A server that only sleeps; ``program`` gets the marker and the port."""

    name = "sleeper"
    port_names = ("only",)
    start_timeout_s = 20
    stop_signals = ((signal.SIGTERM, 10),)
    program = SLEEP
    made = 0

    @property
    def marker(self) -> str:
        return str(self.folder / "marker")

    def make_data(self, say):
        self.made += 1

    def command(self, ports, say):
        self.given = ports
        return [sys.executable, "-c", self.program, self.marker, str(ports["only"])]

    def answers(self):
        return "up" in self.tail()


@pytest.fixture
def server(tmp_path):
    server = Sleeper(tmp_path / "sleeper")
    yield server
    process = server.process()
    if process is not None:
        process.kill()


def start(server: Server) -> bool:
    return server.start(lambda _: None)


def test_start_twice_and_stop_twice(server):
    assert start(server)
    first = server.process()
    assert not start(server)
    assert server.process() == first
    assert server.stop()
    assert not first.is_running()
    assert not server.stop()


def test_the_port_is_remembered(server):
    start(server)
    ports = server.record().ports
    server.stop()
    start(server)
    assert server.record().ports == ports == server.given


def test_a_remembered_port_that_is_taken_is_changed(server):
    import socket

    start(server)
    port = server.record().ports["only"]
    server.stop()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        said: list[str] = []
        server.start(said.append)
    assert server.record().ports["only"] != port
    assert any(str(port) in line for line in said)


def test_a_killed_server_is_started_again(server):
    start(server)
    first = server.process()
    first.kill()
    first.wait(10)
    assert start(server)
    assert server.process() != first


def test_a_server_that_is_just_dying_is_started_again(server):
    """``up`` right after a kill: the process is still there, but never answers."""
    start(server)
    first = server.process()
    server.answers = lambda: server.process() != first
    first.kill()
    assert start(server)


def test_a_reused_pid_is_not_ours(server):
    """The remembered pid belongs to another program by now: it is neither believed nor stopped."""
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        server.folder.mkdir(parents=True)
        record = {"ports": {}, "pid": stranger.pid, "started_at": psutil.Process(stranger.pid).create_time() - 60}
        (server.folder / "server.json").write_text(json.dumps(record))
        assert server.process() is None
        assert not server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_up_had_no_time_to_remember_is_found(server):
    start(server)
    first = server.process()
    (server.folder / "server.json").write_text(json.dumps({"ports": server.record().ports, "pid": None, "started_at": None}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("infra.stack.server.PROGRAMS", (first.name(),))
        assert server.process() == first
        assert not start(server)
    assert server.record().pid == first.pid


def test_a_program_that_only_names_the_same_path_is_not_the_server(server):
    editor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", server.marker])
    try:
        assert server.process() is None
    finally:
        editor.kill()
        editor.wait()


def test_an_unreadable_record_is_no_record(server):
    server.folder.mkdir(parents=True)
    for text in ("", "{", "[]", '{"pid": 1}x', '{"unknown": 1}'):
        (server.folder / "server.json").write_text(text)
        assert server.record() == Record()


def test_a_server_that_dies_shows_its_last_words_and_leaves_nothing(server):
    server.program = "import sys; sys.exit('the disk is full')"
    with pytest.raises(ServerFailed, match="the disk is full"):
        start(server)
    assert server.process() is None


def test_a_server_that_does_not_answer_is_stopped(server):
    server.program = SLEEP.replace("'up'", "'silent'")
    server.start_timeout_s = 0.5
    with pytest.raises(ServerFailed, match="did not answer"):
        start(server)
    assert server.process() is None


def test_a_port_lost_between_choice_and_start_is_chosen_anew(server, monkeypatch):
    ports = iter([4001, 4002])
    monkeypatch.setattr("infra.stack.server._free_ports", lambda _: [next(ports)])
    server.program = (
        "import sys, time\nif sys.argv[2] == '4001': sys.exit('Address already in use')\nprint('up', flush=True); time.sleep(600)"
    )
    start(server)
    assert server.record().ports == {"only": 4002}


def test_an_interrupt_while_waiting_leaves_nothing_running(server):
    def interrupted() -> bool:
        raise KeyboardInterrupt

    server.answers = interrupted
    with pytest.raises(KeyboardInterrupt):
        start(server)
    assert server.process() is None


def test_the_server_is_in_a_session_of_its_own(server):
    start(server)
    assert os.getsid(server.process().pid) == server.process().pid


def test_pid_without_start_time_is_not_believed(server):
    server.folder.mkdir(parents=True)
    (server.folder / "server.json").write_text(json.dumps({"ports": {}, "pid": os.getpid(), "started_at": None}))
    assert server.process() is None


def test_marker_is_inside_the_folder(server):
    assert Path(server.marker).is_relative_to(server.folder)
