"""A proxy before an S3 server that loses answers: ``python -m tests.s3_proxy PORT HOST:PORT``.

A process of its own, because deltalake keeps Python's lock while it waits for an answer.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.s3 import S3Server, listening

CONTROL = "/-proxy-/"


@dataclass
class Proxy:
    """Before a server. ``endpoint``: what clients are told."""

    endpoint: str

    def next_put(self, fault: str) -> None:
        """What happens to the next conditional put, once: ``lost`` (it lands, the answer does not arrive), ``failed`` (503, it does not
        land), ``torn`` (the connection breaks, it does not land); empty: nothing.
        """
        urllib.request.urlopen(f"{self.endpoint}{CONTROL}{fault}").read()

    def puts(self) -> list[str]:
        """The paths of the conditional puts since ``next_put`` was called."""
        return urllib.request.urlopen(f"{self.endpoint}{CONTROL}?").read().decode().split()


@contextlib.contextmanager
def proxied(server: S3Server, folder: Path) -> Iterator[Proxy]:
    """A proxy before ``server``; its output goes to ``folder``."""
    command = [sys.executable, "-m", "tests.s3_proxy", "{port}", server.endpoint.removeprefix("http://")]
    with listening(command, folder / "proxy.out") as endpoint:
        yield Proxy(endpoint)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fault = ""
    puts: list[str] = []  # noqa: RUF012 - of the process

    def answer(self) -> None:
        if self.path.startswith(CONTROL):
            return self.control()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = ""
        if self.command == "PUT" and "If-None-Match" in self.headers:
            Handler.puts.append(self.path)
            fault, Handler.fault = Handler.fault, ""
        if fault == "failed":
            return self.say(503, [], b"")
        if fault != "torn":
            status, headers, content = forward(sys.argv[2], self.command, self.path, dict(self.headers), body)
            if not fault:
                return self.say(status, headers, content)
        self.close_connection = True
        return None

    def control(self) -> None:
        if self.path == f"{CONTROL}?":
            return self.say(200, [], "\n".join(Handler.puts).encode())
        Handler.puts.clear()
        Handler.fault = self.path.removeprefix(CONTROL)
        return self.say(200, [], b"")

    def say(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        with contextlib.suppress(OSError):  # a client that has seen enough
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


def forward(target: str, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    connection = http.client.HTTPConnection(target, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() != "expect":
                connection.putheader(name, value)
        connection.endheaders(body or None)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
