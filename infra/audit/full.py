"""``--full`` over a warehouse folder: which tables can be made again from its definitions, and doing so source by source."""

from __future__ import annotations

from collections.abc import Iterable

from flows.errors import KappaError
from infra.audit.audit import REJECTED, Audit
from infra.audit.materialized import compare_materialized
from infra.audit.recompute import Recompute
from infra.audit.summaries import compare_summary
from infra.run.eras import Eras
from infra.run.live import Live
from sinks.rejects import StoredRejects


def recompute(audit: Audit, names: Iterable[str], live: Live) -> None:
    """Compare the tables in ``names`` with what the log gives; findings go to the audit's tables."""
    by_source: dict[str, list[str]] = {}
    for name in names:
        definition = live.definitions.get(name)
        audited = audit.table(name)
        if audited.rows is None:
            continue  # found already
        if definition is None or audited.address.generation.partition("-")[0] != definition.fingerprint:
            what = "is not in the folder any more" if definition is None else "has changed since the table was built"
            audited.walk.find(f"its definition {what}: it cannot be made again")
        elif definition.summary is not None:
            compare_summary(audit, definition.summary)
        elif definition.materialized is not None:
            compare_materialized(audit, definition.materialized)
        else:
            by_source.setdefault(definition.source, []).append(name)
    for source, tables in by_source.items():
        _source(audit, source, tables, live)


def _source(audit: Audit, name: str, tables: list[str], live: Live) -> None:
    source = live.project.sources[name]
    stored = StoredRejects(source.topic, audit.address(f"staging.{name}"), audit.address(f"staging.{name}{REJECTED}"), {})
    topics = {audit.log(source.topic).identity.topics.get(source.topic) for table in tables if audit.table(table).same_log}
    work = Recompute(Eras(live, name, next(iter(topics), None)), stored)
    try:
        for place in sorted({place for table in tables for place in audit.table(table).proofs if place[0] == source.topic}):
            audited = {table: audit.table(table) for table in tables}
            proofs = {
                table: (each.proofs[place], each.rows)
                for table, each in audited.items()
                if place in each.proofs and each.same_log and each.rows is not None
            }
            if proofs:
                work.check(audit.log(source.topic), place[1], proofs)
        for table, problems in work.settle().items():
            for problem, places in problems.items():
                for partition in sorted({partition for partition, _ in places}):
                    audit.table(table).proofs[source.topic, partition].find(problem, (offset for p, offset in places if p == partition))
    except KappaError as error:
        for table in tables:
            audit.table(table).walk.find(f"it cannot be made again: {error.what}: {error.cause}", next_step=error.next_step)
    finally:
        work.close()
