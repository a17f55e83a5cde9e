"""The one place where clients of Kafka are made for the user's settings, and where one waits for their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from flows.control import RunControl
from flows.errors import KappaError
from flows.settings import mask_secrets

LOOK_EVERY_S = 0.2
SAY_AFTER_S = 1.0
_T = TypeVar("_T")


class KafkaSettingsWrong(KappaError):
    """librdkafka does not know a setting, or does not take its value."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            "librdkafka refuses the settings of Kafka",
            cause=cause,
            next_step="correct [kafka] in warehouse.toml (or KAPPA_KAFKA__...), then: kappa status",
        )


def client(kind: Callable[[dict[str, Any]], _T], config: Mapping[str, Any]) -> _T:
    """An AdminClient, a Consumer or a Producer. Raises KafkaSettingsWrong, with the secrets masked."""
    try:
        return kind(dict(config))
    except (KafkaException, TypeError, ValueError) as error:
        problem = error.args[0] if error.args else error
        cause = problem.str() if isinstance(problem, KafkaError) else str(problem)
        raise KafkaSettingsWrong(mask_secrets(cause, config)) from None


def reader(config: Mapping[str, Any], group: str) -> Consumer:
    """A consumer for one look at committed records, which is told where a partition ends. Raises KafkaSettingsWrong.

    ``group``: required by librdkafka; it is not joined, and no offset is committed. Kafka answers a fetch behind the last record after
    20 ms, not after its half second: what is looked for is there already.
    """
    return client(
        Consumer,
        {
            "fetch.wait.max.ms": 20,
            "log_level": 2,
            **config,
            "group.id": group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        },
    )


def answer(future: Future[_T], timeout_s: float, bootstrap_servers: str, control: RunControl | None = None) -> _T:
    """What Kafka answers. With ``control`` it says whom it waits for, and gives up when the run is to stop. Raises as the future does,
    and TimeoutError.
    """
    if control is None:
        return future.result(timeout_s)
    began = time.monotonic()
    said = False
    while True:
        try:
            return future.result(LOOK_EVERY_S)
        except TimeoutError:
            waited = time.monotonic() - began
            if control.stopping or waited >= timeout_s:
                raise
        if not said and waited >= SAY_AFTER_S:
            control.notify(f"waiting for Kafka at {bootstrap_servers}")
            said = True
