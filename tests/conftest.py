"""Servers for the tests: one Kafka and one PostgreSQL a session, started when the first test asks, stopped by pid at the end."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest

from infra.stack.local import LocalStack
from tests.s3 import S3Server, serve, servers

HEAP_MB = 384

# A busy machine is no fault of the code: time is measured by the benchmark alone.
hypothesis.settings.register_profile("kappa", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("kappa")

for size in ("COLUMNS", "LINES"):  # what is printed follows the terminal's size: here there is none, also in a worker of pytest-xdist
    os.environ.pop(size, None)


@pytest.hookimpl(trylast=True)  # behind pytest-randomly
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, else in the order that they have: a long one that begins last leaves the other worker without work."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@dataclass(frozen=True)
class Kafka:
    """A running broker. ``config`` is enough for any confluent_kafka client."""

    bootstrap: str
    stack: LocalStack

    @property
    def config(self) -> dict[str, str]:
        return {"bootstrap.servers": self.bootstrap}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of this session's own, nothing started yet."""
    stack = LocalStack(tmp_path_factory.mktemp("stack"), kafka_heap_mb=HEAP_MB)
    yield stack
    stack.down()


@pytest.fixture(scope="session")
def kafka(stack: LocalStack) -> Kafka:
    """The session's broker. A test that stops or kills a broker makes a LocalStack of its own."""
    stack.up(postgres=False)
    assert stack.kafka.bootstrap_servers is not None
    return Kafka(stack.kafka.bootstrap_servers, stack)


@pytest.fixture(scope="session")
def postgres(stack: LocalStack) -> str:
    """DSN of the session's PostgreSQL (database ``kappa``, its superuser)."""
    stack.up(kafka=False)
    assert stack.postgres.dsn is not None
    return stack.postgres.dsn


@pytest.fixture(scope="session", params=servers())
def s3_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server: moto's, and VersityGW where it is installed (CONTRIBUTING.md)."""
    with serve(request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a bucket of the test's own, which the environment gives access to."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.make_bucket()}"


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> str:
    """A topic name that no other test has."""
    return f"{re.sub(r'[^a-z0-9]+', '-', request.node.name.lower())[:40].strip('-')}-{uuid.uuid4().hex[:8]}"
