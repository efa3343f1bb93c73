"""Effects. Lets a layer's bias make up for what its removed weights, or units that it read, gave on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from tasks.cutting.cuts import Cut
from tasks.cutting.units import readers
from tasks.examples.batches import batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model, prunable_layers, rows_of
from tasks.statistics.calibration import watching
from tasks.statistics.hessians import unfolded


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
        _add_(bias, correction(layer, before.detach(), after.detach(), means[layer.name]))
        changed.append(f"{layer.name}.bias")
    return tuple(changed), tuple(without)


def correct_cut_(
    small: nn.Module, dense: Model, layers: Sequence[Layer], cut: Cut, fitted: Fitted
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lets the biases of those who read units that were cut out make up for what the units gave on average.

    `layers` are those of the smaller model, which is changed. Gives (names of the biases it set, readers that have none).
    """
    whole = {layer.weight: layer for layer in prunable_layers(dense.module)}
    read = {slot.dim.tensor for choice in cut.choices for slot in readers(choice.group, whole)}
    origins = {
        layer.name: whole[cut.origin(layer.weight)] for layer in layers if cut.origin(layer.weight) in read
    }
    biases = {name: getattr(small.get_submodule(name), "bias", None) for name in origins}
    found = {name: bias for name, bias in biases.items() if isinstance(bias, nn.Parameter)}
    means = mean_inputs(dense, [origins[name] for name in found], fitted)
    state = dense.module.state_dict(keep_vars=True)
    emptied = cut.emptied(state)
    for name, bias in found.items():
        layer = origins[name]
        missing = correction(layer, state[layer.weight].detach(), emptied[layer.weight], means[layer.name])
        _add_(bias, cut.sliced(f"{layer.name}.bias", missing))
    return tuple(f"{name}.bias" for name in found), tuple(name for name in origins if name not in found)


def _add_(bias: nn.Parameter, missing: torch.Tensor) -> None:
    bias.data = (bias.detach().double() + missing.to(bias.device)).to(bias.dtype)
