"""Published cuts as files: numbers, pins, expiry, what is named."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest

from flows.errors import UsageError
from sinks.catalog import Catalog, TableEntry
from sinks.cleanup import Vacuum, clean_log
from sinks.compaction import choose_all, live_files, rewrite
from sinks.log import DeltaLog
from sinks.owner import Owner
from sinks.pins import Pins
from sinks.published import CutExpiring, Cuts, CutUnknown, NameTaken, PublishedCut, snapshot_at
from sinks.table import open_table
from tests.owned import address, claim, commit


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    made = claim(address(tmp_path))
    catalog = Catalog(str(tmp_path))
    catalog.create("test")
    entry = TableEntry("append", made.address.generation, made.address.path)
    catalog.publish(lambda state: state.replace(tables={made.address.name: entry}), by="test")
    commit(made, range(1))
    return made


def aged(cuts: Cuts, cut: PublishedCut, seconds: float) -> None:
    """Make a cut older than it is."""
    path = cuts.folder / f"{cut.n:020}.json"
    before = (cut.at - timedelta(seconds=seconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert isinstance(path, Path)
    path.write_text(path.read_text().replace(cut.created_at, before))


def grown(owner: Owner, cuts: Cuts) -> PublishedCut:
    """One more commit, and its cut."""
    at = owner.totals["flights", 0].end
    commit(owner, range(at, at + 1))
    return cuts.publish("test")


def test_the_same_versions_are_published_once(owner: Owner) -> None:
    cuts = Cuts(owner.address.root)
    first = cuts.publish("test")
    assert first.n == 1
    assert first.tables["core.flight"].version == owner.version
    assert first.vectors == {"flights": {0: 1}}
    assert cuts.publish("test") == first
    assert grown(owner, cuts).n == 2


def test_processes_that_publish_at_once_get_numbers_of_their_own(owner: Owner) -> None:
    def publish(table: int) -> int:
        mine = claim(address(owner.address.root, f"core.t{table}"))
        catalog = Catalog(owner.address.root)
        entry = TableEntry("append", mine.address.generation, mine.address.path)
        catalog.publish(lambda state: state.replace(tables={**state.tables, mine.address.name: entry}), by="test")
        return Cuts(owner.address.root).publish("test").n

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(publish, range(8)))
    found = Cuts(owner.address.root).all()
    assert [cut.n for cut in found] == list(range(1, len(found) + 1))
    assert set(numbers) <= {cut.n for cut in found}
    assert len(found[-1].tables) == 9


def test_a_cut_is_found_by_number_name_and_time(owner: Owner) -> None:
    cuts = Cuts(owner.address.root)
    first = cuts.pin(cuts.publish("test"), "first", 60)
    second = grown(owner, cuts)
    assert cuts.find("1") == cuts.find("first") == first
    assert cuts.find("2") == cuts.find(second.created_at) == cuts.find("2999-01-01") == second
    assert cuts.find((second.at - timedelta(microseconds=1)).isoformat()) == first
    for wanted, cause in (("7", "there are 1 to 2"), ("second", "pinned: first"), ("2020-01-01", "the oldest"), ("now!", "no time")):
        with pytest.raises(CutUnknown, match=cause):
            cuts.find(wanted)
    with pytest.raises(CutUnknown, match="none is published"):
        Cuts(f"{owner.address.root}/other").find("1")


def test_pins_have_names_of_their_own_and_end(owner: Owner) -> None:
    cuts = Cuts(owner.address.root)
    first = cuts.publish("test")
    for name in ("12", "Upper", ""):
        with pytest.raises(UsageError, match="cannot be the name"):
            cuts.publish("test", name)
    pinned = cuts.pin(first, "first", 60)
    assert cuts.pin(pinned, "first", 60) == pinned
    with pytest.raises(UsageError, match="pinned already"):
        cuts.pin(pinned, "other", 60)
    second = grown(owner, cuts)
    with pytest.raises(NameTaken, match="cut 1"):
        cuts.pin(second, "first", 60)
    aged(cuts, second, 59)
    with pytest.raises(CutExpiring):
        cuts.pin(Cuts(cuts.root).find("2"), "late", 60)
    cuts.unpin(pinned)
    assert cuts.find("1").pin is None


def test_what_is_old_and_not_pinned_goes_and_no_number_comes_again(owner: Owner) -> None:
    cuts = Cuts(owner.address.root)
    kept = cuts.pin(cuts.publish("test"), "kept", 60)
    for cut in [grown(owner, cuts), grown(owner, cuts), kept]:
        aged(cuts, cut, 100)
    cuts = Cuts(owner.address.root)
    assert [cut.n for cut in cuts.standing(60)] == [1]
    assert cuts.expire(60) == 2
    assert [cut.n for cut in cuts.all()] == [1]
    assert cuts.publish("test").n == 4
    assert cuts.expire(60) == 0
    assert [cut.n for cut in cuts.all()] == [1, 4]
    assert sorted(path.name[19:] for path in cuts.folder.iterdir()) == ["1.json", "1.pin", "4.json"]


def test_vacuum_and_log_cleanup_keep_what_a_cut_names(owner: Owner) -> None:
    """And nothing else: what lies before and after it goes."""
    root, folder = owner.address.root, owner.address.folder
    assert isinstance(folder, Path)
    cuts = Cuts(root)
    worn(owner)
    pinned = cuts.publish("test", "kept")
    rows = names(owner, pinned.tables["core.flight"].version)
    worn(owner)
    for file in DeltaLog(folder).path.iterdir():
        os.utime(file, (time.time() - 100, time.time() - 100))
    vacuum = Vacuum(owner.address, keep_cuts_s=0)
    live = {file.path for file in live_files(open_table(owner.address))}
    time.sleep(0.002)  # Delta's times are whole milliseconds
    vacuum.run(live, owner.version, 0)
    clean_log(DeltaLog(folder), 50, Pins(owner.address, 0).keep_log_from(owner.own_version))
    assert names(owner, pinned.tables["core.flight"].version) == rows
    assert {path.name for path in folder.glob("*.parquet")} == rows | {file.path for file in live_files(open_table(owner.address))}
    assert DeltaLog(folder).versions()[0] > 0
    assert not snapshot_at(cuts.find("kept"), root).lost
    cuts.unpin(cuts.find("kept"))
    vacuum.run(live, owner.version, 0)
    assert {path.name for path in folder.glob("*.parquet")} == live
    assert cuts.all() == []


def worn(owner: Owner) -> None:
    """Commits, each compacted with what was before, and a checkpoint at each."""
    for _ in range(12):
        at = owner.totals["flights", 0].end
        commit(owner, range(at, at + 1))
        replace(owner)
        open_table(owner.address).create_checkpoint()


def replace(owner: Owner) -> None:
    """A compaction of all that there is: the versions before it need files of their own."""
    table = open_table(owner.address, owner.version)
    runs = choose_all(live_files(table), 1 << 30)
    if runs:
        owner.rewrite(rewrite(owner.address, table, runs, durable=False, stop=Event()))


def names(owner: Owner, version: int) -> set[str]:
    files = {file.path for file in live_files(open_table(owner.address, version))}
    assert isinstance(owner.address.folder, Path)
    assert all((owner.address.folder / file).exists() for file in files)
    return files


def test_a_cut_of_the_future_is_refused_by_name(owner: Owner) -> None:
    cuts = Cuts(owner.address.root)
    cut = cuts.publish("test")
    path = cuts.folder / f"{cut.n:020}.json"
    assert isinstance(path, Path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(Exception, match="has format 2"):
        Cuts(owner.address.root).all()
    assert cut.at <= datetime.now(UTC)
