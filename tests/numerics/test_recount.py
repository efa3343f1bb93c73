"""The recount finds every way in which a written artifact can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tasks.loading.models import Layer
from tasks.loading.weights import Checkpoint, open_checkpoint
from tasks.writing.recount import ArtifactWrong, Written, count_nonzero, recount

LAYER = Layer(name="l", weight="l.weight", shape=(4, 8), parameters=32, outputs=4, inputs=8)


def checkpoint(directory: Path, **tensors: torch.Tensor) -> Checkpoint:
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    return open_checkpoint(directory)


def dense_tensors(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 8, generator=generator).to(dtype)
    weight[0, 0] = -0.0
    return {"l.weight": weight, "other": torch.randn(5, generator=generator)}


def halved(weight: torch.Tensor) -> torch.Tensor:
    weight = weight.clone()
    weight.view(-1, 4)[:, 2:] = 0
    return weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_zeros_are_counted_in_the_written_bytes_those_of_before_included(tmp_path, dtype):
    tensors = dense_tensors(dtype)
    dense = checkpoint(tmp_path / "dense", **tensors)
    pruned = checkpoint(tmp_path / "pruned", **{**tensors, "l.weight": halved(tensors["l.weight"])})
    written = {"l.weight": [Written(layer=LAYER, pruned=16, group=(2, 4))]}
    assert recount(dense, pruned, written) == {"l": 17}
    assert count_nonzero(pruned, ["l.weight", "other"]) == 15 + 5


def spoiled(name: str) -> dict[str, torch.Tensor]:
    tensors = dense_tensors()
    weight = halved(tensors["l.weight"])
    match name:
        case "another tensor changed":
            tensors["other"][3] += 1e-7
        case "too few zeros":
            weight[3, 2] = dense_tensors()["l.weight"][3, 2]
        case "a weight changed":
            weight[3, 1] = torch.nextafter(weight[3, 1], torch.tensor(9.0))
        case "a weight became a number that is none":
            weight[3, 1] = float("nan")
        case "a group kept too many":
            weight[3, 2], weight[3, 5] = dense_tensors()["l.weight"][3, 2], 0
    return {**tensors, "l.weight": weight}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another tensor changed", "other was not to change"),
        ("too few zeros", "has 16 zeros and was to have 17"),
        ("a weight changed", "neither zero nor as they were"),
        ("a weight became a number that is none", "neither zero nor as they were"),
        ("a group kept too many", "more than 2 of 4"),
    ],
)
def test_every_fault_is_found(tmp_path, fault, message):
    dense = checkpoint(tmp_path / "dense", **dense_tensors())
    pruned = checkpoint(tmp_path / "pruned", **spoiled(fault))
    with pytest.raises(ArtifactWrong, match=message):
        recount(dense, pruned, {"l.weight": [Written(layer=LAYER, pruned=17, group=(2, 4))]})


def test_another_header_is_found(tmp_path):
    tensors = dense_tensors()
    dense = checkpoint(tmp_path / "dense", **tensors)
    pruned = checkpoint(tmp_path / "pruned", **{**tensors, "more": torch.zeros(1)})
    with pytest.raises(ArtifactWrong, match="other headers"):
        recount(dense, pruned, {})


def test_a_block_that_is_not_empty_is_missed(tmp_path):
    tensors = dense_tensors()
    blocked, scattered = tensors["l.weight"].clone(), tensors["l.weight"].clone()
    blocked[2:, :4] = 0
    scattered[:, 1::4] = 0
    dense = checkpoint(tmp_path / "dense", **tensors)
    written = {"l.weight": [Written(layer=LAYER, pruned=8, group=None, block=(2, 4))]}
    whole = checkpoint(tmp_path / "whole", **{**tensors, "l.weight": blocked})
    assert recount(dense, whole, written) == {"l": 9}
    spread = checkpoint(tmp_path / "spread", **{**tensors, "l.weight": scattered})
    with pytest.raises(ArtifactWrong, match="has 0 empty blocks of 2 x 4 and was to have 1"):
        recount(dense, spread, written)
