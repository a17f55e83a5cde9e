"""A generation that begins with another one's rows: which files a version has, and up to which position they are taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event

import pyarrow as pa
import pytest

from sinks.address import TableAddress
from sinks.adopt import adopt, live_adds
from sinks.compaction import live_files, rewrite
from sinks.log import DeltaLog
from sinks.owner import Owner
from sinks.table import open_table
from tests.owned import LOG, SCHEMA, TOPIC, address, claim, commit, run, stored

WIDER = pa.schema([pa.field("more", pa.int64()), *SCHEMA])


@pytest.fixture
def old(tmp_path: Path) -> TableAddress:
    """Twelve commits of ten rows, of which the first four were merged into one file, and a checkpoint."""
    owner = claim(address(tmp_path))
    for number in range(12):
        commit(owner, range(number * 10, number * 10 + 10))
        if number == 5:
            table = open_table(owner.address)
            owner.rewrite(rewrite(owner.address, table, [live_files(table)[:4]], durable=False, stop=Event()))
        if number == 8:
            open_table(owner.address).create_checkpoint()
    return owner.address


def wider(table: TableAddress) -> Owner:
    return Owner.claim(replace(table, generation="90c1d2e3f4a5-2"), WIDER, [], run(), LOG)


def test_live_files_are_those_that_deltalake_sees(old: TableAddress) -> None:
    for version in DeltaLog(old.folder).versions():
        table = open_table(old, version)
        adds = live_adds(DeltaLog(old.folder), version)
        assert [(add["path"], add["size"]) for add in adds] == [(file.path, file.nbytes) for file in live_files(table)]


@pytest.mark.parametrize("until", [0, 9, 10, 55, 119, 120, 1000])
def test_rows_up_to_a_position(old: TableAddress, until: int) -> None:
    owner = wider(old)
    info = adopt(owner, old, {(TOPIC, 0): until})
    whole = min(120, until // 10 * 10)
    assert sorted(stored(owner.address)) == [(0, offset) for offset in range(whole)]
    if whole:
        assert info is not None
        assert info.rows == whole
        assert owner.positions == {(TOPIC, 0): whole}
    assert open_table(owner.address).to_pyarrow_table().column("more").null_count == whole


def test_a_version_whose_files_are_gone_is_left(old: TableAddress) -> None:
    owner = wider(old)
    for path in old.folder.glob("*.parquet"):
        path.unlink()
    assert adopt(owner, old, {(TOPIC, 0): 1000}) is None
    assert not owner.positions
    assert not stored(owner.address)
