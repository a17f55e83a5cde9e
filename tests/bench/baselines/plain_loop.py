"""What one writes by hand: consume, pyarrow.json, write_deltalake every 200,000 rows. No guarantee, no rejects, no offsets."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.json
from confluent_kafka import Message
from deltalake import write_deltalake

from tests.bench.baselines import COMMIT_ROWS, CONSUME_MESSAGES, arguments, open_consumer, program
from tests.bench.events import schema


def decode(values: list[bytes]) -> pa.Table:
    """JSON values as the contract's columns."""
    options = pa.json.ParseOptions(explicit_schema=schema())
    return pa.json.read_json(io.BytesIO(b"\n".join(values)), pa.json.ReadOptions(block_size=1 << 24), options)


def write(folder: str, values: list[bytes]) -> None:
    """One commit."""
    write_deltalake(folder, decode(values), mode="append")


def read() -> int:
    """Read every record once, into a table."""
    bootstrap, topic, folder = arguments()
    consumer, wanted = open_consumer(bootstrap, topic)
    records = 0
    values: list[bytes] = []
    while records < wanted:
        messages = consumer.consume(min(CONSUME_MESSAGES, wanted - records), 1)
        records += len(messages)
        values.extend(map(Message.value, messages))
        if len(values) >= COMMIT_ROWS or records == wanted:
            write(folder, values)
            values = []
    return records


if __name__ == "__main__":
    program(read)
