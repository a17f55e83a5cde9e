"""Settings: names, files for secrets, precedence, and docs/settings.md, which says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flows.settings import Settings, SettingsInvalid, load_settings, parse_bytes

PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAPPA_KAFKA__BOOTSTRAP_SERVERS", "KAPPA_POSTGRES__DSN"):
        monkeypatch.delenv(name, raising=False)


def read(folder: Path, text: str) -> Settings:
    (folder / "warehouse.toml").write_text(f'name = "shop"\n{text}')
    return load_settings(folder)


def documented() -> dict[str, str]:
    """Setting -> its default, of the tables of the page."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| `")]
    return {cells[1].strip().strip("`"): cells[2].strip().strip("`") for line in lines if (cells := line.split("|"))}


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, object]:
    """Setting -> its default, of the code."""
    found: dict[str, object] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{prefix}{name}.")
        elif name != "kafka":
            found[prefix + name] = field.default
    return found


def test_the_page_has_every_setting_with_its_default() -> None:
    page, code = documented(), fields(Settings)
    assert list(page) == list(code)
    for name, default in code.items():
        if default is PydanticUndefined or default is None:
            assert page[name] == "—", name
        elif isinstance(default, bool | float) or not isinstance(default, int):
            assert page[name] == str(default).lower(), name
        else:
            assert parse_bytes(page[name].replace(",", "")) == default, name


@pytest.mark.parametrize(
    "text",
    [
        '[kafka]\nsasl_password = "x"\nsocket_keepalive_enable = true',
        '[kafka]\n"sasl.password" = "x"\n"socket.keepalive.enable" = "true"',
        '[kafka]\nsasl.password = "x"\nsocket.keepalive.enable = true',
    ],
)
def test_three_ways_to_write_a_name_of_librdkafka(tmp_path: Path, text: str) -> None:
    settings = read(tmp_path, text)
    assert settings.kafka == {"sasl.password": "x", "socket.keepalive.enable": "true"}
    assert settings.kafka_masked()["sasl.password"] == "***"
    assert "x" not in repr(settings).split("kafka", 1)[-1]


def test_secrets_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush\n")
    settings = read(tmp_path, f'[kafka]\nsasl_password_file = "{secret}"\n[postgres]\ndsn_file = "secret"\n')
    assert settings.kafka == {"sasl.password": "hush"}
    assert settings.postgres.dsn is not None
    assert settings.postgres.dsn.get_secret_value() == "hush"


@pytest.mark.parametrize("text", ['[kafka]\nsasl_password_file = "/none"', '[postgres]\ndsn_file = "none"'])
def test_a_secrets_file_that_is_missing(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"wrong settings in .*warehouse\.toml") as raised:
        read(tmp_path, text)
    assert "none cannot be read" in raised.value.cause


def test_variables_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPPA_RUN__MEMORY_LIMIT", "1GB")
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    settings = read(tmp_path, '[run]\nmemory_limit = "4GB"\nworkers = 2\n[kafka]\nbootstrap.servers = "a:1"\nclient.id = "c"')
    assert settings.run.memory_limit == 10**9
    assert settings.run.workers == 2
    assert settings.kafka == {"bootstrap.servers": "b:1", "client.id": "c"}


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as raised:
        read(tmp_path, '[run]\nmemory_limit = "100MB"\ncolour = 1')
    assert "run.memory_limit" in raised.value.cause
    assert "run.colour" in raised.value.cause
