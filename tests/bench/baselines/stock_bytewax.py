"""Bytewax with its own Kafka source, one Python object a message, into Delta: as good as the stock pieces allow.

The source gets the consumer's good settings and large batches; the sink (Bytewax has none for Delta) decodes and commits
200,000 messages at once, which was faster than decoding each message in a ``map`` step.
"""

from __future__ import annotations

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from tests.bench.baselines import COMMIT_ROWS, CONSUME_MESSAGES, GOOD_SETTINGS, arguments, program
from tests.bench.baselines.plain_loop import write

Item = KafkaSourceMessage[bytes | None, bytes | None]


class Rows(StatelessSinkPartition[Item]):
    """Collects messages and writes them as large commits."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._values: list[bytes] = []
        self.records = 0

    def write_batch(self, items: list[Item]) -> None:
        self._values.extend([item.value for item in items if item.value is not None])
        if len(self._values) >= COMMIT_ROWS:
            self._commit()

    def close(self) -> None:
        if self._values:
            self._commit()

    def _commit(self) -> None:
        write(self._folder, self._values)
        self.records += len(self._values)
        self._values = []


class Sink(DynamicSink[Item]):
    """One worker, one table."""

    def __init__(self, folder: str) -> None:
        self.rows = Rows(folder)

    def build(self, step_id: str, worker_index: int, worker_count: int) -> Rows:
        return self.rows


def read() -> int:
    """Read every record once, into a table."""
    bootstrap, topic, folder = arguments()
    flow = Dataflow("stock")
    source = KafkaSource([bootstrap], [topic], tail=False, add_config=dict(GOOD_SETTINGS), batch_size=CONSUME_MESSAGES)
    sink = Sink(folder)
    op.output("delta", op.input("kafka", flow, source), sink)
    run_main(flow)
    return sink.rows.records


if __name__ == "__main__":
    program(read)
