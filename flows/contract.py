"""A source: one topic, its format and its contract (one TOML file of ``sources/``)."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flows.batch import SYSTEM
from flows.types import ColumnType, parse_type

NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
EXTRA = pa.field("_extra", pa.string())
CORRECTS = pa.field("_corrects", pa.int64())


class Model(BaseModel):
    """A part of a definition: immutable, and a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(Model):
    """A column as written: ``"varchar not null"``."""

    text: str
    not_null: bool

    @classmethod
    def parse(cls, text: str) -> Column:
        """Split ``not null`` from the type. The type itself is parsed on demand, so that ``check`` can name its line."""
        bare = re.sub(r"\s+not\s+null\s*$", "", text.strip(), flags=re.IGNORECASE)
        return cls(text=bare, not_null=bare != text.strip())

    @cached_property
    def type(self) -> ColumnType:
        """Raises TypeUnknown or TypeRefused (flows.types)."""
        return parse_type(self.text)


def _column(value: object) -> object:
    return Column.parse(value) if isinstance(value, str) else value


class Rule(Model):
    """A condition on the typed row: broken when ``check`` (a row-local DuckDB expression) is false. NULL passes, as in SQL's CHECK."""

    check: str
    on_failure: Literal["reject", "warn", "fail"] = "reject"
    description: str = ""


class Dialect(Model):
    """How ``kappa load`` reads delimited files of this source."""

    delimiter: str = Field(",", min_length=1, max_length=1)
    quote: str = Field('"', max_length=1)
    null: tuple[str, ...] = ("",)
    header: bool = True
    encoding: str = "utf-8"


class Sheet(Model):
    """Which sheet of a spreadsheet ``kappa load`` reads; without a name the first."""

    name: str | None = Field(None, min_length=1)


class Documents(Model):
    """Each file that ``kappa load`` takes is one event. ``content``: as a text, as bytes, or not at all; of larger files than ``max_bytes``
    the event has no content, only where they are.
    """

    content: Literal["text", "binary", "none"] = "text"
    max_bytes: int = Field(512 * 1024, ge=0, le=8 * 1024 * 1024)


_DOCUMENT = {
    "uri": "varchar not null",
    "name": "varchar not null",
    "media_type": "varchar not null",
    "size_bytes": "bigint not null",
    "modified_at": "timestamptz not null",
    "sha256": "varchar not null",
    "content": "varchar",
}


class Source(Model):
    """A source. ``name`` is the file's stem; ``columns`` keep the file's order, which is the order of the staging table's columns."""

    name: str = Field(pattern=NAME.pattern)
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    format: Literal["csv", "json", "text"]
    columns: dict[str, Annotated[Column, BeforeValidator(_column)]]
    key: tuple[str, ...] = ()
    event_time: str | None = None
    extra: Literal["keep", "ignore", "reject"] = "keep"
    null_values: Literal["reject", "delete"] = "reject"
    key_format: Literal["json", "text"] = "json"
    rules: dict[str, Rule] = {}
    corrections: bool = False
    raw: bool = True
    csv: Dialect = Dialect()
    sheet: Sheet = Sheet()
    documents: Documents | None = None
    max_record_bytes: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    partitions: int = Field(1, ge=1, le=10_000)
    replication_factor: int = Field(-1, ge=-1)
    topic_config: dict[str, str] = {}
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _document_contract(cls, values: Any) -> Any:
        """A source of documents needs no contract of its own."""
        if not isinstance(values, dict) or values.get("documents") is None or "columns" in values:
            return values
        documents = values["documents"]
        content = documents.get("content") if isinstance(documents, dict) else documents.content
        columns = {**_DOCUMENT, "content": "blob"} if content == "binary" else _DOCUMENT
        return {"format": "json", "key": ("uri",), "event_time": "modified_at", **values, "columns": dict(columns)}

    @cached_property
    def contract_schema(self) -> pa.Schema:
        """The contract's columns as Arrow fields, in order. Raises TypeUnknown or TypeRefused."""
        return pa.schema([pa.field(name, column.type.arrow, nullable=not column.not_null) for name, column in self.columns.items()])

    @cached_property
    def staging_schema(self) -> pa.Schema:
        """The columns of staging.<source>: contract, ``_extra`` (extra = keep, not for text), ``_corrects`` (with corrections), SYSTEM."""
        extra = [EXTRA] if self.extra == "keep" and self.format != "text" else []
        corrects = [CORRECTS] if self.corrections else []
        return pa.schema([*self.contract_schema, *extra, *corrects, *SYSTEM])
