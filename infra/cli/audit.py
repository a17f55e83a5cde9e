"""``kappa audit``: prove every table against its topic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from flows.project import load_project
from infra.addresses import resolve
from infra.audit.audit import Audit, Audited
from infra.audit.findings import Finding, Proof
from infra.audit.full import recompute
from infra.cli.names import stored_tables
from infra.run.live import of_catalogue, of_folder
from sinks.catalog import Catalog


@click.command(short_help="Prove every table against its topic.")
@click.argument("tables", nargs=-1)
@click.option("--full", is_flag=True, help="Also make every row again from the log, and compare.")
@click.option("-v", "--verbose", is_flag=True, help="A line for each partition.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def audit(folder: Path, tables: tuple[str, ...], full: bool, verbose: bool, as_json: bool) -> int:
    """Prove, for each table and partition, that every record of the log is in the table once, filtered, or rejected.

    \b
    What is proved:
      commits  their ranges join without gap or overlap, each balances (read = written + filtered + rejected),
               and Delta's transactions say the same positions
      rows     each position once, as many as the ledger says
      topic    the one that the table was built from; as many committed records as the ledger read
      --full   every row made again from the log is the row that is stored

    TABLES are names (core.flight) or sources (flights: all of its tables); none: all. Exit status 1 at any finding.

    \b
    Examples:
      kappa audit
      kappa audit core.flight --full
    """
    project = load_project(folder)
    catalog = Catalog(project.storage)
    state = catalog.read()
    names = stored_tables(tables, state, project, "prove")
    work = Audit(project.storage, state, resolve(project).kafka)
    try:
        for name in names:
            work.table(name)
        work.count(names)
        work.rejects(names)
        if full:
            live = of_catalogue(of_folder(project), state, catalog)
            recompute(work, names, live)
    finally:
        work.close()
    audited = [work.tables[name] for name in names]
    findings = [finding for table in audited for finding in table.findings]
    if as_json:
        click.echo(json.dumps(to_json(audited), indent=2))
    else:
        _show(audited, findings, full=full, verbose=verbose)
    return 1 if findings else 0


def _show(audited: list[Audited], findings: list[Finding], *, full: bool, verbose: bool) -> None:
    width = max(len(table.address.name) for table in audited)
    for table in audited:
        proofs = list(table.proofs.values())
        for group in [[proof] for proof in proofs] if verbose else [proofs] if proofs else []:
            click.echo(f"{table.address.name:{width}}  {_line(group)}")
            for note in [f"{proof.where}: {note}" for proof in group for note in proof.notes]:
                click.echo(f"{'':{width}}  note: {note}")
        if not proofs:
            click.echo(f"{table.address.name:{width}}  {_whole(table)}")
        for note in table.notes:
            click.echo(f"{'':{width}}  note: {note}")
    for finding in findings:
        where = f" {finding.where}" if finding.where else ""
        click.secho(f"FINDING {finding.table}{where}: {finding.what}", fg="red")
        if finding.positions:
            click.echo(f"  for example: {', '.join(finding.positions)}")
        click.echo(f"  next: {finding.next_step}")
    click.echo(_summary(audited, findings, full=full))


def _whole(table: Audited) -> str:
    """A table without positions of its own."""
    if table.rows is None:
        return "cannot be read"
    cut = table.walk.record.cut if table.walk.record is not None else None
    if cut is None:
        return "nothing committed yet"
    verdict = "FINDINGS" if table.findings else "ok"
    return f"made from {', '.join(f'{name} at version {at.version:,}' for name, at in cut.items())}  rows {table.rows.count():,}  {verdict}"


def _line(proofs: list[Proof]) -> str:
    """What was proved of one partition, or of several in sum."""
    spans = [proof.span for proof in proofs]
    read, written, filtered, rejected = (
        f"{sum(getattr(span, name) for span in spans):,}" for name in ("read", "written", "filtered", "rejected")
    )
    where = (
        f"{proofs[0].where} [{spans[0].start:,}, {spans[0].end:,})" if len(proofs) == 1 else f"{proofs[0].topic}, {len(proofs)} partitions"
    )
    parts = [
        where,
        f"read {read} = written {written} + filtered {filtered} + rejected {rejected}",
        f"log {_counted(proofs)}",
        f"rows {sum(proof.rows for proof in proofs):,}",
    ]
    compared = [proof.compared for proof in proofs if proof.compared is not None]
    if compared:
        parts.append(f"compared {sum(compared):,}")
    return "  ".join([*parts, "FINDINGS" if any(proof.findings for proof in proofs) else "ok"])


def _counted(proofs: list[Proof]) -> str:
    """Committed records of the log; what was not counted is said, never taken for nothing."""
    counted = [proof.counted for proof in proofs if proof.counted is not None]
    if not counted:
        return "not counted"
    missing = len(proofs) - len(counted)
    return f"{sum(counted):,}" + (f" (not counted: {missing} of {len(proofs)} partitions)" if missing else "")


def _summary(audited: list[Audited], findings: list[Finding], *, full: bool) -> str:
    proofs = [proof for table in audited for proof in table.proofs.values()]
    rows = sum(proof.rows for proof in proofs)
    compared = sum(proof.compared or 0 for proof in proofs)
    proved = f"{len(audited)} tables, {len(proofs)} partitions, {rows:,} rows"
    again = f", {compared:,} rows made again from the log" if full else ""
    verdict = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" if findings else "no findings"
    return f"audited {proved}{again}: {verdict}"


def to_json(audited: list[Audited]) -> dict[str, Any]:
    """The contract of ``kappa audit --json`` (docs/json.md)."""
    return {
        "ok": not any(table.findings for table in audited),
        "tables": [
            {
                "table": table.address.name,
                "generation": table.address.generation,
                "version": table.version,
                "notes": table.notes,
                "partitions": [_proof(proof) for proof in table.proofs.values()],
                "findings": [
                    {"where": f.where, "what": f.what, "positions": list(f.positions), "next_step": f.next_step} for f in table.findings
                ],
            }
            for table in audited
        ],
    }


def _proof(proof: Proof) -> dict[str, Any]:
    return {
        "topic": proof.topic,
        "partition": proof.partition,
        **proof.span.to_json(),
        "commits": proof.commits,
        "rows": proof.rows,
        "positions": proof.offsets,
        "log_records": proof.counted,
        "compared_rows": proof.compared,
        "notes": proof.notes,
        "ok": not proof.findings,
    }
