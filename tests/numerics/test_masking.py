"""Masks made some rows at a time are those of the whole weight, and the bytes written are the weight with zeros."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tasks.masks.masking
from tasks.loading.models import Layer, prunable_layers
from tasks.masks.criteria import CRITERIA, NOTHING, Criterion, Seen, layer_score, norms_by_row
from tasks.masks.masking import mask_layer, zeroed
from tasks.masks.patterns import NotANumber, mask_of


def layers() -> list[tuple[Layer, torch.Tensor]]:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    parts = [nn.Linear(24, 10), nn.Conv2d(4, 6, 2), nn.Conv2d(4, 6, 2, groups=2), Conv1D(10, 24)]
    return [(prunable_layers(nn.Sequential(part))[0], part.weight.detach()) for part in parts]


@pytest.mark.parametrize(
    ("pattern", "scope", "amount"),
    [
        ("unstructured", "tensor", 0.37),
        ("unstructured", "row", 0.37),
        ("unstructured", None, 0.9),
        ("2:4", None, 0.5),
    ],
)
@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_blocks_of_rows_change_nothing(monkeypatch, pattern, scope, amount, criterion, block):
    monkeypatch.setattr(tasks.masks.masking, "_BLOCK", block)
    for layer, weight in layers():
        squares = torch.rand(layer.inputs, dtype=torch.float64)
        seen = Seen(norms=norms_by_row(layer, squares)) if criterion == "wanda" else NOTHING
        score = layer_score(CRITERIA[criterion], layer, weight, seen)
        expected = mask_of(score, amount, pattern, scope)
        found = mask_layer(
            CRITERIA[criterion], layer, weight, seen, amount=amount, pattern=pattern, scope=scope
        )
        assert torch.equal(found.mask, expected)
        assert found.pruned == int(expected.sum())
        error = float(score.double()[expected].square().sum() / score.double().square().sum())
        assert found.error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_bytes_are_those_of_the_weight_with_positive_zeros(dtype):
    for layer, weight in layers():
        stored = weight.to(dtype).contiguous()
        mask = torch.rand(layer.outputs, layer.parameters // layer.outputs) < 0.5
        content = b"".join(bytes(block) for block in zeroed(layer, stored, mask))
        found = torch.frombuffer(bytearray(content), dtype=dtype).reshape(stored.shape)
        gone = (mask.t() if layer.transposed else mask).reshape(stored.shape)
        assert torch.equal(found, stored.masked_fill(gone, 0.0))
        assert not torch.signbit(found[gone]).any()


def test_a_weight_of_zeros_loses_nothing():
    layer = prunable_layers(nn.Sequential(nn.Linear(4, 4)))[0]
    found = mask_layer(
        CRITERIA["magnitude"],
        layer,
        torch.zeros(4, 4),
        NOTHING,
        amount=0.5,
        pattern="unstructured",
        scope=None,
    )
    assert (found.pruned, found.error) == (8, 0.0)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e38])
def test_errors_are_true_where_squares_leave_float32(scale):
    layer = prunable_layers(nn.Sequential(nn.Linear(2, 1)))[0]
    weight = torch.tensor([[0.5, 1.0]]) * scale
    found = mask_layer(
        CRITERIA["magnitude"], layer, weight, NOTHING, amount=0.5, pattern="unstructured", scope=None
    )
    assert found.error == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scope", ["tensor", "row"])
def test_scores_that_are_no_finite_numbers_are_refused(value, scope):
    layer = prunable_layers(nn.Sequential(nn.Linear(4, 4)))[0]
    broken = Criterion(score=lambda weight, seen: torch.full_like(weight, value))
    with pytest.raises(NotANumber):
        mask_layer(broken, layer, torch.ones(4, 4), NOTHING, amount=0.5, pattern="unstructured", scope=scope)
