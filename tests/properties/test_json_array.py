"""A file that is one JSON array: every member is an event, byte for byte, however the blocks fall."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.files.chunk import Chunk
from connectors.files.errors import FileUnreadable
from connectors.files.input import InputFile
from connectors.files.reading import read_rows
from flows.contract import Column, Source

blanks = st.sampled_from(["", "", " ", "\n", "\r\n\t "])
texts = st.one_of(st.text(max_size=5), st.sampled_from(['"', "\\", '\\"', "],[", "{", "}", ",", "é"]))
scalars = st.one_of(st.sampled_from(["1.10", "-0.0", "1e5", "true", "null", '"\\u00e9"', '"\\\\"', '"\\/"']), texts.map(json.dumps))
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{' , '.join(items)}]"),
        st.lists(st.tuples(texts.map(json.dumps), blanks, inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f"{name}{blank}:{value}{blank}" for name, blank, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)
shared_folder = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def source(**more) -> Source:
    return Source(name="s", topic="t", format="json", columns={"id": Column.parse("decimal(9,2)")}, key=("id",), **more)


def read(path: Path, chunks: list[Chunk], made: Source | None = None) -> list[bytes]:
    with InputFile(path) as file:
        for chunk in read_rows(made or source(), file).chunks:
            chunks.append(chunk)
    return [value for chunk in chunks for value in chunk.values]


@shared_folder
@given(st.lists(documents, max_size=6), blanks, st.booleans(), st.integers(3, 12))
def test_members_go_as_they_stand(tmp_path, monkeypatch, members, blank, mark, block_bytes):
    monkeypatch.setattr("connectors.files.array._BLOCK_BYTES", block_bytes)
    content = f"{blank}[{blank}" + f"{blank},{blank}".join(members) + f"{blank}]{blank}"
    (tmp_path / "f.json").write_bytes((b"\xef\xbb\xbf" if mark else b"") + content.encode())
    assert read(tmp_path / "f.json", []) == [member.encode() for member in members]


@shared_folder
@given(st.lists(documents, min_size=1, max_size=4), st.data(), st.integers(3, 12))
def test_what_stands_before_a_break_is_read(tmp_path, monkeypatch, members, data, block_bytes):
    """Cut anywhere: the members that end before the cut, and an error that names the file."""
    monkeypatch.setattr("connectors.files.array._BLOCK_BYTES", block_bytes)
    content = f"[{','.join(members)}]".encode()
    end = data.draw(st.integers(1, len(content) - 1))
    (tmp_path / "f.json").write_bytes(content[:end])
    chunks: list[Chunk] = []
    with pytest.raises(FileUnreadable, match=r"f\.json cannot be read\n(.|\n)*not closed"):
        read(tmp_path / "f.json", chunks)
    ends = [len(",".join(members[: count + 1]).encode()) + 2 for count in range(len(members))]  # behind its comma
    assert [value for chunk in chunks for value in chunk.values] == [
        member.encode() for member, place in zip(members, ends, strict=True) if place <= end
    ]


def test_keys_lines_and_what_is_wrong_with_a_member(tmp_path):
    """A wrong member costs no neighbour: it goes as it is, for the decoder to judge, or marked where it is none."""
    (tmp_path / "f.json").write_bytes(b'[{"id": 1.10},\n {"id":2], "text", [3],\n, {"id":4},\n]')
    chunks: list[Chunk] = []
    read(tmp_path / "f.json", chunks)
    [chunk] = chunks
    assert chunk.values == [b'{"id": 1.10}', b'{"id":2]', b'"text"', b"[3]", b"", b'{"id":4}', b""]
    assert chunk.keys == [b'{"id":1.10}', None, None, None, None, b'{"id":4}', None]
    assert {index: why.line for index, why in chunk.broken.items()} == {4: 3, 6: 4}


@pytest.mark.parametrize(("end", "cause"), [(b"] {}", "text behind the end of the JSON array, in line 2"), (b"}", "a brace closes")])
def test_an_array_that_ends_wrongly(tmp_path, end, cause):
    (tmp_path / "f.json").write_bytes(b'[{"id":1},\n{"id":2}' + end)
    chunks: list[Chunk] = []
    with pytest.raises(FileUnreadable, match=cause):
        read(tmp_path / "f.json", chunks)
    assert [value for chunk in chunks for value in chunk.values][:1] == [b'{"id":1}']


def test_empty_arrays_and_packed_files(tmp_path):
    (tmp_path / "f.json").write_bytes(b" [ \n] ")
    assert read(tmp_path / "f.json", []) == []
    (tmp_path / "f.json.gz").write_bytes(gzip.compress(b'[{"id":1}]'))
    assert read(tmp_path / "f.json.gz", []) == [b'{"id":1}']


def test_only_json_files_may_be_arrays(tmp_path):
    (tmp_path / "f.ndjson").write_bytes(b'[{"id":1}]\n[2]\n')
    assert read(tmp_path / "f.ndjson", []) == [b'[{"id":1}]', b"[2]"]


def test_a_member_beyond_the_limit_is_cut_marked_and_costs_no_neighbour(tmp_path):
    long = b'{"t":"' + b'\\"' * 1_500_000 + b'"}'
    (tmp_path / "f.json").write_bytes(b'[{"id":1},\n' + long + b',\n{"id":3}]')
    chunks: list[Chunk] = []
    assert read(tmp_path / "f.json", chunks, source(max_record_bytes=2000)) == [b'{"id":1}', long[:2000], b'{"id":3}']
    [why] = [why for chunk in chunks for why in chunk.broken.values()]
    assert (why.line, "2000" in why.cause) == (2, True)


def test_an_array_is_never_held_whole(tmp_path):
    member = json.dumps({"id": 1, "text": "x" * 10_000}).encode()
    (tmp_path / "f.json").write_bytes(b"[" + b",\n".join([member] * 3000) + b"]")
    tracemalloc.start()
    with InputFile(tmp_path / "f.json") as file:
        assert sum(len(chunk) for chunk in read_rows(source(), file).chunks) == 3000
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10_000_000 < (tmp_path / "f.json").stat().st_size / 2
