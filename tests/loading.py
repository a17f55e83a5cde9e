"""A source and a file for tests that run the real ``kappa load`` in processes of its own, and a check that shares no code with it."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

# Small transactions, so that a short file has many: the code is the real one.
START = """
import connectors.files.records, connectors.load
connectors.files.records._BLOCK_BYTES = 4096
connectors.load.COMMIT_ROWS = 1
from infra.cli import main
main()
"""
SOURCE = """
topic = "{topic}"
format = "csv"
key = ["carrier", "flight"]
partitions = 3
max_record_bytes = 4096
[columns]
flight = "integer not null"
carrier = "varchar not null"
remark = "varchar"
[csv]
null = ["NA"]
"""
BROKEN = [b'7,"UA"x,text after a quote', b"8,one cell too many,x,y", b"9,\xff\xfe,not UTF-8"]


@dataclass
class Loading:
    """A folder with one source ``flights`` and one file; ``rows``: what plain csv reading finds, raw bytes for a broken row."""

    folder: Path
    bootstrap: str
    topic: str
    rows: list[dict[str, str | None] | bytes]

    @classmethod
    def make(cls, folder: Path, bootstrap: str, topic: str, count: int) -> Loading:
        (folder / "sources").mkdir(parents=True)
        (folder / "warehouse.toml").write_text('name = "test"\n')
        (folder / "sources/flights.toml").write_text(SOURCE.format(topic=topic))
        made = cls(folder, bootstrap, topic, [])
        made.write(count)
        return made

    @property
    def file(self) -> Path:
        return self.folder / "flights.csv"

    def write(self, count: int, seed: int = 0) -> None:
        """The file: nulls, quotes, lines in cells, and every 500th row broken."""
        chance = random.Random(f"{self.topic} {seed}")  # one broker serves all tests: each has content of its own
        lines = [b"flight,carrier,remark"]
        for number in range(count):
            if number % 500 == 250:
                lines.append(BROKEN[number // 500 % len(BROKEN)])
            else:
                remark = chance.choice(["NA", "plain", '"a ""quoted"" one"', '"two\nlines"', "é\\u", f'"{number},{seed}"'])
                lines.append(f"{number},{chance.choice(['UA', 'NA', 'B6'])},{remark}".encode())
        self.file.write_bytes(b"\n".join(lines) + b"\n")
        self.rows = list(plainly(self.file.read_bytes()))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", START, "-C", str(self.folder), "load", "flights", str(self.file), *arguments]
        more = {"KAPPA_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, **environment}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **more})

    def load(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run it to its end. Returns its output."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    def wait_until_begun(self, process: subprocess.Popen[str]) -> None:
        """Until the first transaction of ``process`` is committed. It goes on meanwhile."""
        consumer = Consumer(
            {"bootstrap.servers": self.bootstrap, "group.id": "independent", "isolation.level": "read_committed", "log_level": 2}
        )
        try:
            while process.poll() is None:
                consumer.unassign()
                found = consumer.list_topics(self.topic, 10).topics[self.topic]
                if found.error is None and len(found.partitions) == 3:
                    consumer.assign([TopicPartition(self.topic, partition, 0) for partition in found.partitions])
                    if consumer.poll(0.2) is not None:
                        return
        finally:
            consumer.close()

    def committed(self) -> list[tuple[int, dict[str, Any] | bytes, dict[str, bytes], bytes | None]]:
        """(row number, value, headers, key) of every committed record, by row number: a plain consumer and plain JSON."""
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "independent", "enable.partition.eof": True, "fetch.wait.max.ms": 20}
        consumer = Consumer({**settings, "isolation.level": "read_committed", "auto.offset.reset": "earliest", "log_level": 2})
        found = consumer.list_topics(self.topic, 10).topics[self.topic]
        left = set(found.partitions) if found.error is None else set()
        consumer.assign([TopicPartition(self.topic, partition, 0) for partition in left])
        records = []
        while left:
            for message in consumer.consume(10_000, 0.1):
                if message.error() is not None:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    left.discard(message.partition())
                    continue
                headers = dict(message.headers())
                value = message.value() if "kappa-broken" in headers else json.loads(message.value())
                records.append((int(headers["kappa-row"]), value, headers, message.key()))
        consumer.close()
        return sorted(records, key=lambda record: record[0])

    def check(self, times: int = 1) -> None:
        """The topic's committed records are exactly the file's rows, each ``times`` times."""
        records = self.committed()
        assert [row for row, *_ in records] == [row + 1 for row in range(len(self.rows)) for _ in range(times)]
        for row, value, headers, key in records:
            wanted = self.rows[row - 1]
            assert value == wanted, row
            if isinstance(wanted, bytes):
                assert key is None
                assert self.file.read_bytes().split(b"\n")[int(headers["kappa-line"]) - 1] == wanted
                assert headers["kappa-file"].decode() == self.file.as_uri()
            else:
                assert json.loads(key) == {"carrier": wanted["carrier"], "flight": wanted["flight"]}
        assert len({headers["kappa-load"] for _, _, headers, _ in records}) == times


def plainly(content: bytes):
    """Python's csv module over the file without its broken rows, which are put back where they were."""
    parts = {line: line for line in BROKEN}
    good: list[bytes] = []
    for line in [*content.split(b"\n"), None]:
        if line is None or line in parts:
            text = b"\n".join(good).decode()
            for cells in csv.reader(text.splitlines(keepends=True)):
                if cells and cells != ["flight", "carrier", "remark"]:
                    yield {name: None if cell == "NA" else cell for name, cell in zip(("flight", "carrier", "remark"), cells, strict=True)}
            good = []
            if line is not None:
                yield line
        else:
            good.append(line)
