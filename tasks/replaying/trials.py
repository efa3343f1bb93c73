"""Effects. What a sensitivity unit tries: which layers, with which masks, and how a layer is pruned for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import nn

from tasks.loading.models import Layer, rows_of, weight_in
from tasks.masks.criteria import NOTHING, Criterion, Seen, layer_score
from tasks.masks.patterns import mask_of
from tasks.masks.reconstruct import factor_of, reconstructed_weight
from tasks.statistics.passes import Passes


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """What is tried on each layer; the masks are those that the prune task makes."""

    criterion: Criterion
    pattern: str
    scope: str | None
    amounts: Sequence[float]
    seen_by: Callable[[Layer], Seen] = lambda layer: NOTHING
    """What the criterion asks for about a layer."""
    matrices: Passes | None = None
    """The Hessians, if the criterion reconstructs."""

    def weights(self, layer: Layer, weight: torch.Tensor) -> Iterator[tuple[float, torch.Tensor]]:
        """(amount, what the layer's weight becomes) for each amount: what the prune task writes."""
        if self.matrices is None:
            for amount, mask in self.masks(layer, weight):
                yield amount, _zeroed(layer, weight, mask)
            return
        factor = factor_of(self.matrices.of(layer))
        found = partial(reconstructed_weight, layer, weight, factor, pattern=self.pattern, scope=self.scope)
        for amount in self.amounts:
            yield amount, found(amount=amount)

    def masks(self, layer: Layer, weight: torch.Tensor) -> Iterator[tuple[float, torch.Tensor]]:
        """(amount, what goes) for each amount; the mask is [outputs, inputs / groups]."""
        score = layer_score(self.criterion, layer, weight, self.seen_by(layer))
        for amount in self.amounts:
            yield amount, mask_of(score, amount, self.pattern, self.scope)


class Sized(Protocol):
    """A layer, or whatever else is tried."""

    @property
    def parameters(self) -> int:
        """How many weights it has."""


S = TypeVar("S", bound=Sized)


def part_of(layers: Sequence[S], part: int, parts: int) -> tuple[S, ...]:
    """The `part`-th of `parts` runs of neighbouring layers of about as many parameters each; may be empty.

    A layer belongs to the part in which its middle parameter lies, so every layer belongs to exactly one.
    """
    total = sum(layer.parameters for layer in layers)
    before = 0
    members = []
    for layer in layers:
        middle = 2 * before + layer.parameters
        if min(parts - 1, middle * parts // max(1, 2 * total)) == part:
            members.append(layer)
        before += layer.parameters
    return tuple(members)


@contextmanager
def replaced(module: nn.Module, layer: Layer, value: torch.Tensor) -> Iterator[None]:
    """The module with another weight in the layer, for as long as the context lasts.

    The weight itself is not written to but stood in for, in every module that shares it: the pages that it shares
    with other processes stay shared, and it comes back bit by bit, whatever happens in between. An expert of a fused weight is written over and back.
    """
    if layer.place is not None:
        with _overwritten(weight_in(module, layer), value):
            yield
        return
    weight = module.get_parameter(layer.weight)
    holders = [
        (part._parameters, leaf)
        for part in module.modules()
        for leaf, parameter in part._parameters.items()
        if parameter is weight
    ]
    stand_in = nn.Parameter(value, requires_grad=False)
    try:
        for parameters, leaf in holders:
            parameters[leaf] = stand_in
        yield
    finally:
        for parameters, leaf in holders:
            parameters[leaf] = weight
    assert module.get_parameter(layer.weight) is weight


@contextmanager
def _overwritten(part: torch.Tensor, value: torch.Tensor) -> Iterator[None]:
    """A part of a parameter cannot be stood in for: it is written to, which leaves the rest and the file alone."""
    with torch.no_grad():
        before = part.clone()
        part.copy_(value)
        try:
            yield
        finally:
            part.copy_(before)


def _zeroed(layer: Layer, weight: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    zeroed = weight.detach().clone()
    rows_of(layer, zeroed).masked_fill_(mask, 0)
    return zeroed
