"""What a test of a warehouse says: ``tests/*.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, ValidationError, model_validator

from flows.contract import Model
from flows.errors import KappaError

FOLDER = "tests"


class CaseInvalid(KappaError):
    """A test that cannot be understood."""

    def __init__(self, path: Path, cause: str) -> None:
        super().__init__(f"{path} is not a test", cause=cause, next_step="see docs/testing.md")


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class Given(Model):
    """Events of one source, in this order: ``files`` (relative to the test), then ``text``, the content of such a file, as ``kappa load``
    reads them; then ``records``: NDJSON of objects with ``value`` and ``key``, each a text, an object or null.
    """

    files: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    text: str = ""
    records: str = ""


class Expected(Model):
    """Rows of a table or view in any order, as NDJSON; only the columns that they name are compared. ``count``: how many there are."""

    rows: str | None = None
    count: int | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.rows is None and self.count is None:
            raise ValueError("rows, count or both")
        return self


class Case(Model):
    """One test."""

    description: str = ""
    given: dict[str, Given]
    expect: dict[str, Expected]


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A test and where it stands."""

    path: Path
    case: Case


def read_case(path: Path) -> CaseFile:
    """Raises CaseInvalid."""
    try:
        return CaseFile(path, Case(**tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise CaseInvalid(path, str(error)) from error
    except ValidationError as error:
        causes = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False))
        raise CaseInvalid(path, causes) from error


def case_paths(folder: Path, named: Sequence[Path]) -> list[Path]:
    """The tests to run: those named, or all of the warehouse's."""
    return list(named) or sorted((folder / FOLDER).glob("*.toml"))
