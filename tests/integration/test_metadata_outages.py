"""PostgreSQL down, stopped, hanging, back: reporting never waits and nothing is missing at the end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from infra.metadata import Commit, Mirror, rebuild
from infra.stack.local import LocalStack
from tests.integration.metadata_history import GENERATION, RUN, TABLE, MemoryHistory, content, make_info

pytestmark = pytest.mark.slow
# A call that waited for the server would take for ever, not this long; the machine may be busy with other tests.
PROMPT_S = 10.0
DOWN = "PostgreSQL is down: streams go on, the records catch up later"


@pytest.fixture
def server(tmp_path_factory):
    """A PostgreSQL of this test's own."""
    stack = LocalStack(tmp_path_factory.mktemp("postgres"))
    stack.up(kafka=False)
    yield stack
    stack.down()


@pytest.fixture
def silent():
    """The port of a server that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


class Stream:
    """Commits versions to a history and reports them, as a run would."""

    def __init__(self, mirror: Mirror, history: MemoryHistory) -> None:
        self.mirror, self.history = mirror, history

    def commit(self, count: int) -> float:
        """Seconds that reporting took."""
        log = self.history.tables[0]
        infos = [make_info(len(log.kept) + n) for n in range(count)]
        started = time.monotonic()
        for info in infos:
            log.kept[info.version] = Commit.of(TABLE, GENERATION, info)
            self.mirror.commit(TABLE, GENERATION, info)
        return time.monotonic() - started


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def mirrored(dsn):
    """Versions in the mirror, with duplicates if there were any."""
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT version FROM kappa.commits ORDER BY version")]


def test_down_from_the_start(server, caplog):
    dsn = server.postgres.dsn
    server.down()
    history = MemoryHistory.of(0)
    with (
        caplog.at_level(logging.DEBUG),
        Mirror(SecretStr(dsn), warehouse="shop", history=history, retry_s=0.05, queue_records=50) as mirror,
    ):
        stream = Stream(mirror, history)
        mirror.run_started(RUN)
        assert stream.commit(3000) < PROMPT_S
        wait_until(lambda: DOWN in caplog.text)
        time.sleep(0.5)  # many more attempts
        assert caplog.text.count(DOWN) == 1
        mirror.run_ended(RUN, "stopped")  # the queue is full: a run is kept all the same
        server.up(kafka=False)
        wait_until(lambda: "PostgreSQL is back" in caplog.text)
    assert mirrored(dsn) == list(range(3000))
    assert caplog.text.count("PostgreSQL is") == 2
    assert conninfo_to_dict(dsn)["password"] not in caplog.text
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT status FROM kappa.runs").fetchall() == [("stopped",)]


def test_stopped_and_started_in_the_middle(server):
    dsn, said, history = server.postgres.dsn, [], MemoryHistory.of(0)
    with Mirror(SecretStr(dsn), warehouse="shop", history=history, retry_s=0.05, queue_records=50, say=said.append) as mirror:
        stream = Stream(mirror, history)
        stream.commit(30)
        wait_until(lambda: _exists(dsn) and mirrored(dsn) == list(range(30)))
        server.down()
        stream.commit(500)
        wait_until(lambda: said)
        stream.commit(40)
        server.up(kafka=False)
        wait_until(lambda: len(said) == 2)
        stream.commit(30)
    assert said[0].startswith(DOWN)
    assert said[1].startswith("PostgreSQL is back")
    assert len(said) == 2
    assert mirrored(dsn) == list(range(600))
    live = content(dsn)
    rebuild(SecretStr(dsn), "shop", history)
    assert content(dsn) == live


def test_what_fits_in_the_queue_survives_an_outage_without_a_history(server):
    dsn, said = server.postgres.dsn, []
    with Mirror(SecretStr(dsn), warehouse="shop", retry_s=0.05, say=said.append) as mirror:
        stream = Stream(mirror, MemoryHistory.of(0))
        stream.commit(10)
        wait_until(lambda: _exists(dsn) and mirrored(dsn) == list(range(10)))
        server.down()
        stream.commit(100)
        wait_until(lambda: said)
        server.up(kafka=False)
        wait_until(lambda: len(said) == 2)
    assert mirrored(dsn) == list(range(110))


def test_gone_when_the_run_ends_and_back_for_the_next(server):
    dsn, history = server.postgres.dsn, MemoryHistory.of(0)
    with Mirror(SecretStr(dsn), warehouse="shop", history=history, retry_s=30) as mirror:
        stream = Stream(mirror, history)
        stream.commit(10)
        wait_until(lambda: _exists(dsn) and mirrored(dsn) == list(range(10)))
        server.down()
        stream.commit(10)
    server.up(kafka=False)
    assert mirrored(dsn) == list(range(10))
    with Mirror(SecretStr(dsn), warehouse="shop", history=history):
        wait_until(lambda: mirrored(dsn) == list(range(20)))


def test_a_server_that_accepts_and_never_answers(silent):
    said, history = [], MemoryHistory.of(0)
    dsn = SecretStr(f"postgresql://kappa:hunter2@127.0.0.1:{silent}/kappa")
    with Mirror(dsn, warehouse="shop", history=history, retry_s=0.05, connect_timeout_s=1, close_timeout_s=1, say=said.append) as mirror:
        stream = Stream(mirror, history)
        assert stream.commit(3000) < PROMPT_S
        wait_until(lambda: said)
        assert stream.commit(3000) < PROMPT_S
        closing = time.monotonic()
    assert time.monotonic() - closing < PROMPT_S
    assert len(said) == 1
    assert said[0].startswith(DOWN)
    assert "hunter2" not in said[0]


def test_a_server_that_stops_answering_in_the_middle(server):
    """Its process is stopped: the kernel goes on answering TCP."""
    dsn, said, history = server.postgres.dsn, [], MemoryHistory.of(0)
    with Mirror(SecretStr(dsn), warehouse="shop", history=history, retry_s=0.05, statement_timeout_s=0.5, say=said.append) as mirror:
        stream = Stream(mirror, history)
        stream.commit(10)
        wait_until(lambda: _exists(dsn) and mirrored(dsn) == list(range(10)))
        with psycopg.connect(dsn) as connection:
            [(pid,)] = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'kappa'").fetchall()
        os.kill(pid, signal.SIGSTOP)
        try:
            assert stream.commit(2000) < PROMPT_S
            wait_until(lambda: len(said) == 2)
            assert "no answer within 0.5 s" in said[0]
            assert mirrored(dsn) == list(range(2010))
        finally:
            os.kill(pid, signal.SIGCONT)


def test_a_lock_that_somebody_holds_is_waited_for_outside_the_stream(server):
    dsn, said, history = server.postgres.dsn, [], MemoryHistory.of(0)
    with Mirror(SecretStr(dsn), warehouse="shop", history=history, retry_s=0.05, statement_timeout_s=0.3, say=said.append) as mirror:
        stream = Stream(mirror, history)
        stream.commit(10)
        wait_until(lambda: _exists(dsn) and mirrored(dsn) == list(range(10)))
        with psycopg.connect(dsn) as connection:
            connection.execute("LOCK TABLE kappa.commits")
            assert stream.commit(2000) < PROMPT_S
            wait_until(lambda: said)
            time.sleep(0.5)
        wait_until(lambda: len(said) == 2)
    assert mirrored(dsn) == list(range(2010))


def test_a_truth_that_cannot_be_read_does_not_stop_what_is_reported(server):
    class Unreadable(MemoryHistory):
        def logs(self):
            raise OSError("the storage is away")

    dsn, said = server.postgres.dsn, []
    with Mirror(SecretStr(dsn), warehouse="shop", history=Unreadable(), say=said.append) as mirror:
        Stream(mirror, MemoryHistory.of(0)).commit(10)
    assert mirrored(dsn) == list(range(10))
    assert len(said) == 1
    assert "the storage is away" in said[0]


@pytest.mark.parametrize("dsn", ["hunter2", "postgresql://kappa:hunter2@[::1", "host=127.0.0.1 port=1 password=hunter2 nonsense=hunter2"])
def test_a_dsn_that_cannot_be_read_never_shows_its_password(dsn):
    said = []
    with Mirror(SecretStr(dsn), warehouse="shop", say=said.append, retry_s=0.05) as mirror:
        mirror.run_started(RUN)
        wait_until(lambda: said)
    assert "hunter2" not in said[0]


def _exists(dsn):
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT to_regclass('kappa.commits')").fetchone() != (None,)
