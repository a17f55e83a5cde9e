"""``kappa load`` of objects: the same rows, the same identity and the same choice of files as from a folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flows.objects.reader
from connectors.files.errors import FilesNotFound, FileUnreadable
from connectors.files.objects import chosen
from connectors.files.paths import find_files
from connectors.load import FileChanged, Loader, Watch
from connectors.peek import peek
from flows.contract import Column, Documents, Source
from flows.objects import parse_url
from flows.objects.errors import BucketMissing, ObjectChanged
from tests.inprocess import kappa
from tests.loading import Loading
from tests.s3 import S3Server

pytestmark = pytest.mark.slow
CSV = b"id,name\n" + b"".join(b"%d,row %d\n" % (n, n * 7919) for n in range(2000))


def source(topic: str, kind: str = "csv") -> Source:
    columns = {"id": Column.parse("bigint not null"), "name": Column.parse("varchar")}
    return Source(name=f"s{topic[-8:]}", topic=topic, format=kind, columns=columns, key=("id",), max_record_bytes=1024)


def put(server: S3Server, root: str, name: str, content: bytes) -> str:
    server.client().put_object(Bucket=root.removeprefix("s3://"), Key=name, Body=content)
    return f"{root}/{name}"


def test_an_object_is_loaded_once_and_a_killed_load_goes_on(kafka, topic_name, tmp_path: Path, s3: str, s3_server: S3Server) -> None:
    """The same content on disk is the same file."""
    loading = Loading.make(tmp_path / "w", kafka.bootstrap, topic_name, 3000)
    url = put(s3_server, s3, "in/flights.csv", loading.file.read_bytes())
    content, file = loading.file.read_bytes(), Loading.file
    try:
        Loading.file = url  # type: ignore[assignment]
        loading.start(KAPPA_FAULT="load.after-commit:2").communicate(timeout=60)
        sent = len(loading.committed())
        assert 0 < sent < 3000
        output = loading.load()
        assert f"{url}: goes on at row {sent + 1}" in output
        assert f"{3000 - sent:,} rows sent" in output
        assert "already loaded" in loading.load()
    finally:
        Loading.file = file  # type: ignore[method-assign]
    assert "already loaded" in loading.load()
    records = loading.committed()
    assert [row for row, *_ in records] == list(range(1, 3001))
    assert [value for _, value, _, _ in records] == loading.rows
    assert {headers["kappa-file"] for _, _, headers, _ in records if "kappa-broken" in headers} == {url.encode()}
    assert loading.file.read_bytes() == content


def test_every_kind_of_file(kafka, topic_name, s3: str, s3_server: S3Server) -> None:
    table = pa.table({"id": range(3000), "name": [f"row {n}" for n in range(3000)]})
    parquet = io.BytesIO()
    pq.write_table(table, parquet, row_group_size=700)
    put(s3_server, s3, "a/1.csv", CSV)
    put(s3_server, s3, "a/2.csv.gz", gzip.compress(CSV + b"1,x\n"))
    put(s3_server, s3, "a/3.csv.zst", pa.Codec("zstd").compress(CSV + b"2,x\n", asbytes=True))
    put(s3_server, s3, "a/4.parquet", parquet.getvalue())
    sheet = io.BytesIO()
    book = openpyxl.Workbook()
    for row in (["id", "name"], [1, "x"], [2, "y"]):
        book.active.append(row)
    book.save(sheet)
    put(s3_server, s3, "a/5.xlsx", sheet.getvalue())
    put(s3_server, s3, "a/6.csv.part", CSV)
    loader = Loader(kafka.config, source(topic_name))
    found = find_files([f"{s3}/a/"])
    assert [path.name for path in found] == ["1.csv", "2.csv.gz", "3.csv.zst", "4.parquet", "5.xlsx"]
    assert [loader.load(path).sent for path in found] == [2000, 2001, 2001, 3000, 2]
    assert all(loader.load(path).already for path in found)
    put(s3_server, s3, "a/7.csv.gz", gzip.compress(CSV + b"3,x\n")[:-100])
    with pytest.raises(FileUnreadable, match=r"s3://.*/a/7\.csv\.gz"):
        loader.load(parse_url(f"{s3}/a/7.csv.gz"))


def test_a_document_in_a_bucket_is_one_event(kafka, topic_name, s3: str, s3_server: S3Server) -> None:
    url = put(s3_server, s3, "letters/jänner 1.md", "grüß".encode())
    listed = s3_server.client().head_object(Bucket=s3.removeprefix("s3://"), Key="letters/jänner 1.md")
    letters = Source(name="letters", topic=topic_name, documents=Documents())
    assert Loader(kafka.config, letters).load(parse_url(url)).sent == 1
    [event] = peek(kafka.config, topic_name, 2, "earliest")
    assert json.loads(event.value) == {
        "uri": url,
        "name": "jänner 1.md",
        "media_type": "text/markdown",
        "size_bytes": 6,
        "modified_at": listed["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
        "sha256": hashlib.sha256("grüß".encode()).hexdigest(),
        "content": "grüß",
    }


def test_an_object_that_is_replaced_while_it_is_read_commits_nothing_more(
    kafka, topic_name, s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is seen at a commit or by a request: nothing of the new content follows rows of the old."""
    monkeypatch.setattr("connectors.load.COMMIT_ROWS", 1)
    monkeypatch.setattr("connectors.files.records._BLOCK_BYTES", 1000)
    path = parse_url(put(s3_server, s3, "f.csv", CSV))
    states = []

    def replace_it(identity: object, state: object) -> None:
        states.append(state)
        if len(states) == 2:
            put(s3_server, s3, "f.csv", CSV.replace(b"row", b"new"))

    loader = Loader(kafka.config, source(topic_name), Watch(committed=replace_it))
    with pytest.raises(FileChanged, match=r"f\.csv"):
        loader.load(path)
    assert len(states) == 2


