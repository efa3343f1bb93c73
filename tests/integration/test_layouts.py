"""Layouts: one file of weights or several with an index, and everything that can be wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cases.weight_files import write, write_index

from tasks.contract import BadInput
from tasks.files.headers import read_header
from tasks.files.layouts import INDEX, SINGLE, check_index, read_layout


def test_a_file_is_read_with_the_bytes_in_front_of_its_data(tmp_path):
    path = write(tmp_path / SINGLE, {"a": [1.0, 2.0], "b": [3.0]})
    found = read_header(path)
    assert found.bytes == path.stat().st_size == len(found.head) + 12
    assert path.read_bytes().startswith(found.head)
    assert list(found.entries) == ["a", "b"]


def test_headers_longer_than_the_first_read_are_read_whole(tmp_path):
    path = write(tmp_path / SINGLE, {f"layer.{index}.weight": [1.0] for index in range(200)})
    assert len(read_header(path).entries) == 200


def test_links_pipes_and_directories_are_no_weights(tmp_path):
    real = write(tmp_path / "real.safetensors", {"a": [1.0]})
    cases = {"link": "symbolic link", "pipe": "not a regular file", "directory": "not a regular file"}
    (tmp_path / "link").symlink_to(real)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name, reason in cases.items():
        with pytest.raises(BadInput, match=reason):
            read_header(tmp_path / name)
    with pytest.raises(BadInput, match="No such file"):
        read_header(tmp_path / "absent")


def shards(directory: Path, **metadata: Any) -> dict[str, str]:
    write(directory / "m-1.safetensors", {"a": [1.0], "b": [2.0]})
    write(directory / "m-2.safetensors", {"c": [3.0]})
    listing = {"a": "m-1.safetensors", "b": "m-1.safetensors", "c": "m-2.safetensors"}
    write_index(directory, listing, **metadata)
    return listing


def layout_refusal(directory: Path) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_layout(directory)
    return caught.value


def test_one_file_and_several_with_an_index_are_found(tmp_path):
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / SINGLE, {"a": [1.0]})
    assert [file.path for file in read_layout(tmp_path / "one").files] == [tmp_path / "one" / SINGLE]
    (tmp_path / "two").mkdir()
    shards(tmp_path / "two", total_size=12)
    two = read_layout(tmp_path / "two")
    assert [file.path.name for file in two.files] == ["m-1.safetensors", "m-2.safetensors"]
    assert two.findings == ()


def test_a_wrong_total_size_is_a_finding(tmp_path):
    shards(tmp_path, total_size=13)
    (finding,) = read_layout(tmp_path).findings
    assert finding.kind == "total_size"
    assert "13" in finding.message
    assert "12" in finding.message


def test_files_that_the_index_does_not_name_are_a_finding(tmp_path):
    shards(tmp_path)
    write(tmp_path / "consolidated.safetensors", {"x": [1.0]})
    (finding,) = read_layout(tmp_path).findings
    assert (finding.kind, finding.subject) == ("extra_file", "consolidated.safetensors")


def test_a_file_whose_name_is_no_text_is_told_escaped(tmp_path):
    odd = tmp_path / os.fsdecode(b"odd\xff.safetensors")
    write(odd, {"x": [1.0]})
    assert "odd\\udcff.safetensors" in str(layout_refusal(tmp_path))
    shards(tmp_path)
    (finding,) = read_layout(tmp_path).findings
    assert finding.subject == "odd\\udcff.safetensors"


def test_a_missing_shard_is_named(tmp_path):
    shards(tmp_path)
    (tmp_path / "m-2.safetensors").unlink()
    error = layout_refusal(tmp_path)
    assert error.file == "m-2.safetensors"
    assert "not there" in error.why


def test_a_tensor_that_its_shard_does_not_hold_is_named(tmp_path):
    listing = shards(tmp_path)
    write_index(tmp_path, {**listing, "d": "m-2.safetensors"})
    error = layout_refusal(tmp_path)
    assert (error.file, error.tensor) == ("m-2.safetensors", "d")
    write_index(tmp_path, {**listing, "c": "m-1.safetensors", "x": "m-2.safetensors"})
    assert layout_refusal(tmp_path).tensor == "c"


def test_a_tensor_in_two_shards_is_named(tmp_path):
    shards(tmp_path)
    write(tmp_path / "m-2.safetensors", {"c": [3.0], "a": [9.0]})
    error = layout_refusal(tmp_path)
    assert (error.file, error.tensor) == ("m-2.safetensors", "a")
    assert "also stands in m-1" in error.why


def test_a_tensor_that_the_index_does_not_list_is_named(tmp_path):
    shards(tmp_path)
    write(tmp_path / "m-2.safetensors", {"c": [3.0], "d": [9.0]})
    error = layout_refusal(tmp_path)
    assert (error.file, error.tensor) == ("m-2.safetensors", "d")
    assert "does not list" in error.why


@pytest.mark.parametrize(
    "name",
    [
        "../m-1.safetensors",
        "/etc/m-1.safetensors",
        "sub/m-1.safetensors",
        "..",
        "",
        ".hidden.safetensors",
        "C:\\m.safetensors",
        "\\\\host\\share\\m.safetensors",
        "m\x00.safetensors",
        "m%2e.safetensors\n",
        "m.bin",
        "model.safetensors/",
        "ｍ.safetensors",
        "m…safetensors",
        "m" * 4096 + ".safetensors",
        None,
        3,
        ["m-1.safetensors"],
    ],
)
def test_shard_names_that_could_leave_the_directory_are_refused_before_anything_is_opened(tmp_path, name):
    write_index(tmp_path, {"a": name})
    error = layout_refusal(tmp_path)
    assert (error.file, error.tensor) == (INDEX, "a")
    assert "plain name" in error.why


def test_a_shard_that_is_a_link_is_refused(tmp_path):
    directory = tmp_path / "model"
    directory.mkdir()
    shards(directory)
    (directory / "m-2.safetensors").rename(tmp_path / "outside.safetensors")
    (directory / "m-2.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert "symbolic link" in layout_refusal(directory).why


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "missing or empty"),
        ('{"weight_map": {}}', "missing or empty"),
        ('{"weight_map": []}', "missing or empty"),
        ("[]", "not an object"),
        ('{"weight_map": {"a": "m.safetensors", "a": "n.safetensors"}}', "twice"),
        ("not json", "not JSON"),
        ("", "not JSON"),
    ],
)
def test_indexes_that_list_nothing_sensible_are_refused(tmp_path, text, reason):
    (tmp_path / INDEX).write_text(text)
    assert reason in layout_refusal(tmp_path).why


def test_a_total_size_that_is_no_number_is_ignored():
    assert check_index(b'{"metadata":{"total_size":true},"weight_map":{"a":"m.safetensors"}}')[1] is None
    assert check_index(b'{"metadata":[],"weight_map":{"a":"m.safetensors"}}')[1] is None


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "no weights"),
        (("a.safetensors", "b.safetensors"), "2 weight files and no"),
        (("other.safetensors",), "called other.safetensors"),
        (("pytorch_model.bin",), "pickle can run code"),
        (("model.ckpt", "config.json"), "pickle can run code"),
        (("model.gguf",), "already quantized"),
        (("adapter_config.json", "adapter_model.safetensors"), "LoRA"),
        ((SINGLE, INDEX), "each could be the model"),
    ],
)
def test_directories_without_one_clear_set_of_weights_say_why(tmp_path, names, reason):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert reason in str(layout_refusal(tmp_path))


def test_what_is_no_directory_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a directory"):
        read_layout(tmp_path / "absent")


@pytest.mark.parametrize("kept", [0, 5, 40])
def test_a_file_that_shrinks_while_it_is_read_is_told(tmp_path, monkeypatch, kept):
    path = tmp_path / "model.safetensors"
    write(path, {"x": [1.0]})
    whole, fstat = path.stat().st_size, os.fstat

    def then_shrink(descriptor):
        told = fstat(descriptor)
        if told.st_size == whole and then_shrink.is_open:
            os.truncate(path, kept)
        then_shrink.is_open = True
        return told

    then_shrink.is_open = False
    monkeypatch.setattr("tasks.files.headers.os.fstat", then_shrink)
    with pytest.raises(BadInput, match="shorter while it was read|beyond|cut short"):
        read_header(path)
    assert path.stat().st_size == kept
