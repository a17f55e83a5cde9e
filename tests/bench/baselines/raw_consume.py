"""The ceiling: ``consume()`` of the whole topic with good settings, and nothing else."""

from __future__ import annotations

from tests.bench.baselines import CONSUME_MESSAGES, arguments, open_consumer, program


def read() -> int:
    """Read every record once."""
    bootstrap, topic, _ = arguments()
    consumer, wanted = open_consumer(bootstrap, topic)
    records = 0
    while records < wanted:
        messages = consumer.consume(min(CONSUME_MESSAGES, wanted - records), 1)
        assert not any(message.error() for message in messages[:1]), messages[0].error()
        records += len(messages)
    return records


if __name__ == "__main__":
    program(read)
