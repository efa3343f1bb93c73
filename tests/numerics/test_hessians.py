"""The Hessians against plain outer products, and how many of them are held at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from cases.calibrations import input_norms
from torch import nn

from tasks.contract import Dataset
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, load, prunable_layers
from tasks.statistics.hessians import hessian_bytes, hessians, unfolded
from tasks.statistics.passes import Passes

KINDS = {
    "LlamaForCausalLM": ("text", "text", ()),
    "GPT2LMHeadModel": ("text", "text", ()),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
    "MLPForClassification": ("arrays", "arrays", ()),
}


@pytest.mark.parametrize("architecture", KINDS)
def test_the_diagonal_is_the_sum_of_squares_and_the_matrix_is_symmetric(
    tmp_path, tiny_model, tiny_data, architecture
):
    name, kind, shape = KINDS[architecture]
    model = load(tiny_model(tmp_path / "m", architecture))
    data = Dataset(path=tiny_data(tmp_path / "d")[name], kind=kind, split="calibration", shape=shape)
    layers = prunable_layers(model.module)
    squares = input_norms(model, layers, data).squares
    found = hessians(model, layers, fit(read(data), model))
    for layer in layers:
        hessian = found.of(layer)
        assert hessian.dtype == torch.float32
        assert hessian.nbytes == hessian_bytes(layer)
        torch.testing.assert_close(hessian, hessian.T)
        np.testing.assert_allclose(
            hessian.diagonal().double().numpy(), squares[layer.name].numpy(), rtol=2e-4, atol=1e-4
        )
    assert found.count == 1


def test_a_small_limit_takes_more_passes_and_changes_no_bit(tmp_path, tiny_model, tiny_data):
    model = load(tiny_model(tmp_path / "m"))
    data = Dataset(path=tiny_data(tmp_path / "d")["text"], kind="text", split="calibration")
    layers, fitted = prunable_layers(model.module), fit(read(data), model)
    whole, alone = hessians(model, layers, fitted), hessians(model, layers, fitted, limit=0)
    for layer in layers:
        assert torch.equal(whole.of(layer), alone.of(layer))
    assert (whole.count, alone.count) == (1, len(layers))


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(2, 3, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(2, 3, 3, padding="same", padding_mode="reflect"),
        nn.Conv1d(2, 3, 3, stride=2, padding=1),
        nn.Conv1d(2, 3, 2, dilation=3, padding=2, padding_mode="circular"),
    ],
    ids=str,
)
def test_what_the_kernel_sees_times_the_kernel_is_the_convolution(module):
    spatial = (7, 9) if isinstance(module, nn.Conv2d) else (11,)
    given = torch.randn(1, 2, *spatial, generator=torch.Generator().manual_seed(0))
    seen = unfolded(module, given)
    with torch.no_grad():
        expected = module(given) - module.bias.reshape(-1, *(1 for _ in spatial))
        found = (seen @ module.weight.reshape(3, -1).T).T.reshape(expected.shape[1:])
    torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


def layers_of(*inputs: int) -> list[Layer]:
    return [
        Layer(name=f"l{i}", weight=f"l{i}.weight", shape=(1, n), parameters=n, outputs=1, inputs=n)
        for i, n in enumerate(inputs)
    ]


@pytest.mark.parametrize(
    ("limit", "gathered"),
    [
        (100, [["l0", "l1", "l2", "l3"]]),
        (5, [["l0", "l1"], ["l2"], ["l3"]]),
        (3, [["l0"], ["l1"], ["l2"], ["l3"]]),
        (7, [["l0", "l1"], ["l2", "l3"]]),
    ],
)
def test_neighbours_are_gathered_together_as_far_as_they_fit(limit, gathered):
    layers = layers_of(2, 3, 6, 1)
    seen: list[list[str]] = []

    def gather(members: Sequence[Layer]) -> dict[str, torch.Tensor]:
        seen.append([layer.name for layer in members])
        return {layer.name: torch.full((1,), float(layer.inputs)) for layer in members}

    passes = Passes(layers=layers, gather=gather, size=lambda layer: layer.inputs, limit=limit)
    assert [float(passes.of(layer)) for layer in layers] == [2, 3, 6, 1]
    assert seen == gathered
    assert passes.count == len(gathered)
    assert float(passes.of(layers[0])) == 2, "one that is gone is gathered again"
    assert float(passes.of(layers[0])) == 2
    assert passes.count == len(gathered) + (len(gathered) > 1)
