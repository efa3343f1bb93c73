"""Pure. What is taken out of a model, and what that makes of its weights and of its config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tasks.cutting.axes import Path
from tasks.cutting.depth import Stack
from tasks.cutting.symmetry import Group, permuted
from tasks.cutting.units import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The units that stay."""

    choices: tuple[Choice, ...]
    stack: Stack | None = None
    blocks: tuple[int, ...] = ()
    """Of the stack, those that stay."""
    changes: Mapping[Path, Any] = field(default_factory=dict)
    """Of config.json."""

    @property
    def removed_blocks(self) -> tuple[int, ...]:
        """Of the stack, those that go."""
        return tuple(
            block for block in range(self.stack.count if self.stack else 0) if block not in self.blocks
        )

    def origin(self, tensor: str) -> str:
        """What the dense model calls the weight that the smaller model calls so."""
        block = self.stack.block_of(tensor) if self.stack else None
        if self.stack is None or block is None:
            return tensor
        return self.stack.renamed(tensor, self.blocks[block])

    def sliced(self, tensor: str, weight: torch.Tensor) -> torch.Tensor:
        """What stays of a weight of the dense model."""
        found = {tensor: weight}
        for choice in sorted(
            self.choices, key=lambda choice: -choice.group.parts
        ):  # while every part is there
            slots = [slot for slot in choice.group.slots if slot.dim.tensor == tensor]
            found = permuted(found, choice.group, slots, choice.kept)
        return found[tensor]

    def emptied(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights of the dense model that hold units which go, with zeros in their place."""
        result: dict[str, torch.Tensor] = {}
        for choice in self.choices:
            result |= without(choice.group, choice.removed, {**tensors, **result})
        return result


def without(
    group: Group, units: Sequence[torch.Tensor], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights of a group with zeros in place of some units, one set of them for each part."""
    result: dict[str, torch.Tensor] = {}
    for slot in group.slots:
        name, index = slot.dim.tensor, slot.dim.index
        weight = result.get(name, tensors[name].detach().clone())
        pieces = weight.unbind(0) if group.parts > 1 else (weight,)
        for piece, gone in zip(pieces, units, strict=True):
            members = group.members(slot, gone).to(weight.device)
            piece.index_fill_(index - (1 if group.parts > 1 else 0), members, 0)
        result[name] = weight
    return result
