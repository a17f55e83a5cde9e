"""A storage root that cannot be used: one clear error in every command that touches it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sinks.catalog import Catalog
from sinks.storage import StorageUnusable
from tests.inprocess import kappa
from tests.stored import Root
from tests.warehouse import write_folder


@pytest.fixture(params=["file", "file/below"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A warehouse whose storage root is a file, or lies below one."""
    (tmp_path / "file").write_text("not a folder")
    write_folder(tmp_path, "events", settings=f'storage = "{request.param}"\n[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    return tmp_path


@pytest.mark.parametrize("command", ["run", "tables", "show core.event", "query SELECT(1)", "rejects events", "audit"])
def test_every_command_names_the_storage_root(folder: Path, command: str) -> None:
    text = kappa(folder, *command.split(), status=1)
    for part in ("the storage root", f"{folder}/file", "Not a directory", "warehouse.toml"):
        assert part in text


@pytest.mark.parametrize("name", ["a%20b", "50%", "a[b", "a^b", "a|b", "a\\b", "a\nb"])
@pytest.mark.parametrize("command", ["run", "tables", "query SELECT(1)"])
def test_a_folder_that_delta_cannot_open_is_refused(tmp_path: Path, name: str, command: str) -> None:
    write_folder(tmp_path / name, "events", settings='[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    text = kappa(tmp_path / name, *command.split(), status=1)
    assert "Delta's readers cannot open a path with" in text
    assert not (tmp_path / name / "data").exists()


def test_a_folder_with_other_signs(tmp_path: Path) -> None:
    folder = tmp_path / "a b,c;d'e#f?gé {h}"
    write_folder(folder, "events")
    Root(folder / "data").table("core.event").commit({0: (0, 3, range(3))})
    assert json.loads(kappa(folder, "query", "SELECT count(*) AS n FROM core.event", "--format", "json")) == [{"n": 3}]


def test_nothing_can_be_written_there(tmp_path: Path) -> None:
    (tmp_path / "_kappa").mkdir()
    (tmp_path / "_kappa/catalog").write_text("not a folder")
    (tmp_path / "_kappa/definitions").write_text("not a folder")
    catalog = Catalog(str(tmp_path))
    catalog.create("shop")
    with pytest.raises(StorageUnusable):
        catalog.publish(lambda state: state.replace(views={"core.v": "SELECT 1"}), by="test")
    with pytest.raises(StorageUnusable):
        catalog.new_generation("core.event", "3f9a0c12b7de", {"format": 1})


def test_a_table_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "core").write_text("not a folder")
    with pytest.raises(StorageUnusable, match=r"core\.event cannot be made"):
        Root(tmp_path).table("core.event")
