"""The local Kafka: one node that is broker and controller (KRaft), with a small bounded heap, on loopback only."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.stack.errors import DataDamaged, ServerFailed
from infra.stack.jars import class_path
from infra.stack.java import find_java
from infra.stack.server import Say, Server

MESSAGE_MAX_BYTES = 20 * 1024 * 1024
REQUEST_TIMEOUT_S = 2

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={message_max_bytes}
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=8
log.cleaner.dedupe.buffer.size=8388608
"""

_LOG4J = """\
status=error
appenders=file
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.%i
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %-5p %c{{1}}: %m%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=10MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=3
rootLogger.level=info
rootLogger.appenderRefs=file
rootLogger.appenderRef.file.ref=file
"""


class KafkaServer(Server):
    """``folder`` holds the data; ``heap_mb`` bounds the Java heap."""

    name = "kafka"
    port_names = ("broker", "controller")
    start_timeout_s = 90
    stop_signals = ((signal.SIGTERM, 30), (signal.SIGKILL, 10))

    def __init__(self, folder: Path, heap_mb: int = 512) -> None:
        super().__init__(folder)
        self.heap_mb = heap_mb

    @property
    def marker(self) -> str:
        return str(self.folder / "server.properties")

    @property
    def bootstrap_servers(self) -> str | None:
        """``127.0.0.1:port``, None before the first start."""
        port = self.record().ports.get("broker")
        return None if port is None else f"127.0.0.1:{port}"

    def cluster_id(self) -> str | None:
        """From the formatted data folder, None when there is none."""
        try:
            lines = (self.data / "meta.properties").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        return next((line.partition("=")[2] for line in lines if line.startswith("cluster.id=")), None)

    def answers(self) -> bool:
        """A metadata request that is answered by a broker of our own cluster id."""
        if self.bootstrap_servers is None:
            return False
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, "socket.timeout.ms": 2000})
        try:
            metadata = client.list_topics(timeout=REQUEST_TIMEOUT_S)
        except KafkaException:
            return False
        return bool(metadata.brokers) and metadata.cluster_id == self.cluster_id()

    def make_data(self, say: Say) -> None:
        """Format into ``forming/`` and rename: a killed format leaves nothing that looks like data."""
        if self.cluster_id() is not None:
            return
        if self.data.exists():
            self._discard_unformatted(say)
        forming = self.folder / "forming"
        shutil.rmtree(forming, ignore_errors=True)
        properties = self.folder / "forming.properties"
        properties.write_text(_properties({"broker": 9092, "controller": 9093}, forming), encoding="utf-8")
        command = [*self._java(say), "kafka.tools.StorageTool", "format", "--standalone", "-t", new_cluster_id(), "-c", str(properties)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ServerFailed(
                "kafka could not format its data folder", cause=(result.stdout + result.stderr)[-2000:], next_step="kappa up"
            )
        forming.rename(self.data)

    def command(self, ports: dict[str, int], say: Say) -> list[str]:
        Path(self.marker).write_text(_properties(ports, self.data), encoding="utf-8")
        return [*self._java(say), "kafka.Kafka", self.marker]

    def _java(self, say: Say) -> list[str]:
        jars = class_path(say)
        log4j = self.folder / "log4j2.properties"
        log4j.write_text(_LOG4J.format(log=_escaped(self.log)), encoding="utf-8")
        # A small collector, compiler and stack: the broker shares the machine with everything else.
        limits = [f"-Xmx{self.heap_mb}m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"]
        return [str(find_java(say)), *limits, f"-Dlog4j2.configurationFile={log4j}", "-cp", jars]

    def _discard_unformatted(self, say: Say) -> None:
        if any(path.stat().st_size for path in self.data.glob("*-*/*.log") if path.parent.name != "__cluster_metadata-0"):
            raise DataDamaged(
                f"{self.data} holds events but no meta.properties",
                cause="the file was deleted, or the folder is a partial copy",
                next_step=f"put {self.data / 'meta.properties'} back, or lose the events: kappa reset",
            )
        say(f"kafka: {self.data} is half made: making it anew")
        shutil.rmtree(self.data)


def new_cluster_id() -> str:
    """16 random bytes as Kafka writes them; never beginning with a dash, which its tools would take for an option."""
    while (text := base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _properties(ports: dict[str, int], data: Path) -> str:
    return _PROPERTIES.format(**ports, data=_escaped(data), message_max_bytes=MESSAGE_MAX_BYTES)


def _escaped(path: Path) -> str:
    """As java.util.Properties reads it, which takes the file's bytes for Latin-1: JSON's escapes are a subset of its own."""
    return json.dumps(str(path))[1:-1]
