"""Reading and writing checkpoints: the library's values, the same files again, and nothing that could run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.contract import BadInput, printable
from tasks.loading.weights import (
    DTYPES,
    check_finite,
    count_not_finite,
    open_checkpoint,
    read_exactly,
    same_bytes,
    write_like,
)


def save(directory: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "model.safetensors", metadata=metadata or None)
    return directory


def sample() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        str(dtype): (torch.randn(5, 7, generator=generator) * 10).to(dtype) for dtype in DTYPES.values()
    }
    return {
        **tensors,
        "scalar": torch.tensor(3.5),
        "nothing": torch.empty(0, 4),
        "odd": torch.ones(3, dtype=torch.int8),
    }


def shift(directory: Path, by: int) -> None:
    """Makes the header longer by some bytes, so that the data is not aligned."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(
        (length + by).to_bytes(8, "little") + content[8 : 8 + length] + b" " * by + content[8 + length :]
    )


@pytest.mark.parametrize("by", [0, 1, 2, 3])
def test_tensors_of_every_dtype_are_read_as_the_library_reads_them_even_unaligned(tmp_path, by):
    save(tmp_path, sample())
    shift(tmp_path, by)
    expected = load_file(tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.names) == set(expected)
    for name in checkpoint.names:
        for found in (checkpoint.read(name), checkpoint.mapped(name)):
            assert found.dtype == expected[name].dtype
            assert torch.equal(found, expected[name]), name


def test_writing_to_a_mapped_tensor_leaves_the_file_and_other_mappings_alone(tmp_path):
    save(tmp_path, {"a": torch.ones(1000)})
    before = (tmp_path / "model.safetensors").read_bytes()
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path)
    one.mapped("a").zero_()
    assert one.mapped("a").sum() == 0
    assert other.mapped("a").sum() == 1000
    assert (tmp_path / "model.safetensors").read_bytes() == before
    one.release()
    assert one.mapped("a").sum() == 1000


def test_a_read_tensor_is_a_copy(tmp_path):
    save(tmp_path, {"a": torch.ones(10)})
    checkpoint = open_checkpoint(tmp_path)
    checkpoint.read("a").zero_()
    assert checkpoint.read("a").sum() == 10


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_dtypes_of_quantized_models_are_refused_by_tensor_and_never_reinterpreted(tmp_path, dtype):
    save(tmp_path, {"good": torch.ones(4), "bad": torch.ones(4).to(dtype)})
    checkpoint = open_checkpoint(tmp_path)
    for read in (checkpoint.read, checkpoint.mapped, checkpoint.dtype):
        with pytest.raises(BadInput, match="belongs to a quantized or unusual model") as caught:
            read("bad")
        assert (caught.value.tensor, caught.value.file) == ("bad", "model.safetensors")
    assert checkpoint.read("good").sum() == 4


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(BadInput, match="ended at byte 5"):
            read_exactly(descriptor, memoryview(bytearray(8)), 1, "f")
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_finite_is_counted_exactly(dtype):
    tensor = torch.full((300, 300), 60000.0).to(dtype)
    assert count_not_finite(tensor) == 0
    tensor[3, 5], tensor[0, 0], tensor[299, 299] = float("nan"), float("inf"), float("-inf")
    assert count_not_finite(tensor) == 3


def test_a_sum_that_overflows_does_not_make_finite_weights_infinite():
    assert count_not_finite(torch.full((10,), 3e38)) == 0
    assert count_not_finite(torch.tensor([1, 2])) == 0
    assert count_not_finite(torch.empty(0)) == 0


def test_a_weight_that_is_not_finite_is_refused_with_its_name_and_count():
    with pytest.raises(BadInput, match="2 of 3 entries") as caught:
        check_finite(torch.tensor([1.0, float("nan"), float("inf")]), "w", "m.safetensors")
    assert (caught.value.tensor, caught.value.file) == ("w", "m.safetensors")


def test_a_copy_is_the_same_file_bit_by_bit(tmp_path):
    save(tmp_path / "in", sample(), format="pt", note="kept")
    (tmp_path / "out").mkdir()
    checkpoint = open_checkpoint(tmp_path / "in")
    assert write_like(checkpoint, tmp_path / "out", lambda name: None) == ()
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        tmp_path / "in/model.safetensors"
    ).read_bytes()
    again = open_checkpoint(tmp_path / "out")
    assert all(same_bytes(checkpoint, again, name) for name in checkpoint.names)


