"""Where Kafka and PostgreSQL are: an existing cluster when the settings name one, else the warehouse's running local stack.

Secrets stay in ``Addresses`` alone: what is shown, logged or raised goes through the masks here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from connectors.clients import client
from flows.errors import KappaError
from flows.project import Project
from flows.settings import MASK, mask_secrets
from infra.stack.local import LocalStack

BOOTSTRAP = "bootstrap.servers"
ANSWER_TIMEOUT_S = 10
_SECRET_PARAMETERS = ("password", "sslpassword")


class StackDown(KappaError):
    """The settings name no Kafka, and the local one does not run."""


class ServerUnreachable(KappaError):
    """A Kafka or PostgreSQL that the settings name does not answer."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """``kafka``: librdkafka's whole client configuration. ``postgres_dsn``: None when there is no PostgreSQL now."""

    kafka: dict[str, str] = field(repr=False)
    postgres_dsn: SecretStr | None


def local_stack(project: Project) -> LocalStack:
    """The warehouse's own stack, running or not."""
    return LocalStack(project.state_dir, kafka_heap_mb=project.settings.local.kafka_heap_mb)


def names_kafka(project: Project) -> bool:
    """Whether the settings name an existing Kafka."""
    return bool(project.settings.kafka.get(BOOTSTRAP))


def names_postgres(project: Project) -> bool:
    """Whether the settings name an existing PostgreSQL."""
    return project.settings.postgres.dsn is not None


def resolve(project: Project) -> Addresses:
    """Both addresses; nothing is asked over the network. Raises StackDown when there is no Kafka."""
    return Addresses(kafka_config(project), postgres_dsn(project))


def kafka_config(project: Project) -> dict[str, str]:
    """librdkafka's configuration: the ``[kafka]`` settings, over the local stack's address. Raises StackDown."""
    settings = project.settings.kafka
    if names_kafka(project):
        return dict(settings)
    kafka = local_stack(project).kafka
    if kafka.process() is None or kafka.bootstrap_servers is None:
        raise StackDown(
            "Kafka is not running",
            cause=f"no [kafka] bootstrap_servers in the settings, and no local Kafka in {project.state_dir}",
            next_step="kappa up",
        )
    return {**settings, BOOTSTRAP: kafka.bootstrap_servers}


def postgres_dsn(project: Project) -> SecretStr | None:
    """The settings' DSN, else the running local PostgreSQL's, else None."""
    if project.settings.postgres.dsn is not None:
        return project.settings.postgres.dsn
    postgres = local_stack(project).postgres
    if postgres.process() is None or postgres.dsn is None:
        return None
    return SecretStr(postgres.dsn)


def check_kafka(project: Project) -> None:
    """Ask the existing Kafka for its metadata. Raises KafkaSettingsWrong, ServerUnreachable, with the secrets masked."""
    settings = project.settings
    problem: list[str] = []
    admin = client(AdminClient, {**settings.kafka, "log_level": "0", "error_cb": lambda error: problem.append(error.str())})
    try:
        admin.list_topics(timeout=ANSWER_TIMEOUT_S)
    except KafkaException as error:
        raise ServerUnreachable(
            f"Kafka at {settings.kafka[BOOTSTRAP]} does not answer",
            cause=mask_secrets("; ".join(dict.fromkeys([error.args[0].str(), *problem])), settings.kafka),
            next_step="correct [kafka] in warehouse.toml (or KAPPA_KAFKA__...), then: kappa status",
        ) from None


def check_postgres(project: Project) -> None:
    """Ask the existing PostgreSQL for something. Raises ServerUnreachable, with the secrets masked."""
    dsn = project.settings.postgres.dsn
    assert dsn is not None
    next_step = "correct [postgres] dsn (or KAPPA_POSTGRES__DSN), then: kappa status"
    try:
        parameters = conninfo_to_dict(dsn.get_secret_value())
    except psycopg.ProgrammingError:  # its message quotes the DSN
        raise ServerUnreachable(
            "the PostgreSQL DSN cannot be read", cause="neither a URL nor key=value pairs", next_step=next_step
        ) from None
    secrets = [str(parameters[name]) for name in _SECRET_PARAMETERS if parameters.get(name)]
    try:
        with psycopg.connect(dsn.get_secret_value(), connect_timeout=ANSWER_TIMEOUT_S) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        raise ServerUnreachable(
            f"PostgreSQL at {mask_dsn(dsn)} does not answer", cause=_mask(str(error).strip(), secrets), next_step=next_step
        ) from None


def mask_dsn(dsn: SecretStr) -> str:
    """The DSN as a URL with its password masked, for people and logs."""
    try:
        parameters = {name: str(value) for name, value in conninfo_to_dict(dsn.get_secret_value()).items()}
    except psycopg.ProgrammingError:
        return MASK
    user, host, port, name = (parameters.pop(part, "") for part in ("user", "host", "port", "dbname"))
    credentials = quote(user) + (f":{MASK}" if parameters.pop("password", "") else "")
    others = {key: MASK if key in _SECRET_PARAMETERS else value for key, value in parameters.items()}
    return (
        "postgresql://"
        + (f"{credentials}@" if credentials else "")
        + quote(host, safe="/:[],")
        + (f":{port}" if port else "")
        + f"/{quote(name)}"
        + (f"?{urlencode(others, safe='*')}" if others else "")
    )


def _mask(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text
