"""A warehouse folder: ``warehouse.toml``, ``sources/*.toml``, ``core/*.sql``, ``analytics/*.sql``.

Loading only reads and shapes; what it finds wrong is collected as findings, so that ``kappa check`` can show all of them at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from flows.contract import NAME, Model, Source
from flows.errors import KappaError, UsageError
from flows.settings import Settings, load_settings

LAYERS = ("core", "analytics")
_HEAD = re.compile(r"\A\s*/\*(.*?)\*/", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in the folder: where (file relative to the folder, 1-based line), why, and what to write instead."""

    file: str
    line: int
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.cause}\n    write: {self.fix}"


class TableSettings(Model):
    """The TOML of a table's leading comment."""

    kind: Literal["append", "upsert", "summary", "materialized", "view"]
    description: str = ""
    partition_by: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    sequence: str | None = Field(None, min_length=1)
    delete_when: str | None = Field(None, min_length=1)
    tombstone_retention_s: float | None = Field(None, gt=0)
    refresh_interval_s: float = Field(60.0, gt=0)

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        """Settings of another kind decide nothing, which nobody means who writes them."""
        for name, kinds in _KINDS_OF.items():
            if name in self.model_fields_set and self.kind not in kinds:
                raise ValueError(f"{name} is a setting of {' and '.join(kinds)} tables, and this one is {self.kind}")
        return self


_KINDS_OF = {
    "key": ("upsert", "materialized"),
    "sequence": ("upsert",),
    "delete_when": ("upsert",),
    "tombstone_retention_s": ("upsert",),
    "refresh_interval_s": ("materialized",),
}


@dataclass(frozen=True, slots=True)
class TableFile:
    """One SQL file: ``name`` is ``layer.stem``, ``file`` its path in the folder; ``sql`` follows the settings from 1-based ``line`` on."""

    name: str
    layer: str
    file: str
    settings: TableSettings
    sql: str
    line: int

    @property
    def kind(self) -> str:
        return self.settings.kind


class ProjectInvalid(KappaError):
    """The folder has findings; the command that needs it whole cannot go on."""

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(
            f"the warehouse has {len(findings)} error{'s' if len(findings) != 1 else ''}",
            cause="\n".join(map(str, findings)),
            next_step="kappa check",
        )
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Project:
    """A loaded folder. ``files``: the text of each definition by its path; ``sources`` by name, ``tables`` by ``layer.name``;
    ``findings``: what could not be loaded.
    """

    folder: Path
    settings: Settings
    files: Mapping[str, str]
    sources: dict[str, Source] = field(default_factory=dict)
    tables: dict[str, TableFile] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def storage(self) -> str:
        """The storage root: an absolute folder, or a URL as written."""
        root = self.settings.storage
        return root.rstrip("/") if "://" in root else str((self.folder / root).resolve())

    @property
    def state_dir(self) -> Path:
        """Where the local stack keeps its state."""
        return (self.folder / self.settings.local.state_dir).resolve()

    def source(self, name: str) -> Source:
        """Raises UsageError that lists the sources there are."""
        if name in self.sources:
            return self.sources[name]
        raise UsageError(
            f"no source {name!r}",
            cause=f"{self.folder / 'sources'} has: {', '.join(sorted(self.sources)) or 'none'}",
            next_step=f"kappa source infer FILE > sources/{name}.toml",
        )


def load_project(folder: Path) -> Project:
    """Load a warehouse folder. Raises SettingsInvalid when there is none; everything else becomes a finding."""
    folder = folder.resolve()
    settings = load_settings(folder)
    paths = sorted((folder / "sources").glob("*.toml"))
    for layer in LAYERS:
        paths += sorted((folder / layer).glob("*.sql"))
    texts = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8", errors="replace") for path in paths}
    return parse_project(folder, settings, texts)


def parse_project(folder: Path, settings: Settings, files: Mapping[str, str]) -> Project:
    """The project of these ``files`` (path in the folder -> text): those of the folder, or others in their place."""
    project = Project(folder, settings, files)
    for file, text in files.items():
        path = PurePosixPath(file)
        if path.suffix == ".toml":
            _load_source(project, file, path.stem, text)
        else:
            _load_table(project, file, path, text)
    return project


def source_file(name: str) -> str:
    """The file that defines a source."""
    return f"sources/{name}.toml"


def table_file(name: str) -> str:
    """The file that defines the table or view ``layer.name``."""
    return f"{name.replace('.', '/', 1)}.sql"


def _load_source(project: Project, file: str, name: str, text: str) -> None:
    try:
        values = tomllib.loads(text)
        project.sources[name] = Source(name=name, **values)
    except tomllib.TOMLDecodeError as error:
        project.findings.append(Finding(file, _toml_line(error), f"not TOML: {error}", "valid TOML (see docs/sources.md)"))
    except (ValidationError, TypeError) as error:
        project.findings.extend(_invalid(file, text, error))


def _load_table(project: Project, file: str, path: PurePosixPath, text: str) -> None:
    layer = path.parent.as_posix()
    if not NAME.match(path.stem):
        project.findings.append(
            Finding(
                file,
                1,
                f"{path.stem!r} is not a table name",
                "lower-case letters, digits and _, beginning with a letter",
            )
        )
        return
    head = _HEAD.match(text)
    if head is None:
        project.findings.append(Finding(file, 1, "no settings", 'a leading comment with the kind: /* kind = "append" */'))
        return
    try:
        settings = TableSettings(**tomllib.loads(head[1]))
    except tomllib.TOMLDecodeError as error:
        project.findings.append(Finding(file, _toml_line(error), f"the leading comment is not TOML: {error}", '/* kind = "append" */'))
        return
    except (ValidationError, TypeError) as error:
        project.findings.extend(_invalid(file, text, error))
        return
    line = text.count("\n", 0, head.end()) + 1
    name = f"{layer}.{path.stem}"
    project.tables[name] = TableFile(name, layer, file, settings, text[head.end() :], line)


def _toml_line(error: tomllib.TOMLDecodeError) -> int:
    match = re.search(r"line (\d+)", str(error))
    return int(match[1]) if match else 1


def _invalid(file: str, text: str, error: ValidationError | TypeError) -> list[Finding]:
    if isinstance(error, TypeError):
        return [Finding(file, 1, str(error), "see docs/sources.md")]
    findings = []
    for problem in error.errors(include_url=False):
        loc = [str(part) for part in problem["loc"]]
        last = next(
            (part for part in reversed(loc) if re.search(rf"^\s*[\[\w.\"]*{re.escape(part)}\b", text, re.MULTILINE)),
            None,
        )
        line = 1
        if last is not None and (match := re.search(rf"^\s*[\[\w.\"]*{re.escape(last)}\b", text, re.MULTILINE)):
            line = text.count("\n", 0, match.end()) + 1
        findings.append(Finding(file, line, f"{'.'.join(loc)}: {problem['msg']}", "see docs/sources.md for what is allowed here"))
    return findings
