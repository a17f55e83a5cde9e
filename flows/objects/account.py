"""The settings of S3, as AWS's own tools read them, and each client's options made from them: one truth for all clients.

boto3 resolves endpoint, region and credentials: the ``AWS_`` variables, ``~/.aws``, single sign-on, the machine's role. deltalake and
DuckDB know a part of that each, so they are told the result. An endpoint of one's own is addressed by path (``endpoint/bucket/key``).
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from flows.objects.errors import AccessDenied, EndpointRefused, SettingsUnusable, explain

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 30
ATTEMPTS = 5  # of what may be asked twice
_AWS = (".amazonaws.com", ".amazonaws.com.cn")


class Account:
    """Where S3 is and who asks. ``client`` retries; ``once`` never does, for what must not be sent twice without a look."""

    def __init__(self) -> None:
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            session = boto3.Session()
            self.region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            self._credentials = session.get_credentials()
            style = (session._session.get_scoped_config().get("s3") or {}).get("addressing_style", "")
            self.client = self._connect(session, ATTEMPTS)
            self.once = self._connect(session, 1)
        except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise SettingsUnusable(str(error)) from None
        parts = urlsplit(self.client.meta.endpoint_url)
        self.host = parts.netloc.rpartition("@")[2]
        self.tls = parts.scheme == "https"
        self.custom = not (parts.hostname or "").endswith(_AWS)
        self._check(style, parts.hostname or "", parts.path)

    def _connect(self, session: Any, attempts: int) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": attempts},
        )
        return session.client("s3", region_name=self.region, config=config)

    @property
    def endpoint(self) -> str:
        """For people: without what may be secret in an URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def _check(self, style: str, hostname: str, path: str) -> None:
        if path.strip("/"):
            raise EndpointRefused(self.endpoint, "it has a path", "set AWS_ENDPOINT_URL to scheme://host:port")
        virtual = style == "virtual" or os.environ.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() == "true"
        if self.custom and virtual:
            raise EndpointRefused(
                self.endpoint, "buckets as host names are used with AWS's own endpoints only", "set s3 addressing_style = path"
            )
        if not self.tls and not _is_loopback(hostname) and os.environ.get("AWS_ALLOW_HTTP", "").lower() != "true":
            raise EndpointRefused(
                self.endpoint, "it is not encrypted, and is not this machine", "use https, or allow it: AWS_ALLOW_HTTP=true"
            )

    def _keys(self, bucket: str) -> tuple[str, str, str | None]:
        """Access key, secret, session token: as they are now, since those of a role expire."""
        if self._credentials is None:
            raise AccessDenied(f"s3://{bucket}", "no credentials were found")
        with self.asking(bucket, ""):
            frozen = self._credentials.get_frozen_credentials()
        return frozen.access_key, frozen.secret_key, frozen.token

    def delta_options(self, bucket: str) -> dict[str, str]:
        """deltalake's storage options."""
        key, secret, token = self._keys(bucket)
        options = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_REGION": self.region}
        if token:
            options["AWS_SESSION_TOKEN"] = token
        if self.custom:
            options |= {"AWS_ENDPOINT_URL": self.endpoint, "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"}
        return options | {"AWS_ALLOW_HTTP": str(not self.tls).lower()}

    def duckdb_secret(self, bucket: str) -> str:
        """The statement that gives DuckDB's httpfs and delta extensions the same settings for one bucket. It holds the secret key."""
        key, secret, token = self._keys(bucket)
        by_path = self.custom or "." in bucket  # a certificate covers no dots
        values = {"KEY_ID": key, "SECRET": secret, "REGION": self.region, "URL_STYLE": "path" if by_path else "vhost"}
        values |= {"SESSION_TOKEN": token} if token else {}
        values |= {"ENDPOINT": self.host} if self.custom else {}
        settings = ", ".join(f"{name} {_text(value)}" for name, value in values.items())
        name = '"' + bucket.replace('"', '""') + '"'
        return f"CREATE OR REPLACE SECRET {name} (TYPE s3, SCOPE {_text(f's3://{bucket}')}, USE_SSL {str(self.tls).lower()}, {settings})"

    @contextmanager
    def asking(self, bucket: str, key: str) -> Iterator[None]:
        """Raises what ``explain`` makes of botocore's errors. ValueError, TypeError: a bucket's name that botocore refuses."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except (BotoCoreError, ClientError, HTTPError) as error:
            raise explain(error, bucket, key, self.endpoint, self.region) from None


def account() -> Account:
    """The account of the environment as it is now. Raises SettingsUnusable, EndpointRefused."""
    return _account(tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))))


@lru_cache(maxsize=4)
def _account(environment: Mapping[str, str]) -> Account:
    """One a process and environment: clients are slow to make, and may be used by all threads."""
    return Account()


def _is_loopback(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
