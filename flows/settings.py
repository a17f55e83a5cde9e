"""Settings of a warehouse: ``warehouse.toml``, then ``KAPPA_...`` variables over it.

``KAPPA_STORAGE=...`` sets ``storage``; ``KAPPA_RUN__MEMORY_LIMIT=1GB`` sets ``[run] memory_limit``; ``KAPPA_KAFKA__SASL_PASSWORD=...`` sets
librdkafka's ``sasl.password`` (after ``KAPPA_KAFKA__`` an underscore is a dot). A key that ends in ``_file`` names a file that holds the
value, so that secrets stay out of ``warehouse.toml``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from flows.errors import KappaError

MIB = 1024 * 1024
MEMORY_LIMIT_MIN_BYTES = 512 * 1_000_000
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": MIB, "gib": 1024 * MIB}
MASK = "***"
_SECRET = re.compile(r"password|secret|key\.pem|\.key$|token|sasl\.jaas", re.IGNORECASE)


def parse_bytes(value: object) -> int:
    """``"512 MB"`` -> 512_000_000. Raises ValueError."""
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", str(value), flags=re.IGNORECASE)
    if not match or match[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is not a size: write for example 512MB or 1GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


class SettingsInvalid(KappaError):
    """warehouse.toml, or a KAPPA_ variable, is wrong."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSettings(_Section):
    """How ``kappa run`` works: a commit is made when any of the three limits is reached."""

    commit_rows: int = Field(500_000, ge=1)
    commit_bytes: int = Field(128 * MIB, ge=MIB)
    commit_interval_s: float = Field(5.0, ge=0.05, le=3600)
    batch_rows: int = Field(50_000, ge=1, le=1_000_000)
    batch_bytes: int = Field(16 * MIB, ge=64 * 1024)
    memory_limit: int = Field(2_000_000_000, ge=MEMORY_LIMIT_MIN_BYTES)
    workers: int = Field(1, ge=1, le=64)
    catch_up_records: int = Field(1_000_000, ge=1)
    max_rejects: int = Field(1_000_000, ge=0)
    cut_interval_s: float = Field(60.0, ge=1)

    _sizes = field_validator("memory_limit", "commit_bytes", "batch_bytes", mode="before")(parse_bytes)


class MaintenanceSettings(_Section):
    """Compaction and clean-up, made by the table's owner between commits."""

    target_file_bytes: int = Field(128 * MIB, ge=64 * 1024)
    compact_files: int = Field(16, ge=2)
    retention_s: float = Field(3600, ge=0)
    keep_cuts_s: float | None = Field(None, ge=0)
    keep_generations: int = Field(3, ge=1)
    durable: bool = False

    _sizes = field_validator("target_file_bytes", mode="before")(parse_bytes)

    @property
    def cuts_kept_s(self) -> float:
        """How long a published cut that is not pinned is kept: ``keep_cuts_s``; unset, as long as versions are."""
        return self.retention_s if self.keep_cuts_s is None else self.keep_cuts_s


class Share(NamedTuple):
    """A number of rows, or a part of them."""

    rows: int | None
    part: float | None

    def __str__(self) -> str:
        return f"{self.rows}" if self.rows is not None else f"{100 * (self.part or 0):g}%"

    def allows(self, rows: int, of: int) -> bool:
        return rows <= (self.rows if self.rows is not None else (self.part or 0) * of)


def parse_share(value: object) -> object:
    """``1000`` or ``"5%"``. Raises ValueError."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return Share(None, float(value.rstrip().removesuffix("%")) / 100)
    if isinstance(value, int | str) and not isinstance(value, bool):
        return Share(int(value), None)
    return value


class PromotionSettings(_Section):
    """What a new generation may change, compared with the live one, before it is made live."""

    max_changed_rows: Share | None = None
    max_removed_rows: Share | None = None

    _shares = field_validator("max_changed_rows", "max_removed_rows", mode="before")(parse_share)


class LocalSettings(_Section):
    """The local stack that ``kappa up`` starts when no other is named."""

    state_dir: Path = Path(".kappa")
    kafka_heap_mb: int = Field(512, ge=96, le=8192)


class PostgresSettings(_Section):
    """An existing PostgreSQL; unset: the one of the local stack."""

    dsn: SecretStr | None = None


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """librdkafka's names: ``sasl_password``, ``"sasl.password"`` and TOML's ``sasl.password`` are the same. Raises ValueError."""
    for name, value in settings.items():
        dotted = prefix + name.lower().replace("_", ".")  # librdkafka has names that end in .file: only _file is ours
        if isinstance(value, dict):
            yield from _flat(value, f"{dotted}.")
        elif name.lower().endswith("_file"):
            yield dotted.removesuffix(".file"), _secret(Path(str(value)))
        else:
            yield dotted, str(value).lower() if isinstance(value, bool) else str(value)


def _secret(path: Path) -> str:
    """What a file holds, without the line's end. Raises ValueError."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file {path} cannot be read: {error}") from None


class Settings(BaseSettings):
    """All settings. ``storage`` is the storage root: a folder (relative to the warehouse folder), or later an ``s3://`` URL."""

    model_config = SettingsConfigDict(env_prefix="KAPPA_", env_nested_delimiter="__", extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    storage: str = "data"
    run: RunSettings = RunSettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    promotion: PromotionSettings = PromotionSettings()
    local: LocalSettings = LocalSettings()
    postgres: PostgresSettings = PostgresSettings()
    kafka: dict[str, str] = Field(default_factory=dict, repr=False)

    @field_validator("kafka", mode="before")
    @classmethod
    def _librdkafka_names(cls, value: Any) -> Any:
        return dict(_flat(value)) if isinstance(value, dict) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    def kafka_masked(self) -> dict[str, str]:
        """The Kafka settings with every secret masked, for people and logs."""
        return {name: MASK if _SECRET.search(name) else value for name, value in self.kafka.items()}


def mask_secrets(text: str, kafka: Mapping[str, Any]) -> str:
    """A message about Kafka's settings without the values of those that are secret."""
    for value in (str(value) for name, value in kafka.items() if _SECRET.search(name) and value):
        text = text.replace(value, MASK)
    return text


def load_settings(folder: Path) -> Settings:
    """Read ``warehouse.toml`` of a warehouse folder and the environment. Raises SettingsInvalid."""
    path = folder / "warehouse.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsInvalid(
            f"no warehouse in {folder}",
            cause=f"{path} does not exist",
            next_step="name the folder with -C DIR, or make one: kappa init DIR",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"{path} is not TOML", cause=str(error), next_step=f"correct {path}") from error
    try:
        postgres = values.get("postgres", {})
        if isinstance(postgres, dict) and "dsn_file" in postgres:
            postgres["dsn"] = _secret(folder / postgres.pop("dsn_file"))
        return Settings(**values)
    except ValidationError as error:
        causes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False, include_url=False))
        variables = ", ".join(sorted(name for name in os.environ if name.startswith("KAPPA_")))
        where = f" or in the variables {variables}" if variables else ""
        raise SettingsInvalid(f"wrong settings in {path}{where}", cause=causes, next_step=f"correct {path}") from None
    except ValueError as error:
        raise SettingsInvalid(f"wrong settings in {path}", cause=str(error), next_step=f"correct {path}") from None
