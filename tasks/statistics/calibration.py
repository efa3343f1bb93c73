"""Effects. Runs examples through a model and sums up the squares of what each layer's inputs were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import nn

from tasks.contract import BadInput, Finding
from tasks.examples.batches import batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model
from tasks.statistics.moments import Moments, moments_of, side_by_side
from tasks.statistics.routing import watching_experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What calibration saw of each layer's inputs, by the layer's name."""

    squares: Mapping[str, torch.Tensor]
    """Sum of squares of each input: float64 [layer.inputs], on the layer's device."""
    tokens: Mapping[str, int]
    """How many input vectors were summed: positions of a linear layer, places of the kernel of a convolution."""
    unreached: tuple[str, ...]
    """Layers that no example came to; they have no squares."""
    findings: tuple[Finding, ...]
    """About the examples."""
    moments: Mapping[str, Moments] = field(default_factory=dict)
    """If they were asked for."""


def input_norms_over(
    model: Model, layers: Sequence[Layer], fitted: Fitted, *, with_moments: bool = False
) -> Statistics:
    """The statistics of the layers over examples that fit the model, with the moments of their inputs if asked for.

    Only examples of the same length run together: without padding, no mask can be misapplied in models that
    flatten or route their tokens. Errors: BadInput, if an input of a layer is not finite.
    """
    squares: dict[str, torch.Tensor] = {}
    tokens: dict[str, int] = {}
    moments: dict[str, Moments] = {}

    def add(layer: Layer, module: nn.Module, inputs: torch.Tensor) -> None:
        total, count = _squares_of(layer, module, inputs)
        if count:
            squares[layer.name] = squares[layer.name] + total if layer.name in squares else total
            tokens[layer.name] = tokens.get(layer.name, 0) + count
            if with_moments:
                here = _moments_of_inputs(layer, module, inputs)
                moments[layer.name] = moments[layer.name].and_of(here) if layer.name in moments else here

    with torch.inference_mode(), watching(model.module, layers, add):
        for batch in batches(fitted, model, padded=False):
            logits_of(model, batch)
    refuse_overflow(squares)
    return Statistics(
        squares={name: total.clone() for name, total in squares.items()},  # no longer bound to inference mode
        tokens=tokens,
        unreached=tuple(layer.name for layer in layers if layer.name not in squares),
        findings=fitted.findings,
        moments={name: moment.clone() for name, moment in moments.items()},
    )


def refuse_overflow(sums: Mapping[str, torch.Tensor]) -> None:
    """Raises BadInput, naming the layer, if what was summed up is not finite."""
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise BadInput(
                "the model cannot be calibrated",
                why="an input of the layer is NaN or infinite, or its squares overflow",
                do="Run the model in a wider dtype, or look for what breaks it.",
                tensor=name,
            )


@contextmanager
def watching(
    module: nn.Module, layers: Sequence[Layer], add: Callable[[Layer, nn.Module, torch.Tensor], None]
) -> Iterator[None]:
    """Shows `add` the input of every use of a layer, also by modules that share its weight; leaves nothing behind."""

    whole = [layer for layer in layers if layer.place is None]
    by_weight = {id(module.get_parameter(layer.weight)): layer for layer in whole}

    def before(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        add(by_weight[id(part.weight)], part, given[0] if given else next(iter(named.values())))

    holders = [part for part in module.modules() if id(part._parameters.get("weight")) in by_weight]
    handles = [part.register_forward_pre_hook(before, with_kwargs=True) for part in holders]
    try:
        with watching_experts(module, layers, add):
            yield
    finally:
        for handle in handles:
            handle.remove()


def padded_for(module: nn.Conv1d | nn.Conv2d, inputs: torch.Tensor) -> torch.Tensor:
    """The inputs in float32 with the convolution's own padding around them."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return nn.functional.pad(inputs.float(), module._reversed_padding_repeated_twice, mode=mode)


def _squares_of(layer: Layer, module: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _squares_of_convolution(module, inputs)
    vectors = inputs.reshape(-1, layer.inputs)
    return vectors.float().square().sum(0, dtype=torch.float64), len(vectors)


def _moments_of_inputs(layer: Layer, module: nn.Module, inputs: torch.Tensor) -> Moments:
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return moments_of(inputs.reshape(-1, layer.inputs).float(), [0])
    return side_by_side([moments_of(window, around) for window, around in _windows(module, inputs)])


def _squares_of_convolution(module: nn.Conv1d | nn.Conv2d, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    """What summing the squares of the unfolded input gives, one kernel element at a time instead of all at once."""
    elements, count = [], 0
    for window, around in _windows(module, inputs):
        elements.append(window.square().sum(around, dtype=torch.float64))
        count = window.numel() // max(1, window.shape[1])
    return torch.stack(elements, dim=1).flatten(), count


def _windows(module: nn.Conv1d | nn.Conv2d, inputs: torch.Tensor) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """What each element of the kernel sees, [examples, channels, places, …], and the dimensions beside the channels."""
    spatial = len(module.kernel_size)
    padded = padded_for(module, inputs)
    places = [
        (padded.shape[2 + axis] - module.dilation[axis] * (module.kernel_size[axis] - 1) - 1)
        // module.stride[axis]
        + 1
        for axis in range(spatial)
    ]
    for offsets in product(*map(range, module.kernel_size)):
        window = padded
        for axis, offset in enumerate(offsets):
            start = offset * module.dilation[axis]
            stop = start + module.stride[axis] * (places[axis] - 1) + 1
            window = window[(slice(None),) * (2 + axis) + (slice(start, stop, module.stride[axis]),)]
        yield window, [0, *range(2, 2 + spatial)]
