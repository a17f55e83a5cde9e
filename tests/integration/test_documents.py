"""Documents: each file of a folder is one event and one row, on a real Kafka, as it is now."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from connectors.files.errors import FileUnreadable
from connectors.files.paths import find_files
from tests.folder import write
from tests.inprocess import audit, kappa

pytestmark = pytest.mark.slow
UPSERT = '/* kind = "upsert" */ SELECT uri, name, modified_at, size_bytes, content FROM staging.papers'


@pytest.fixture
def warehouse(kafka, topic_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KAPPA_KAFKA__BOOTSTRAP_SERVERS", kafka.bootstrap)
    folder = tmp_path / "warehouse"
    write(folder, {"sources/papers.toml": f'topic = "{topic_name}"\n[documents]\nmax_bytes = 1000\n', "core/paper.sql": UPSERT})
    (folder / "sources/flights.toml").unlink()
    return folder


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kappa(folder, "query", f"FROM {table} ORDER BY uri", "--format", "json"))
    return found


def test_each_file_is_a_row_and_changes_with_it(warehouse: Path, tmp_path: Path) -> None:
    papers = tmp_path / "papers"
    (papers / "old").mkdir(parents=True)
    content = {
        "a.md": "# né\n".encode(),
        "old/b.html": b"<p>",
        "old/c": b"",
        "large.txt": b"x" * 1001,
        "image.png": b"\x89PNG\xff",
        "same.md": b"<p>",
    }
    for name, data in content.items():
        (papers / name).write_bytes(data)
        os.utime(papers / name, ns=(0, 1_700_000_000_123_456_789))
    (papers / ".hidden").write_text("no")
    kappa(warehouse, "load", "papers", str(papers))
    kappa(warehouse, "run", "--until-caught-up")
    taken = {name: data for name, data in content.items() if name != "image.png"}
    found = {row["uri"].removeprefix(papers.resolve().as_uri() + "/"): row for row in rows(warehouse, "staging.papers")}
    assert found.keys() == taken.keys()
    kinds = {"md": "text/markdown", "html": "text/html", "c": "application/octet-stream", "txt": "text/plain"}
    for name, data in taken.items():
        row = found[name]
        assert (row["name"], row["size_bytes"], row["sha256"]) == (Path(name).name, len(data), hashlib.sha256(data).hexdigest())
        assert row["media_type"] == kinds[row["name"].rpartition(".")[2]]
        assert row["modified_at"].startswith("2023-11-14T22:13:20.123456")
        assert row["content"] == (None if name == "large.txt" else data.decode())
    rejected = kappa(warehouse, "rejects", "papers")
    assert "unreadable_row" in rejected
    assert "not UTF-8 at byte 0" in rejected
    (papers / "a.md").write_text("# now\n")
    again = kappa(warehouse, "load", "papers", str(papers))
    assert again.count("already loaded") == len(content) - 1
    kappa(warehouse, "run", "--until-caught-up")
    assert {row["name"]: row["content"] for row in rows(warehouse, "core.paper")}["a.md"] == "# now\n"
    assert len(rows(warehouse, "core.paper")) == len(taken)
    assert not audit(warehouse, "--full")


def test_binary_content_and_none(warehouse: Path, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(range(256)))
    source = warehouse / "sources/papers.toml"
    source.write_text(source.read_text() + 'content = "binary"\n')
    kappa(warehouse, "load", "papers", str(tmp_path / "x.bin"))
    source.write_text(source.read_text().replace('"binary"', '"none"').replace("max_bytes = 1000\n", ""))
    kappa(warehouse, "load", "papers", str(tmp_path / "x.bin"))
    said = kappa(warehouse, "peek", "papers", "-n", "2", "--json")
    events = [json.loads(event["value"]) for event in json.loads(said)]
    assert [event["content"] for event in events] == [base64.b64encode(bytes(range(256))).decode(), None]


def test_a_source_of_documents_is_json(warehouse: Path) -> None:
    source = warehouse / "sources/papers.toml"
    source.write_text('format = "csv"\n' + source.read_text())
    assert "[documents] makes JSON objects of files" in kappa(warehouse, "check", status=1)


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may enter any, so the system's refusal is put in."""
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")
    scan = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    failed: list[FileUnreadable] = []
    assert find_files([str(tmp_path)], failed.append) == [tmp_path / "open/a.txt"]
    assert "closed cannot be read" in str(failed[0])
    with pytest.raises(FileUnreadable, match="closed"):
        find_files([str(tmp_path)])