@pytest.mark.parametrize("changed", [("a",), ("b",), ("c",), ("a", "c"), ("a", "b", "c"), ("b", "c")])
def test_changed_tensors_are_written_in_place_of_the_stored_ones_and_the_others_stay(tmp_path, changed):
    tensors = {"a": torch.ones(5), "b": torch.full((3,), 2.0), "c": torch.full((4, 2), 3.0)}
    save(tmp_path / "in", tensors)
    (tmp_path / "out").mkdir()
    checkpoint = open_checkpoint(tmp_path / "in")

    def change(name):
        value = torch.full_like(tensors[name], -1.0).numpy().reshape(-1)
        return [value[:1].data, value[1:].data] if name in changed else None

    write_like(checkpoint, tmp_path / "out", change)
    found = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], torch.full_like(tensor, -1.0) if name in changed else tensor)
        assert same_bytes(checkpoint, open_checkpoint(tmp_path / "out"), name) == (name not in changed)
    assert sorted(os.listdir(tmp_path / "out")) == ["model.safetensors"]


def test_bytes_that_do_not_fill_a_tensor_are_a_bug_and_leave_no_file_with_its_name(tmp_path):
    save(tmp_path / "in", {"a": torch.ones(5)})
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="takes 20 bytes and was given 4"):
        write_like(open_checkpoint(tmp_path / "in"), tmp_path / "out", lambda name: [memoryview(b"1234")])
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_shards_stay_shards_and_the_index_stays_as_it_is(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    save_file({"a": torch.ones(2)}, source / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(3)}, source / "model-00002-of-00002.safetensors")
    index = '{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}'
    (source / "model.safetensors.index.json").write_text(index)
    write_like(open_checkpoint(source), target, lambda name: None)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }
    assert open_checkpoint(target).names == ("a", "b")


def test_harmless_files_go_along_and_each_other_one_is_a_finding(tmp_path):
    source, target = save(tmp_path / "in", {"a": torch.ones(2)}), tmp_path / "out"
    target.mkdir()
    kept = [
        "config.json",
        "tokenizer.json",
        "generation_config.json",
        "vocab.txt",
        "merges.txt",
        "spiece.model",
    ]
    kept += ["chat_template.jinja", "README.md", "LICENSE"]
    left = [
        "modeling_evil.py",
        "pytorch_model.bin",
        "training_args.pt",
        "x.pkl",
        "pytorch_model.bin.index.json",
    ]
    left += [".hidden.json", "run.sh", "model.onnx", "weird\n.json", "extra.safetensors"]
    for name in kept + left:
        (source / name).write_bytes(name.encode())
    (source / "folder.json").mkdir()
    (tmp_path / "secret").write_text("secret")
    (source / "link.json").symlink_to(tmp_path / "secret")
    os.mkfifo(source / "pipe.json")
    findings = write_like(open_checkpoint(source), target, lambda name: None)
    assert sorted(path.name for path in target.iterdir()) == sorted([*kept, "model.safetensors"])
    named = {printable(name) for name in left}
    assert {finding.subject for finding in findings} == {*named, "folder.json", "link.json", "pipe.json"}
    assert {finding.kind for finding in findings} == {"skipped_file"}
    assert all((target / name).read_bytes() == name.encode() for name in kept)


def test_tensors_of_another_shape_or_dtype_are_not_the_same(tmp_path):
    one = open_checkpoint(save(tmp_path / "one", {"a": torch.zeros(4)}))
    other = open_checkpoint(save(tmp_path / "other", {"a": torch.zeros(2, 2)}))
    third = open_checkpoint(save(tmp_path / "third", {"a": torch.zeros(4, dtype=torch.int32)}))
    assert not same_bytes(one, other, "a")
    assert not same_bytes(one, third, "a")


def test_large_tensors_that_differ_in_their_last_byte_are_not_the_same(tmp_path):
    tensor = torch.zeros(700_000)
    one = open_checkpoint(save(tmp_path / "one", {"a": tensor}))
    tensor[-1] = 1
    other = open_checkpoint(save(tmp_path / "other", {"a": tensor}))
    assert same_bytes(one, one, "a")
    assert not same_bytes(one, other, "a")
