"""S3 servers for the tests: moto's, and a real one (VersityGW) where it is installed."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
from botocore.config import Config

ACCESS, SECRET = "kappa-test-access", "kappa-test-secret-0123456789"
START_S = 60


def versitygw() -> str | None:
    """Where the real server is: KAPPA_VERSITYGW, the PATH, or where .ci/versitygw puts it."""
    cache = Path(os.environ.get("KAPPA_CACHE_DIR", "~/.cache/kappa")).expanduser() / "versitygw"
    return os.environ.get("KAPPA_VERSITYGW") or shutil.which("versitygw") or shutil.which("versitygw", path=str(cache))


def servers() -> list[str]:
    """The servers that this machine has."""
    return ["moto", "versitygw"] if versitygw() else ["moto"]


@dataclass
class S3Server:
    """A running server, in a process of its own."""

    kind: str
    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What a kappa that uses it needs; no other account of this machine is looked at."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nonexistent/config",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
        }

    def client(self):
        """A plain boto3 client, which shares no code with kappa's."""
        keys = {"aws_access_key_id": ACCESS, "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
        return boto3.client("s3", endpoint_url=self.endpoint, config=Config(s3={"addressing_style": "path"}), **keys)

    def make_bucket(self) -> str:
        """A bucket of its own for a test."""
        bucket = f"kappa-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


@contextlib.contextmanager
def serve(kind: str, folder: Path) -> Iterator[S3Server]:
    """A server whose data and output are in ``folder``."""
    if kind == "moto":
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "{port}"]
    else:
        for part in ("buckets", "sidecar"):
            (folder / part).mkdir()
        command = [str(versitygw()), "--access", ACCESS, "--secret", SECRET, "--port", "127.0.0.1:{port}", "-q", "posix"]
        command += ["--sidecar", str(folder / "sidecar"), str(folder / "buckets")]
    with listening(command, folder / f"{kind}.out") as endpoint:
        yield S3Server(kind, endpoint)


@contextlib.contextmanager
def listening(command: list[str], output: Path) -> Iterator[str]:
    """The endpoint of a process that answers on a free port of this machine, which stands for ``{port}`` in its command."""
    port = free_port()
    with output.open("wb") as out, subprocess.Popen([part.format(port=port) for part in command], stdout=out, stderr=out) as process:
        try:
            _await(port, process, output)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    """Until it answers a request."""
    give_up = time.monotonic() + START_S
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except OSError:
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < give_up, output.read_text()
            time.sleep(0.05)
        finally:
            connection.close()
