"""Effects. Statistics too large to hold for all layers at once: gathered for as many as fit, pass by pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from tasks.loading.models import Layer


@dataclass(slots=True, kw_only=True)
class Passes:
    """A matrix for each layer, of which only those of neighbouring layers are there at the same time."""

    layers: Sequence[Layer]
    """In the order in which they will be asked for; another order costs passes and changes nothing else."""
    gather: Callable[[Sequence[Layer]], Mapping[str, torch.Tensor]]
    """One pass over the calibration data: layers -> the matrix of each, by name."""
    size: Callable[[Layer], int]
    """Bytes of a layer's matrix."""
    limit: int
    """Bytes of the matrices that are there at the same time, unless a single one takes more."""
    count: int = 0
    """Passes made so far."""
    _there: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, layer: Layer) -> torch.Tensor:
        """The layer's matrix, gathered with those of the layers after it if it is not there."""
        if layer.name not in self._there:
            self._there = {}  # before the next ones take its place in memory
            self._there = self.gather(self._from(layer))
            self.count += 1
        return self._there[layer.name]

    def _from(self, first: Layer) -> list[Layer]:
        start = self.layers.index(first)
        members = [first]
        taken = self.size(first)
        for layer in self.layers[start + 1 :]:
            taken += self.size(layer)
            if taken > self.limit:
                break
            members.append(layer)
        return members