@pytest.mark.parametrize("url", ["s3://{}/nothing", "s3://{}/nothing/*.csv", "s3://{}"])
def test_nothing_is_found(s3: str, url: str) -> None:
    with pytest.raises(FilesNotFound, match="no file at s3://"):
        find_files([url.format(s3.removeprefix("s3://"))])


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(BucketMissing, match="kappa-nowhere"):
        find_files(["s3://kappa-nowhere/a/"])


parts = st.sampled_from(["a", "b.csv", "ab", ".hid", "_SUCCESS", "a-b", "[a]"])
keys = st.lists(parts, min_size=1, max_size=3).map("/".join)
patterns = st.lists(st.sampled_from(["*", "**", "a", "a*", "*.csv", "?b", "[ab]*", ".*", "_*", "ab"]), min_size=1, max_size=3).map("/".join)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(keys, min_size=1, max_size=8), patterns)
def test_a_glob_means_the_same_names_as_in_a_folder(tmp_path_factory: pytest.TempPathFactory, names: set[str], pattern: str) -> None:
    """The oracle is the choice among files on disk."""
    names = {name for name in names if not any(other.startswith(f"{name}/") for other in names)}  # no file is a folder too
    folder = make_tree(tmp_path_factory.mktemp("tree"), names)
    wanted = found(str(folder), pattern)
    if any(sign in pattern for sign in "*?["):
        assert sorted(name for name in names if chosen(name.split("/"), pattern.split("/"))) == wanted


@pytest.mark.parametrize("pattern", ["", "a", "a/b.csv", "a/*", "*/*.csv", "**", "**/*", "[a]", "?", "ab*"])
def test_a_url_means_the_same_names_as_a_folder(tmp_path: Path, s3: str, s3_server: S3Server, pattern: str) -> None:
    names = {"a/b.csv", "a/.hid/b.csv", "a/_SUCCESS", ".hid/a", "[a]", "ab.csv", "ab/c/d.csv"}
    for name in names:
        put(s3_server, s3, name, b"")
    put(s3_server, s3, "a/", b"")  # as consoles make folders
    assert found(s3, pattern) == found(str(make_tree(tmp_path, names)), pattern)


def make_tree(folder: Path, names: set[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(root: str, pattern: str) -> list[str]:
    try:
        return sorted(str(path).removeprefix(f"{root}/") for path in find_files([f"{root}/{pattern}"]))
    except FilesNotFound:
        return []


def test_a_listing_is_in_the_order_of_a_folder(s3: str, s3_server: S3Server) -> None:
    for name in ("a-b/1", "a/2", "a/10", "a.csv", "b"):
        put(s3_server, s3, name, b"")
    assert [str(path).removeprefix(f"{s3}/") for path in find_files([s3])] == ["a/10", "a/2", "a-b/1", "a.csv", "b"]


def test_reading_is_that_of_a_file_and_holds_one_block(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 40
    path = parse_url(put(s3_server, s3, "bytes", content))

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 11_000), st.integers(0, 5000)), max_size=6), st.integers(100, 3000))
    def reads(steps: list[tuple[int, int]], block_bytes: int) -> None:
        reader, oracle, most = path.open(block_bytes=block_bytes), io.BytesIO(content), block_bytes
        for at, size in steps:
            assert reader.seek(at) == oracle.seek(at)
            assert reader.read(size) == oracle.read(size)
            most = max(most, size)
            assert len(reader._block) <= most
        assert reader.read() == oracle.read()
        assert hashlib.file_digest(path.open(block_bytes=block_bytes * 100), "md5").hexdigest() == hashlib.md5(content).hexdigest()

    reads()
    reader = path.open(block_bytes=1000)
    assert reader.read(10) == content[:10]
    put(s3_server, s3, "bytes", content[::-1])
    assert reader.read(100) == content[10:110]  # of the block that it holds
    with pytest.raises(ObjectChanged):
        reader.read(2000)
    s3_server.client().delete_object(Bucket=path.bucket, Key=path.key)
    with pytest.raises(ObjectChanged):
        reader.read(2000)


def test_a_connection_that_breaks_on_the_way_is_asked_again(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parse_url(put(s3_server, s3, "bytes", b"x" * 5000))
    reader = path.open(block_bytes=1000)
    real, calls = reader._account.client.get_object, []

    def breaks(**arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise flows.objects.reader.Unreachable(str(path), "", "connection broken")
        return real(**arguments)

    monkeypatch.setattr(reader._account.client, "get_object", breaks)
    assert b"".join(iter(lambda: reader.read(700), b"")) == b"x" * 5000
    assert len(calls) == 6  # five blocks, one of them twice


def test_the_result_as_json(kafka, topic_name, tmp_path: Path, s3: str, s3_server: S3Server) -> None:
    loading = Loading.make(tmp_path / "w", kafka.bootstrap, topic_name, 10)
    url = put(s3_server, s3, "flights.csv", loading.file.read_bytes())
    loading.file.unlink()
    (loading.folder / "warehouse.toml").write_text(f'name = "test"\n[kafka]\nbootstrap_servers = "{kafka.bootstrap}"\n')
    answer = json.loads(kappa(loading.folder, "load", "flights", url, "--json").splitlines()[-1])
    assert [(file["path"], file["uri"], file["rows"]) for file in answer["files"]] == [(url, url, 10)]
