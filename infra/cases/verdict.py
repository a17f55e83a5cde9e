"""Running a test: what its tables hold against what it expects."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from flows.batch import RECORDS
from flows.control import RunControl
from flows.errors import KappaError
from flows.project import Project
from flows.sql.tree import SESSION, quoted
from infra.cases.case import CaseFile, Expected, read_case
from infra.cases.offline import Offline
from infra.cases.records import records_of
from sinks import Result, Warehouse

SHOWN_ROWS = 5
_NONE = pa.RecordBatch.from_pylist([], schema=RECORDS)
_NESTED = ("list", "array", "struct", "map", "union")


@dataclass(slots=True)
class Verdict:
    """How one test ended. ``failures``: sentences; none when it passed."""

    path: Path
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def run_case(project: Project, path: Path) -> Verdict:
    """Make all tables of a test's events and compare them. Never raises for what the test or the warehouse has wrong."""
    verdict, started = Verdict(path), time.monotonic()
    try:
        case = read_case(path)
        with tempfile.TemporaryDirectory(prefix="kappa-test-") as root:
            _make(project, case, root, verdict)
            with Warehouse(root) as warehouse:
                for table, expected in case.case.expect.items():
                    verdict.failures += [f"{table}: {found}" for found in _compare(warehouse, table, expected)]
    except KappaError as error:
        verdict.failures.append(str(error))
    verdict.seconds = time.monotonic() - started
    return verdict


def _make(project: Project, case: CaseFile, root: str, verdict: Verdict) -> None:
    for name in case.case.given:
        project.source(name)  # raises when there is none
    settings = project.settings.model_copy(update={"storage": root, "run": project.settings.run.model_copy(update={"workers": 1})})
    here = Project(project.folder, settings, project.files, project.sources, project.tables, project.findings)
    given = case.case.given
    records = {name: records_of(case, source, given[name]) if name in given else _NONE for name, source in project.sources.items()}
    control = RunControl()
    Offline(here, control, records).make()
    if control.fatal is not None:
        raise control.fatal
    verdict.failures += [f"{failure.table} failed: {failure.cause}" for failure in control.failures.values()]


def _compare(warehouse: Warehouse, table: str, expected: Expected) -> list[str]:
    with duckdb.connect() as connection:
        connection.execute(SESSION)
        found: list[str] = []
        if expected.count is not None:
            (number,) = warehouse.sql(f"SELECT count(*) AS n FROM {_name(table)}").arrow().column("n").to_pylist()
            if number != expected.count:
                found.append(f"{number} rows, and {expected.count} are expected")
        if expected.rows is not None:
            found += _rows(connection, warehouse.sql(f"FROM {_name(table)}"), [*filter(str.strip, expected.rows.splitlines())])
        return found


def _name(table: str) -> str:
    return ".".join(map(quoted, table.split(".", 1)))


def _rows(connection: duckdb.DuckDBPyConnection, actual: Result, lines: list[str]) -> list[str]:
    try:
        wanted: list[Mapping[str, Any]] = [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return [f"the expected rows are no JSON objects, one a line: {error}"]
    types = {name: str(kind) for name, kind in zip(actual.columns, actual.relation.types, strict=True)}
    names = list(wanted[0]) if wanted else list(types)
    if odd := [line for line, row in zip(lines, wanted, strict=True) if set(row) != set(names)]:
        return [f"all expected rows name the same columns, which {odd[0]} does not: {', '.join(names)}"]
    if unknown := [name for name in names if name not in types]:
        return [f"it has no column {', '.join(unknown)}, but {', '.join(types)}"]
    connection.register("actual_rows", actual.arrow())
    connection.register("lines", pa.table({"line": pa.array(lines, pa.string())}))
    given = ", ".join(f"{_given(name, types[name])} AS {quoted(name)}" for name in names)
    held = ", ".join(f"{_comparable(quoted(name), types[name])} AS {quoted(name)}" for name in names)
    try:
        connection.execute(f"CREATE TEMP TABLE expected AS SELECT {held} FROM (SELECT {given} FROM lines)")
        connection.execute(f"CREATE TEMP TABLE actual AS SELECT {held} FROM actual_rows")
    except duckdb.Error as error:
        return [f"an expected value is none of its column's: {str(error).splitlines()[0]}"]
    found = []
    for what, one, other in (("missing", "expected", "actual"), ("not expected", "actual", "expected")):
        rows = connection.execute(f"FROM {one} EXCEPT ALL FROM {other} ORDER BY ALL").to_arrow_table()
        if rows.num_rows:
            shown = "; ".join(msgspec.json.encode(row, enc_hook=str).decode() for row in rows.slice(0, SHOWN_ROWS).to_pylist())
            found.append(f"{rows.num_rows} rows are {what}: {shown}{'; ...' if rows.num_rows > SHOWN_ROWS else ''}")
    return found


def _given(name: str, kind: str) -> str:
    """The value of a column in an expected line: numbers by their text, so that no digit is lost."""
    path = "'$." + '"' + name.replace("'", "''") + '"' + "'"
    if kind.lower().startswith(_NESTED) or "[" in kind:
        return f"CAST(json_extract(line, {path}) AS {kind})"
    text = f"json_extract_string(line, {path})"
    return f"encode({text})" if kind == "BLOB" else f"CAST({text} AS {kind})"


def _comparable(column: str, kind: str) -> str:
    """Twelve digits of a float: the last bits of an average are nobody's expectation."""
    return f"printf('%.12g', {column})" if kind in ("DOUBLE", "FLOAT") else column
