"""Effects. Runs examples through a model and sums up x x^T over each layer's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from tasks.examples.batches import batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model
from tasks.statistics.calibration import padded_for, refuse_overflow, watching
from tasks.statistics.passes import Passes

LIMIT_BYTES = 2**30
"""Of the Hessians that are there at the same time; a single larger one still is."""


def hessians(model: Model, layers: Sequence[Layer], fitted: Fitted, limit: int = LIMIT_BYTES) -> Passes:
    """The Hessians of the layers, [inputs, inputs] in float32 on the model's device, as they are asked for."""
    return Passes(layers=layers, gather=partial(_gather, model, fitted), size=hessian_bytes, limit=limit)


def hessian_bytes(layer: Layer) -> int:
    """What the Hessian of a layer takes."""
    return 4 * layer.inputs**2


def _gather(model: Model, fitted: Fitted, layers: Sequence[Layer]) -> dict[str, torch.Tensor]:
    device = next(model.module.parameters()).device
    sums = {layer.name: torch.zeros(layer.inputs, layer.inputs, device=device) for layer in layers}

    def add(layer: Layer, module: nn.Module, inputs: torch.Tensor) -> None:
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            for at in range(len(inputs)):  # unfolded, an example is as often there as the kernel has elements
                _add_(sums[layer.name], unfolded(module, inputs[at : at + 1]))
        else:
            _add_(sums[layer.name], inputs.reshape(-1, layer.inputs).float())

    with torch.no_grad(), watching(model.module, layers, add):
        for batch in batches(fitted, model, padded=False):
            logits_of(model, batch)
    refuse_overflow(sums)
    return sums


def _add_(total: torch.Tensor, vectors: torch.Tensor) -> None:
    total.addmm_(vectors.t(), vectors)


def unfolded(module: nn.Conv1d | nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """What the kernel sees at each place, [places, inputs]."""
    padded = padded_for(module, inputs)
    sizes = [(tuple(getattr(module, name))) for name in ("kernel_size", "dilation", "stride")]
    if isinstance(module, nn.Conv1d):
        padded, sizes = padded.unsqueeze(2), [(1, *size) for size in sizes]
    kernel, dilation, stride = sizes
    columns = nn.functional.unfold(padded, kernel, dilation=dilation, stride=stride)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])
