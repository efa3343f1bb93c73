"""The grid of sensitivities in the naive way: prune a copy, run all of it, example by example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tasks import sensitivity
from tasks.contract import Dataset, Work
from tasks.evaluation import score
from tasks.examples.batches import batches
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, fit
from tasks.loading.models import Layer, Model, load, prunable_layers

GRID = [0.0, 0.3, 0.75]


def dataset_of(files: Mapping[str, Path], architecture: str) -> Dataset:
    if architecture in ("LlamaForCausalLM", "GPT2LMHeadModel"):
        return Dataset(path=files["text"], kind="text", split="calibration")
    if architecture.startswith("Bert"):
        return Dataset(path=files["sections"], kind="text", split="calibration")
    shape = () if architecture.startswith("MLP") else (1, 8, 8)
    return Dataset(path=files["arrays"], kind="arrays", split="calibration", shape=shape)


def rows_of(work: Work) -> Sequence[Any]:
    return sensitivity.run(work).tables["sensitivity"]


def naive_mask(scores: np.ndarray, amount: float, scope: str | None, pattern: str) -> np.ndarray:
    """Rows of scores -> what goes, by sorting (score, -index) pairs one scope at a time."""
    mask = np.zeros(scores.shape, bool)
    if pattern != "unstructured":
        kept, group = map(int, pattern.split(":"))
        parts = [
            (row, slice(start, start + group))
            for row in range(len(scores))
            for start in range(0, scores.shape[1], group)
        ]
        for row, columns in parts:
            order = sorted(range(group), key=lambda i: (-scores[row, columns][i], i))
            mask[row, columns][order[kept:]] = True
        return mask
    flat = mask.reshape(-1) if scope == "tensor" else None
    for part, values in [(flat, scores.reshape(-1))] if flat is not None else zip(mask, scores, strict=True):
        count = math.floor(amount * len(values) + 0.5)
        order = sorted(range(len(values)), key=lambda i: (values[i], -i))
        part[order[:count]] = True
    return mask


def naive_norms(model: Model, layer: Layer, fitted: Fitted) -> np.ndarray:
    """Norm of each input that each row sees, from every example run alone; convolutions unfolded by torch."""
    module, squares = model.module.get_submodule(layer.name), np.zeros(layer.inputs)

    def watch(part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs = given[0].double()
        if isinstance(part, nn.Conv2d):
            inputs = nn.functional.unfold(inputs, part.kernel_size, part.dilation, part.padding, part.stride)
            inputs = inputs.transpose(1, 2)
        squares[:] += inputs.reshape(-1, layer.inputs).square().sum(0).numpy()

    handle = module.register_forward_pre_hook(watch)
    for item in fitted.items:
        (batch,) = batches(Fitted(items=(item,)), model)
        score(model, batch)
    handle.remove()
    assert layer.groups == 1
    return np.sqrt(squares)


def naive_losses(model: Model, fitted: Fitted) -> np.ndarray:
    """Of each example, run alone and in full."""
    return np.array(
        [
            float(score(model, batch).losses[0])
            for item in fitted.items
            for batch in batches(Fitted(items=(item,)), model)
        ]
    )


def naive_grid(
    work: Work, losses_of: Callable[[Model, Fitted], np.ndarray] = naive_losses
) -> list[dict[str, Any]]:
    """Every cell with the whole model, the weights written to in place and read back from the file."""
    model = load(work.model)
    stored = load_file(work.model / "model.safetensors")
    fitted = fit(read(work.datasets["calibration"]), model)
    tokens = np.array([len(item.content) - 1 if model.family == "causal_lm" else 1 for item in fitted.items])
    dense = losses_of(model, fitted)
    pattern, scope = work.params["pattern"], work.params["scope"]
    amounts = (
        work.params["grid"] if pattern == "unstructured" else [1 - float(Fraction(pattern.replace(":", "/")))]
    )
    cells = []
    for layer in prunable_layers(model.module):
        norms = naive_norms(model, layer, fitted) if work.params["criterion"] == "wanda" else 1.0
        weight = model.module.get_parameter(layer.weight).data
        before = weight.clone()
        rows = (before.t() if layer.transposed else before.reshape(layer.outputs, -1)).float().abs().numpy()
        for amount in amounts:
            mask = torch.from_numpy(naive_mask(rows * norms, amount, scope, pattern))
            weight[(mask.t() if layer.transposed else mask.reshape(weight.shape))] = 0
            losses = losses_of(model, fitted)
            weight.copy_(before)
            changes = losses - dense
            delta = changes.sum() / tokens.sum()
            spread = ((changes - delta * tokens) ** 2).sum() * len(tokens) / (len(tokens) - 1)
            cells.append(
                {
                    "layer": layer.name,
                    "amount": amount,
                    "dense_value": dense.sum() / tokens.sum(),
                    "value": losses.sum() / tokens.sum(),
                    "delta": delta,
                    "stderr": math.sqrt(spread) / tokens.sum(),
                    "samples": len(tokens),
                    "tokens": tokens.sum(),
                    "parameters": weight.numel(),
                }
            )
        assert layer.weight not in stored or torch.equal(weight, stored[layer.weight])
    return cells


def same_batches(model: Model, fitted: Fitted) -> np.ndarray:
    """Losses of full runs of the same batches as the task's, so that they can be equal to the last bit."""
    losses = np.zeros(len(fitted.items))
    for batch in batches(fitted, model):
        losses[list(batch.positions)] = score(model, batch).losses.numpy()
    return losses


def assert_equal_grids(found: Sequence[Any], expected: Sequence[Any], **tolerance: float) -> None:
    assert [(row["layer"], row["amount"]) for row in found] == [
        (row["layer"], row["amount"]) for row in expected
    ]
    for row, wanted in zip(found, expected, strict=True):
        for name, value in wanted.items():
            if name != "layer":
                assert row[name] == pytest.approx(value, **tolerance), (row["layer"], row["amount"], name)
