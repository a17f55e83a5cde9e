"""A summary against its SQL, run as one query over the version of its upstream that it says it is the function of."""

from __future__ import annotations

from contextlib import closing

import duckdb
import pyarrow as pa

from flows.sql.rewrite import UPSTREAM
from flows.sql.tree import quoted
from flows.summary import Summary
from flows.upsert import DELETED
from infra.audit.audit import Audit, Audited
from infra.audit.findings import EXAMPLES
from sinks.address import TableAddress
from sinks.engine import message
from sinks.history import commits
from sinks.record import CommitRecord
from sinks.versions import Versions

MEMORY_BYTES = 1_000_000_000
TOLERANCE = 1e-9  # of the size of what is added up: the order of additions shows in the last bits of a DOUBLE


def compare_summary(audit: Audit, summary: Summary) -> None:
    """Findings go to the audit's table."""
    audited, address = audit.table(summary.name), audit.address(summary.upstream)
    record = audited.walk.record
    if record is None or record.upstream is None or audited.version is None or address is None:
        return
    if wrong := _wrong_upstream(record, address):
        audited.walk.find(wrong)
        return
    with closing(Versions(MEMORY_BYTES)) as versions:
        try:
            live = f" WHERE NOT {DELETED}" if summary.partials is None else ""
            versions.run(f"CREATE TEMP VIEW {UPSTREAM} AS SELECT * FROM {versions.table(address, record.upstream.version)}{live}")
            versions.run(f"CREATE TEMP TABLE made AS {summary.all_sql}")
            versions.run(f"CREATE TEMP TABLE scale AS {summary.scale_sql}")
            if summary.partials is not None:
                versions.run(f"CREATE TEMP TABLE states AS {summary.partials.partial_sql}")
        except duckdb.IOException:
            _note(audited, f"version {record.upstream.version} of {summary.upstream} is no longer kept: it is not compared")
            return
        except duckdb.Error as error:
            audited.walk.find(f"its SQL cannot be run over {summary.upstream}: {message(error)}")
            return
        try:
            versions.run(f"CREATE TEMP TABLE stored AS FROM {versions.table(audited.address, audited.version)}")
        except duckdb.Error as error:
            audited.walk.find(f"it cannot be read: {message(error)}")
            return
        _compare(audited, summary, versions)


def _wrong_upstream(record: CommitRecord, address: TableAddress) -> str | None:
    """Why a summary's rows cannot be those of the upstream that it names, whatever they are."""
    begun = record.upstream
    assert begun is not None
    if begun.generation not in (None, address.generation):
        return f"it was computed from generation {begun.generation} of {address.name}, and {address.generation} is live"
    at = next((commit.record for commit in commits(address) if commit.version <= begun.version and commit.record is not None), None)
    if at is not None and at.totals != record.totals:
        return f"its positions are not those of version {begun.version} of {address.name}, from which it was computed"
    return None


def _compare(audited: Audited, summary: Summary, versions: Versions) -> None:
    for what, one, other in (
        ("groups are missing that its upstream gives", "made", "stored"),
        ("groups are there that its upstream does not give", "stored", "made"),
    ):
        same = _same(summary, one, other)
        _find(audited, summary, what, versions.ask(f"SELECT {one}.* FROM {one} WHERE NOT EXISTS (SELECT 1 FROM {other} WHERE {same})"))
    states = set(summary.partials.states.names) if summary.partials is not None else set()
    for field in summary.schema:
        if field.name not in summary.group:
            _compare_column(audited, summary, versions, field, "states" if field.name in states else "made")
    (number,) = versions.ask("SELECT count(*) AS n FROM made").column("n").to_pylist()
    for proof in audited.proofs.values():
        proof.compared = number
        break


def _compare_column(audited: Audited, summary: Summary, versions: Versions, field: pa.Field, made: str) -> None:
    joined = f"{made} JOIN stored ON {_same(summary, made, 'stored')} JOIN scale ON {_same(summary, made, 'scale')}"
    a, b, size = (f"{table}.{quoted(field.name)}" for table in (made, "stored", "scale"))
    equal = f"{a} IS NOT DISTINCT FROM {b}"
    if pa.types.is_floating(field.type):  # of NaN and infinity nothing is nearly equal
        equal += f" OR (isfinite({size}) AND abs({a} - {b}) <= {TOLERANCE} * {size})"
    found = versions.ask(f"SELECT {made}.* FROM {joined} WHERE NOT coalesce({equal}, false)")
    _find(audited, summary, f"groups differ from what its upstream gives, in {field.name}", found)


def _same(summary: Summary, one: str, other: str) -> str:
    return " AND ".join(f"{one}.{quoted(name)} IS NOT DISTINCT FROM {other}.{quoted(name)}" for name in summary.group)


def _find(audited: Audited, summary: Summary, what: str, rows: pa.Table) -> None:
    if rows.num_rows:
        examples = "; ".join(str(row) for row in rows.select(list(summary.group)).slice(0, EXAMPLES).to_pylist())
        audited.walk.find(f"{rows.num_rows:,} {what}: {examples}")


def _note(audited: Audited, note: str) -> None:
    for proof in audited.proofs.values():
        proof.notes.append(note)
        break
