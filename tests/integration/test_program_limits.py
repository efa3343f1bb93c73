"""Programs whose files are small, and which would take all memory or time to read: each is refused early."""

from __future__ import annotations

import io
import struct
import zipfile

import pytest
from cases.graphs import chain, program, relu, wrapped

from tasks.contract import BadInput
from tasks.files import archives
from tasks.files.archives import read_archive
from tasks.files.program import MAX_NAME, MAX_STEPS, read_program


def test_names_inside_wrapped_graphs_are_apart_and_short():
    inner = [wrapped("a", "deep", chain(3), "v2"), relu("deep", "end")]
    nodes = [wrapped("x", "one", inner, "end"), wrapped("one", "two", inner, "end")]
    read = read_program(program(nodes, "two"), "model.pt2")
    assert [step.results[0] for step in read.steps] == [
        *("1/v0", "1/v1", "0/deep", "one"),
        *("3/v0", "3/v1", "2/deep", "two"),
    ]
    assert read.answer == "two"


def test_names_do_not_grow_with_the_name_of_what_wraps_them():
    long = "r" * MAX_NAME
    read = read_program(program([wrapped("x", long, chain(50), "v49")], long), "model.pt2")
    assert sum(len(name) for step in read.steps for name in step.results) < MAX_NAME + 50 * 6


def test_names_that_are_too_long_are_refused():
    long = "r" * (MAX_NAME + 1)
    with pytest.raises(BadInput, match=f"{MAX_NAME + 1} characters"):
        read_program(program([relu("x", long)], long), "model.pt2")


@pytest.mark.parametrize("target", ["torch.ops.higher_order.cond", "torch.ops.higher_order.while_loop"])
def test_control_flow_is_refused_by_name(target):
    node = wrapped("x", "y", chain(1), "v0") | {"target": target}
    with pytest.raises(BadInput, match=f"{target} runs parts of it .* without control flow"):
        read_program(program([node], "y"), "model.pt2")


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_steps_are_counted_before_all_are_read(is_wrapped):
    behind = [{"target": "never read", "inputs": None}]
    nodes = chain(MAX_STEPS + 1, "a" if is_wrapped else "x") + behind
    nodes = [wrapped("x", "y", nodes, "v0")] if is_wrapped else nodes
    with pytest.raises(BadInput, match=f"more than {MAX_STEPS} steps"):
        read_program(program(nodes, "y"), "model.pt2")


def zipped(members, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = comment
        for name in members:
            archive.writestr(f"model/{name}", b"")
    return buffer.getvalue()


def in_large_form(data, length=None):
    """The same archive with the records for large ones behind its directory, as torch writes them."""
    end = data[-22:]
    entries, size, offset = struct.unpack("<H2L", end[10:20])
    length = size if length is None else length
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, length, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    return data[:-22] + record + locator + end


def refused_before_zipfile(data, tmp_path, monkeypatch):
    """The refusal of an archive that zipfile must never see."""
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was handed to zipfile"))
    path = tmp_path / "model.pt2"
    path.write_bytes(data)
    with path.open("rb") as stream, pytest.raises(BadInput) as refusal:
        read_archive(stream, path.name)
    return str(refusal.value)


@pytest.mark.parametrize("form", [bytes, in_large_form])
def test_members_are_counted_before_zipfile_makes_an_object_of_each(tmp_path, monkeypatch, form):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    data = form(zipped("abcde"))
    assert "it has 5 members, more than 4" in refused_before_zipfile(data, tmp_path, monkeypatch)


@pytest.mark.parametrize("length", [64_000_001, 2**62])
def test_a_large_directory_is_not_read(tmp_path, monkeypatch, length):
    data = in_large_form(zipped("a"), length)
    assert f"its directory has {length} bytes" in refused_before_zipfile(data, tmp_path, monkeypatch)


def test_a_count_that_lies_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    data = zipped("abcde")
    lying = data[:-14] + struct.pack("<2H", 1, 1) + data[-10:]
    assert "it has 5 members" in refused_before_zipfile(lying, tmp_path, monkeypatch)


@pytest.mark.parametrize("data", [b"", b"PK", zipped("a")[:-1], zipped("a", comment=b"more")])
def test_what_does_not_end_as_an_archive_is_refused(tmp_path, monkeypatch, data):
    assert "is no zip archive" in refused_before_zipfile(data, tmp_path, monkeypatch)
