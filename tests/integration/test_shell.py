"""``kappa shell`` at a real pseudo-terminal, and at the end of a pipe."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.stored import Root
from tests.terminal import Terminal, at_terminal

LONG = "SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range + b.range = -1;"
COLOUR = re.compile(r"\x1b\[[\d;]*3[0-8][\d;]*m")


@pytest.fixture
def root(tmp_path: Path) -> Root:
    (tmp_path / "warehouse.toml").write_text('name = "test"\n')
    root = Root(tmp_path / "data")
    for name in ("staging.s", "core.c"):
        root.table(name).commit({0: (0, 100, range(100))})
    root.view("analytics.rests", 'SELECT n % 3 AS remainder, count(*) AS "How Many" FROM core.c GROUP BY ALL ORDER BY ALL')
    return root


def command(root: Root, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.cli", "-C", str(root.path.parent), "shell", *arguments]


@contextmanager
def shell(root: Root, **environment: str) -> Iterator[Terminal]:
    with at_terminal(command(root), {"XDG_STATE_HOME": str(root.path.parent / "state"), **environment}) as terminal:
        terminal.expect("kappa>")
        terminal.wait(terminal.is_edited)
        yield terminal


def piped(root: Root, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(root, *arguments), input=text, capture_output=True, text=True, timeout=120, check=False)


# --- at a terminal


def test_statements_of_many_lines_commands_and_errors(root: Root) -> None:
    with shell(root) as terminal:
        terminal.type("SELECT count(*) AS n\r")
        terminal.expect("...>")
        terminal.type("FROM core.c;\r")
        terminal.expect("100")
        terminal.type(".tables rest\r")
        assert "core.c" not in terminal.expect("analytics.rests")
        terminal.type("FROM core.cc;\r")
        assert "no table core.cc" in terminal.expect("did you mean core.c?")
        terminal.wait(terminal.is_edited)
        terminal.type(".quit\r")
        assert terminal.status() == 0


def test_names_are_completed(root: Root) -> None:
    with shell(root) as terminal:
        for typed, completed in (
            ("SELECT 1000 + count(*) FROM analytics.r", "rests"),  # a table of a schema
            (" AS x JOIN co", "core.c"),  # a table by its schema
            (" ON n = rema", "remainder"),  # a column of a table that is named
            (" WHERE x.how", '"How Many"'),  # of an alias, quoted
        ):
            terminal.type(f"{typed}\t")
            terminal.expect(completed)
        terminal.type(" = 33;\r")
        terminal.expect("1002")
        terminal.wait(terminal.is_edited)
        terminal.type(".sch\t")
        terminal.expect(".schema")
        terminal.type(" stag\t")
        terminal.expect("staging.s")
        terminal.type("\r")
        terminal.expect("_offset")


def test_ctrl_c_ends_the_query_and_keeps_the_shell(root: Root) -> None:
    with shell(root) as terminal:
        before = terminal.cpu_s()
        terminal.type(f"{LONG}\r")
        terminal.wait(lambda: not terminal.is_edited() and terminal.cpu_s() > before + 1)
        terminal.type("\x03")
        terminal.expect("interrupted", 20)
        terminal.wait(terminal.is_edited)
        terminal.type("SELECT 'half of a li\x03")  # at the prompt it drops the line
        terminal.expect("interrupted")
        terminal.wait(terminal.is_edited)
        terminal.type("SELECT 40 + 2 AS answer;\r")
        terminal.expect("42")
        terminal.wait(terminal.is_edited)
        terminal.type("\x04")
        assert terminal.status() == 0


def test_what_was_typed_is_found_again_and_read_by_nobody_else(root: Root) -> None:
    with shell(root) as terminal:
        terminal.type("SELECT 6 * 7\r  AS answer;\r")
        terminal.expect("42")
        terminal.wait(terminal.is_edited)
        terminal.type("\x04")
        terminal.status()
    file = root.path.parent / "state/kappa/shell_history"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with shell(root) as terminal:
        terminal.type("\x1b[A\r")
        terminal.expect("42")


def test_a_history_that_cannot_be_written_is_said_and_not_in_the_way(root: Root) -> None:
    (root.path.parent / "state").write_text("no folder")
    with at_terminal(command(root), {"XDG_STATE_HOME": str(root.path.parent / "state")}) as terminal:
        terminal.expect("the history is not kept")
        terminal.wait(terminal.is_edited)
        terminal.type("SELECT 6 * 7;\r")
        terminal.expect("42")


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colours_unless_they_are_not_wanted(root: Root, no_color: str) -> None:
    with shell(root, NO_COLOR=no_color) as terminal:
        terminal.type("SELECT 6 * 7;\r")
        terminal.expect("42")
        assert bool(COLOUR.search(terminal.raw)) == (no_color == "")


def test_each_statement_sees_the_newest_rows_unless_the_cut_is_held(root: Root) -> None:
    with shell(root) as terminal:
        terminal.type("SELECT 1000 + count(*) FROM core.c;\r")
        terminal.expect("1100")
        terminal.wait(terminal.is_edited)
        for table in root.tables.values():
            table.commit({0: (100, 105, range(100, 105))})
        terminal.type("SELECT 1000 + count(*) FROM core.c;\r")
        terminal.expect("1105")
        terminal.type(".hold on\r")
        terminal.wait(terminal.is_edited)
        for table in root.tables.values():
            table.commit({0: (105, 110, range(105, 110))})
        terminal.type("SELECT 2000 + count(*) FROM core.c;\r")
        terminal.expect("2105")
        terminal.type(".hold off\rSELECT 2000 + count(*) FROM core.c;\r")
        terminal.expect("2110")


# --- at the end of a pipe


def test_a_pipe_gets_answers_and_nothing_else(root: Root) -> None:
    done = piped(root, "-- rests; all of them\nFROM analytics.rests;\nSELECT 'a;b' AS x,\n 1 AS y", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert list(csv.reader(io.StringIO(done.stdout))) == [
        *(["remainder", "How Many"], ["0", "34"], ["1", "33"], ["2", "33"]),
        *(["x", "y"], ["a;b", "1"]),
    ]


def test_a_failed_statement_of_a_pipe_is_said_as_query_says_it_and_the_next_is_asked(root: Root) -> None:
    done = piped(root, "FROM core.cc; SELECT m FROM core.c; DROP TABLE core.c; SELECT 42 AS answer;")
    assert done.returncode == 1
    assert "42" in done.stdout
    for statement in ("FROM core.cc", "SELECT m FROM core.c", "DROP TABLE core.c"):
        alone = subprocess.run([*command(root)[:-1], "query", statement], capture_output=True, text=True, timeout=60, check=False)
        assert alone.returncode != 0
        assert alone.stderr in done.stderr


def test_statements_of_a_pipe_are_answered_as_they_come(root: Root) -> None:
    with subprocess.Popen(command(root, "--format", "csv"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2):
            process.stdin.write(f"SELECT {number} AS n;\n")
            process.stdin.flush()
            assert [process.stdout.readline(), process.stdout.readline()] == ['"n"\n', f"{number}\n"]
        process.stdin.close()
    assert process.returncode == 0


def test_a_reader_that_has_seen_enough_ends_it_quietly(root: Root) -> None:
    script = '"$@" | head -n 1'
    lines = "FROM range(100000);\n" * 3
    words = ["sh", "-c", script, "sh", *command(root, "--format", "csv")]
    done = subprocess.run(words, input=lines, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ('"range"\n', "")


def test_ctrl_c_ends_a_pipe(root: Root) -> None:
    script = f"printf '%s' '{LONG}' | \"$@\""
    with at_terminal(["bash", "-c", script, "bash", *command(root)], {}) as terminal:
        terminal.wait(lambda: _children_cpu_s(terminal) > 1.5)
        terminal.type("\x03")
        terminal.expect("interrupted", 20)
        assert terminal.status() == 130


def _children_cpu_s(terminal: Terminal) -> float:
    total = 0.0
    for child in psutil.Process(terminal.process.pid).children(recursive=True):
        try:
            total += child.cpu_times().user
        except psutil.NoSuchProcess:
            continue
    return total


def test_files_are_read_and_written(root: Root) -> None:
    folder = root.path.parent
    (folder / "inner.sql").write_text(".read outer.sql\nSELECT 2 AS n;\n")
    (folder / "outer.sql").write_text("SELECT 1 AS n; .read inner.sql\nSELECT 3 AS n;\n.quit\nSELECT 4 AS n;\n")
    text = ".mode csv\n.output all.csv\n.once alone.parquet\nFROM core.c;\n.timing on\nSELECT 0 AS n;\n.output\n"
    text += ".read nothing.sql\n.read outer.sql\n"
    done = subprocess.run(
        command(root),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path()},
    )
    assert done.returncode == 1
    assert done.stdout.split() == ['"n"', "1", '"n"', "2", '"n"', "3"]
    assert "outer.sql reads itself" in done.stderr
    assert "nothing.sql cannot be read" in done.stderr
    assert "time: 0." in done.stderr
    assert (folder / "all.csv").read_text() == '"n"\n0\n'
    assert pq.read_table(folder / "alone.parquet").num_rows == 100


def path() -> str:
    """Where this checkout is, for a command that runs in another folder."""
    return str(Path(__file__).parents[2])


def test_commands_say_what_is_wrong_with_them(root: Root) -> None:
    lines = [".tabels", ".mode", ".mode parquet", ".mode xml", ".rows 0", ".rows x", ".timing maybe", ".read", ".help me", ".schema 'core"]
    done = piped(root, "\n".join(lines))
    assert done.returncode == 1
    assert done.stdout == "table\n"
    assert done.stderr.count("error: ") == len(lines) - 1
    assert "did you mean .tables?" in done.stderr
    assert ".once answer.parquet" in done.stderr


def test_help_and_schema(root: Root) -> None:
    done = piped(root, ".help\n.schema\n.schema core.nothing")
    assert done.returncode == 1
    assert "no table core.nothing" in done.stderr
    for name in (".tables [WORD]", ".read FILE", "analytics.rests", "How Many", "staging.s"):
        assert name in done.stdout
