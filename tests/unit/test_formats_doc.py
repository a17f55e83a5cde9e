"""docs/formats.md: each example is read by the code that reads the real thing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest

from connectors.files.corrections import Correction
from connectors.loads import Identity, LoadState
from flows.batch import RAW, REJECTED, SYSTEM, Batch
from flows.eras import eras_of
from flows.fingerprint import file_of, fingerprint, type_name
from flows.stage.codes import Code
from flows.stage.corrections import parse
from sinks.address import TableAddress
from sinks.catalog import Catalog, CatalogState
from sinks.files import WrittenFile
from sinks.log import DeltaLog, encode, info_of, txns_of
from sinks.published import Cuts
from sinks.record import CommitRecord
from tests.memory import records_batch

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
EXAMPLES = {
    name: (argument, body)
    for name, argument, body in re.findall(r"<!-- example: (\S+) ?(\S*) -->\n```json\n(.*?)```", PAGE, flags=re.DOTALL)
}


def example(name: str) -> tuple[str, str]:
    """What the comment names besides, and the text."""
    argument, body = EXAMPLES[name]
    return argument, body.strip()


def test_every_example_is_json() -> None:
    assert len(EXAMPLES) == PAGE.count("```json")
    for _, body in EXAMPLES.values():
        lines = body.strip().splitlines() if body.startswith('{"commitInfo"') else [body]
        assert all(isinstance(json.loads(line), dict) for line in lines)


def test_format_and_catalogue(tmp_path: Path) -> None:
    folder = tmp_path / "_kappa" / "catalog"
    folder.mkdir(parents=True)
    (folder.parent / "format.json").write_text(example("format")[1])
    (folder / f"{7:020}.json").write_text(example("catalogue")[1])
    Catalog(str(tmp_path)).create("flights")
    state = Catalog(str(tmp_path)).read()
    assert state.to_json() == json.loads(example("catalogue")[1])
    assert state == CatalogState.from_json(state.to_json())
    entry = state.tables["core.airline"]
    assert TableAddress(str(tmp_path), "core.airline", entry.generation).path == entry.path


def test_cut_and_pin(tmp_path: Path) -> None:
    folder = tmp_path / "_kappa" / "cuts"
    folder.mkdir(parents=True)
    for name, suffix in (("cut", "json"), ("pin", "pin")):
        (folder / f"{12:020}.{suffix}").write_text(example(name)[1])
    cut = Cuts(str(tmp_path)).find("12")
    assert cut.to_json() == json.loads(example("cut")[1])
    assert Cuts(str(tmp_path)).find(json.loads(example("pin")[1])["name"]) == cut


def test_definition(tmp_path: Path) -> None:
    generation, body = example("definition")
    definition = json.loads(body)
    decisive = {name: value for name, value in definition.items() if name != "files"}
    assert f"{fingerprint(decisive)}-1" == generation
    assert list(definition["files"])[-1] == file_of(definition["table"], "airlines")
    catalog = Catalog(str(tmp_path))
    assert catalog.new_generation("core.airline", fingerprint(decisive), definition) == generation
    assert catalog.definition("core.airline", generation) == definition
    assert (tmp_path / "_kappa" / "definitions" / "core.airline" / f"{generation}.json").exists()


def test_definition_of_a_change_from_a_position_on() -> None:
    values = json.loads(example("definition-before")[1])
    assert [era.to_json() for era in eras_of(values)] == values["before"]
    assert eras_of(values)[0].fingerprint == example("definition")[0].partition("-")[0]


@pytest.mark.parametrize("name", ["load-key", "corrections-key"])
def test_what_makes_two_loads_the_same(name: str) -> None:
    transactional_id, key = example(name)
    identity = Identity(**json.loads(key))
    assert identity.key().decode() == key
    assert identity.transactional_id() == transactional_id


def test_loads() -> None:
    members = json.loads(example("load-value")[1])
    assert LoadState(nbytes=members.pop("bytes"), **members).value().decode() == example("load-value")[1]
    assert json.loads(example("load-file-key")[1]) == {"load": members["load"]}
    assert set(json.loads(example("load-file-value")[1])) == {"source", "uri"}


@pytest.mark.parametrize("name", ["record-key", "record-value"])
def test_records_are_written_without_blanks(name: str) -> None:
    body = example(name)[1]
    assert msgspec.json.encode(json.loads(body)).decode() == body


def test_corrections() -> None:
    headers = json.loads(example("correction-headers")[1])
    correction = Correction(int(headers["kappa-row"]), "flights", 0, 4711, "staging.flights", None, b"{}")
    assert correction.header == ("kappa-corrects", headers["kappa-corrects"].encode())
    batch = Batch("flights", 0, 5000, 5001, records_batch([]))
    assert parse([correction.header[1]], batch, 5000) == 4711


def test_commit(tmp_path: Path) -> None:
    table = TableAddress(str(tmp_path), "core.airline", "472206fe0a1f-1")
    log = DeltaLog(table.folder)
    log.path.mkdir(parents=True)
    log.commit_path(3).write_text(example("commit")[1])
    actions = log.read(3)
    assert actions is not None
    record = CommitRecord.from_json(info_of(actions)["kappa"], table.name)
    assert record.to_json() == info_of(actions)["kappa"]
    assert txns_of(actions) == {table.txn("airlines", 0): record.positions["airlines", 0], table.owner_txn: record.epoch}
    assert all(span.balanced for span in (*record.ranges.values(), *record.totals.values()))
    assert encode(actions).decode().strip() == example("commit")[1]
    add = actions[1]["add"]
    file = WrittenFile(add["path"], add["partitionValues"], 1, add["size"], add["stats"])
    assert file.add(add["modificationTime"], data_change=True) == actions[1]


def _columns(schema: pa.Schema) -> str:
    short = {"integer": "int"}
    return ", ".join(f"`{field.name} {short.get(type_name(field.type), type_name(field.type))}`" for field in schema)


def test_columns_of_the_tables() -> None:
    rows = dict(re.findall(r"^\| (`.*?) \| (.*) \|$", PAGE, flags=re.MULTILINE))
    assert rows["`raw.<source>`, partitioned by `_partition`"] == _columns(RAW)
    assert rows["`<layer>.<table>__rejected`"] == _columns(REJECTED)
    assert rows["`staging.<source>`"].endswith(_columns(SYSTEM))
    assert _columns(SYSTEM) in rows["`core.<table>`, `analytics.<table>` of kind append"]


def test_reject_codes() -> None:
    said = re.search(r"Reject codes: (.*?)\.\n", PAGE, flags=re.DOTALL)
    assert said is not None
    assert sorted(re.findall(r"`(\w+)`", said[1])) == sorted(code.value for code in Code)
