"""What S3 refuses is one clear error in every command: it names bucket, key, cause and next command, and holds no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from flows.errors import KappaError
from flows.objects import parse_url
from flows.objects.account import account
from flows.objects.errors import AccessDenied, ObjectChanged, RegionWrong, Unreachable, explain
from tests.inprocess import kappa
from tests.s3 import SECRET, S3Server, free_port
from tests.warehouse import write_folder

pytestmark = pytest.mark.slow
COMMANDS = ["run", "tables", "show core.event", "query SELECT(1)", "rejects events", "audit"]


def folder(path: Path, storage: str) -> Path:
    write_folder(path, "events", settings=f'storage = "{storage}"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_no_such_bucket(s3: str, tmp_path: Path, command: str) -> None:
    text = kappa(folder(tmp_path, "s3://kappa-nowhere/flights"), *command.split(), status=1)
    for part in ("no bucket kappa-nowhere", "s3://kappa-nowhere/flights/_kappa", "127.0.0.1", "aws s3 mb s3://kappa-nowhere"):
        assert part in text
    assert SECRET not in text


def test_a_server_that_does_not_answer(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    text = kappa(folder(tmp_path, s3), "tables", status=1)
    for part in (f"{s3}/_kappa/format.json cannot be reached", endpoint, "AWS_ENDPOINT_URL"):
        assert part in text


def test_no_credentials(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = kappa(folder(tmp_path, s3), "tables", status=1)
    for part in (f"access to {s3}/_kappa", "no credentials were found", "AWS_PROFILE"):
        assert part in text


def test_wrong_credentials(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto takes any; the real server does not."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    if s3_server.kind == "moto":
        assert not (parse_url(s3) / "a").exists()
        return
    for ask in ((parse_url(s3) / "a").read_bytes, (parse_url(s3) / "a").exists, lambda: list(parse_url(s3).iterdir())):
        with pytest.raises(AccessDenied) as denied:
            ask()
        assert s3 in str(denied.value)
        assert "another-secret" not in str(denied.value)
    with pytest.raises(AccessDenied):
        (parse_url(s3) / "a").put_if_absent(b"")


def test_a_profile_that_is_not_there(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    text = kappa(folder(tmp_path, s3), "tables", status=1)
    assert "the settings of S3 cannot be used" in text
    assert "nobody" in text


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_ENDPOINT_URL": "http://s3.example.test"}, "AWS_ALLOW_HTTP=true"),
        ({"AWS_ENDPOINT_URL": "http://user:hidden@s3.example.test"}, "AWS_ALLOW_HTTP=true"),
        ({"AWS_ENDPOINT_URL": "https://s3.example.test/below"}, "it has a path"),
        ({"AWS_ENDPOINT_URL": "https://s3.example.test", "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}, "addressing_style = path"),
        ({"AWS_ENDPOINT_URL": "nothing"}, "the settings of S3 cannot be used"),
    ],
)
def test_endpoints_that_are_not_used(s3: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], words: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(KappaError) as refused:
        account()
    assert words in str(refused.value)
    assert "hidden" not in str(refused.value)


def test_all_clients_are_told_the_same(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a profile, which neither deltalake nor DuckDB reads."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text("[profile lake]\nregion = eu-central-1\nendpoint_url = https://s3.example.test:9000\n")
    (tmp_path / "credentials").write_text("[lake]\naws_access_key_id = AK\naws_secret_access_key = it's\naws_session_token = T\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lake")
    here = account()
    assert here.delta_options("flights") == {
        "AWS_ACCESS_KEY_ID": "AK",
        "AWS_SECRET_ACCESS_KEY": "it's",
        "AWS_SESSION_TOKEN": "T",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL": "https://s3.example.test:9000",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false",
        "AWS_ALLOW_HTTP": "false",
    }
    secret = here.duckdb_secret("flights")
    for part in (
        "SECRET 'it''s'",
        "'s3.example.test:9000'",
        "USE_SSL true",
        "URL_STYLE 'path'",
        "REGION 'eu-central-1'",
        "SESSION_TOKEN 'T'",
    ):
        assert part in secret
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://s3.eu-central-1.amazonaws.com")
    assert "AWS_ENDPOINT_URL" not in account().delta_options("flights")
    assert "URL_STYLE 'vhost'" in account().duckdb_secret("flights")
    assert "URL_STYLE 'path'" in account().duckdb_secret("flights.of.2013")
    assert "it's" not in repr(here)


@pytest.mark.parametrize(
    ("code", "status", "more", "kind", "words"),
    [
        ("PermanentRedirect", 301, {}, RegionWrong, "AWS_REGION=eu-west-1"),
        ("AuthorizationHeaderMalformed", 400, {"Region": "eu-west-1"}, RegionWrong, "AWS_REGION=eu-west-1"),
        ("SlowDown", 503, {}, Unreachable, "SlowDown"),
        ("PreconditionFailed", 412, {}, ObjectChanged, "changed"),
        ("403", 403, {}, AccessDenied, "s3://lake/a/b"),
        ("NoSuchKey", 404, {}, FileNotFoundError, "s3://lake/a/b"),
    ],
)
def test_what_aws_says_is_explained(code: str, status: int, more: dict[str, str], kind: type[Exception], words: str) -> None:
    """Answers of AWS that neither server gives."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {"x-amz-bucket-region": "eu-west-1"}}
    error = ClientError({"Error": {"Code": code, "Message": "said so", **more}, "ResponseMetadata": metadata}, "GetObject")
    found = explain(error, "lake", "a/b", "https://s3.amazonaws.com", "us-east-1")
    assert type(found) is kind
    assert isinstance(found, OSError)
    assert words in str(found)
