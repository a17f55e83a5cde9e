"""Opening a table generation for its owner: made when missing, refused when it is not what its owner would have made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import DeltaError

from flows.ledger import LogIdentity, RunIdentity
from flows.objects.errors import ObjectStoreFailed
from sinks.address import TableAddress
from sinks.errors import LedgerBroken, LedgerLost, LogChanged, TableAltered, TableLost, TableUnreadable, describe
from sinks.log import Action, DeltaLog, info_of
from sinks.record import CommitRecord
from sinks.storage import StorageUnusable

_KNOWN_FEATURES = {"timestampNtz", "appendOnly", "invariants"}


def open_or_create(address: TableAddress, schema: pa.Schema, partition_by: Sequence[str], retention_s: float) -> DeltaTable:
    """The table, at its last version. Raises TableAltered when its schema, partitions, protocol or properties are not the owner's, and
    StorageUnusable when it cannot be made.
    """
    options = address.storage_options
    if not DeltaTable.is_deltatable(address.uri, options):
        retention = f"interval {max(1, round(retention_s))} seconds"
        configuration = {
            "delta.checkpointInterval": "10",
            "delta.logRetentionDuration": retention,
            "delta.deletedFileRetentionDuration": retention,
            "delta.enableExpiredLogCleanup": "false",  # the owner cleans up: another writer could delete the commit with the totals
        }
        try:
            return DeltaTable.create(
                address.uri,
                schema,
                partition_by=list(partition_by),
                name=address.name,
                configuration=configuration,
                storage_options=options,
            )
        except (DeltaError, OSError) as error:
            if not DeltaTable.is_deltatable(address.uri, options):  # it is when another process has just made it
                raise StorageUnusable(address.root, f"{address.name} cannot be made: {error}") from error
    table = open_table(address)
    _check(address.name, table, schema, partition_by)
    return table


def open_table(address: TableAddress, version: int | None = None) -> DeltaTable:
    """The table at ``version``, or at its last.

    Always opened by number: deltalake lists the log's folder, and a listing beside fast commits may show one without the one before it,
    which deltalake refuses as a gap. All versions up to one that is there are there. Raises TableUnreadable.
    """
    with reading(address):
        versions = DeltaLog(address.folder).versions() if version is None else [version]
        if not versions:
            raise TableLost(address.name, address.folder)
        return DeltaTable(address.uri, version=versions[-1], storage_options=address.storage_options)


@contextmanager
def reading(address: TableAddress) -> Iterator[None]:
    """Raises TableUnreadable for what deltalake, the JSON reader and the system say of a table's log, and ObjectStoreFailed as it is."""
    try:
        yield
    except ObjectStoreFailed:
        raise
    except (DeltaError, OSError, ValueError, KeyError) as error:  # msgspec's errors are ValueErrors
        raise TableUnreadable(address.name, f"its Delta log cannot be used: {type(error).__name__}: {error}") from error


def _check(name: str, table: DeltaTable, schema: pa.Schema, partition_by: Sequence[str]) -> None:
    wanted, found = Schema.from_arrow(schema).to_json(), table.schema().to_json()
    if wanted != found:
        raise TableAltered(name, f"its schema is {found}, and its definition gives {wanted}")
    found_by = table.metadata().partition_columns
    if list(found_by) != list(partition_by):
        raise TableAltered(name, f"it is partitioned by {found_by}, and its definition says {list(partition_by)}")
    check_kept(name, table)


def check_kept(name: str, table: DeltaTable) -> None:
    """Raises TableAltered when another program gave the table properties or features that an owner cannot keep."""
    metadata, protocol = table.metadata(), table.protocol()
    if "delta.setTransactionRetentionDuration" in metadata.configuration:
        raise TableAltered(name, "delta.setTransactionRetentionDuration is set: Delta would forget the table's positions")
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
    if not (protocol.min_writer_version <= 2 or (protocol.min_writer_version == 7 and features <= _KNOWN_FEATURES)):
        raise TableAltered(name, f"it asks for Delta writer version {protocol.min_writer_version} with {sorted(features)}")


def last_record(address: TableAddress, log: DeltaLog, table: DeltaTable, run: RunIdentity, identity: LogIdentity) -> CommitRecord:
    """The newest ledger, at or before the table's version; one of epoch 0 for a table that was never claimed.

    Raises LedgerLost, and LedgerBroken when the Delta transactions do not say the same positions and epoch.
    """
    epoch = table.transaction_version(address.owner_txn)
    version = table.version()
    if epoch is None:
        if table.file_uris():
            raise LedgerLost(address.name, address.uri)
        return CommitRecord("", 0, run, identity)
    while (actions := log.read(version)) is not None:
        record = record_of(address, actions)
        if record is not None:
            _check_txns(address, table, record, epoch)
            return record
        version -= 1
    raise LedgerLost(address.name, address.uri)


def record_of(address: TableAddress, actions: Sequence[Action]) -> CommitRecord | None:
    """The ledger in a commit; None in another program's."""
    kappa = info_of(actions).get("kappa")
    return None if kappa is None else CommitRecord.from_json(kappa, address.name)


def _check_txns(address: TableAddress, table: DeltaTable, record: CommitRecord, epoch: int) -> None:
    stored = {partition: table.transaction_version(address.txn(*partition)) for partition in record.totals}
    if epoch != record.epoch or stored != record.positions:
        raise LedgerBroken(
            address.name,
            f"its Delta transactions say epoch {epoch} and {_positions(stored)}; "
            f"its last ledger says epoch {record.epoch} and {_positions(record.positions)}",
        )


def check_log(address: TableAddress, record: CommitRecord, now: LogIdentity) -> None:
    """Raises LogChanged when the table's positions belong to another cluster or to a topic that was made anew."""
    for topic in {topic for topic, _ in record.totals}:
        if (record.log.cluster, record.log.topics.get(topic)) != (now.cluster, now.topics.get(topic)):
            positions = [f"{name}/{partition}/{offset}" for (name, partition), offset in sorted(record.positions.items()) if name == topic]
            raise LogChanged(address.name, topic, describe(record.log, topic), describe(now, topic), positions)


def _positions(positions: dict[tuple[str, int], int | None] | dict[tuple[str, int], int]) -> str:
    return ", ".join(f"{topic}/{partition}/{offset}" for (topic, partition), offset in sorted(positions.items())) or "no positions"
