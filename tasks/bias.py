"""Effects. Lets a layer's bias make up for what its removed weights gave on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tasks.batches import batches, logits_of
from tasks.calibration import watching
from tasks.fitting import Fitted
from tasks.hessians import unfolded
from tasks.models import Layer, Model, rows_of


def mean_inputs(model: Model, layers: Sequence[Layer], fitted: Fitted) -> dict[str, torch.Tensor]:
    """What each layer sees on average, float64 [layer.inputs]; of a convolution over all places of its kernel."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def add(layer: Layer, module: nn.Module, inputs: torch.Tensor) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            parts = [unfolded(module, inputs[at : at + 1]) for at in range(len(inputs))]
        else:
            parts = [inputs.reshape(-1, layer.inputs)]
        for vectors in parts:
            total = vectors.sum(0, dtype=torch.float64)
            sums[layer.name] = sums[layer.name] + total if layer.name in sums else total
            counts[layer.name] = counts.get(layer.name, 0) + len(vectors)

    with torch.no_grad(), watching(model.module, layers, add):
        for batch in batches(fitted, model, padded=False):
            logits_of(model, batch)
    return {name: total / counts[name] for name, total in sums.items()}


def correction(layer: Layer, dense: torch.Tensor, pruned: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """(W - W') · mean input, float64 [outputs]: what the layer's outputs lack on average."""
    lost = rows_of(layer, dense).double() - rows_of(layer, pruned).double()
    seen = mean.to(lost.device).reshape(layer.groups, -1)
    return (lost * seen.repeat_interleave(layer.outputs // layer.groups, dim=0)).sum(1)


def correct_(
    pruned: nn.Module, dense: nn.Module, layers: Sequence[Layer], means: Mapping[str, torch.Tensor]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adds the corrections to the biases; (names of the biases it set, layers that have none or lost whole rows)."""
    changed, without = [], []
    for layer in layers:
        part = pruned.get_submodule(layer.name)
        before, after = dense.get_parameter(layer.weight), pruned.get_parameter(layer.weight)
        bias = getattr(part, "bias", None)
        if not isinstance(bias, nn.Parameter) or before.shape != after.shape or layer.name not in means:
            without.append(layer.name)
            continue
        missing = correction(layer, before.detach(), after.detach(), means[layer.name])
        bias.data = (bias.detach().double() + missing.to(bias.device)).to(bias.dtype)
        changed.append(f"{layer.name}.bias")
    return tuple(changed), tuple(without)
