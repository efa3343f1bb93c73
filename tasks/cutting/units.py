"""Pure. What each unit of a coupled group is worth, and which units stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, lcm

import torch

from tasks.contract import BadInput
from tasks.cutting.axes import Axis
from tasks.cutting.symmetry import Group, Slot
from tasks.loading.models import Layer
from tasks.masks.criteria import Criterion, Seen, layer_score
from tasks.masks.patterns import NotANumber, mask_lowest, pruned_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which units of a group stay."""

    group: Group
    kept: tuple[torch.Tensor, ...]
    """For each part of the group: the units, ascending."""
    error: float
    """Share of the scores that goes."""

    @property
    def removed(self) -> tuple[torch.Tensor, ...]:
        """For each part of the group: the units that go."""
        every = torch.ones(self.group.units, dtype=torch.bool)
        return tuple(every.index_fill(0, kept, False).nonzero()[:, 0] for kept in self.kept)


def readers(group: Group, layers: Mapping[str, Layer]) -> tuple[Slot, ...]:
    """The slots in which a layer reads the units; `layers` by the name of their weights."""
    return tuple(slot for slot in group.slots if _reads(slot, layers))


def worth(
    group: Group,
    criterion: Criterion,
    layers: Mapping[str, Layer],
    weight_of: Callable[[str], torch.Tensor],
    seen: Callable[[Layer], Seen],
) -> torch.Tensor:
    """Float64 [parts, units]: the sum of the squared scores of a unit's weights.

    With a criterion that looks at data, of those that read the unit: that is what the rest of the model misses. Else of
    all matrices that hold a slice of it.
    """
    slots = readers(group, layers)
    if criterion.needs_data and not slots:
        raise BadInput(
            "the units of a group have no scores",
            why=f"none of the layers that read {group.name} can be calibrated",
            do="Use the criterion magnitude, or cut something else.",
            tensor=group.slots[0].dim.tensor,
        )
    total = torch.zeros(group.parts, group.units, dtype=torch.float64)
    for slot in slots if criterion.needs_data else group.slots:
        layer = layers.get(slot.dim.tensor)
        weight = weight_of(slot.dim.tensor)
        if layer is not None:
            score = layer_score(criterion, layer, weight, seen(layer))
            score = (score.t() if layer.transposed else score).reshape(weight.shape)
        elif weight.dim() > 1:
            score = weight if criterion.seed is None else torch.zeros(())
        else:
            continue
        if score.dim():
            total += _sums(group, slot, score)
    return total


def kept_count(axis: Axis, amount: float, round_to: int, groups: Sequence[Group]) -> int:
    """How many units of an axis stay: rounded up to what the hardware likes and every group can meet, at least the axis's least."""
    finest = gcd(axis.count, *(group.units for group in groups))
    step = lcm(axis.count // finest, axis.multiple)
    if axis.kind in ("width", "channels"):
        step = lcm(step, round_to)
    wanted = max(axis.least, axis.count - pruned_count(amount, axis.count))
    return min(axis.count, -(-wanted // step) * step)


def choose(group: Group, worths: torch.Tensor, kept: int) -> Choice:
    """The units of greatest worth, so many of them in each part, as `greatest` has them."""
    count = group.units * kept // group.axis.count
    stay = tuple(greatest(row, count) for row in worths)
    total = float(worths.sum())
    left = sum(float(row[units].sum()) for row, units in zip(worths, stay, strict=True))
    return Choice(group=group, kept=stay, error=1 - left / total if total else 0.0)


def greatest(worths: torch.Tensor, count: int) -> torch.Tensor:
    """Where the so many greatest are, ascending; of equals the first. Infinity is a worth; NotANumber if one is NaN."""
    if worths.isnan().any():
        raise NotANumber("a worth is not a number")
    gone = mask_lowest(worths.numpy(), len(worths) - count)
    return torch.from_numpy((~gone).nonzero()[0])


def _reads(slot: Slot, layers: Mapping[str, Layer]) -> bool:
    layer = layers.get(slot.dim.tensor)
    return layer is not None and slot.dim.index == (0 if layer.transposed else 1)


def _sums(group: Group, slot: Slot, score: torch.Tensor) -> torch.Tensor:
    """[parts, units]: sums of the squared scores over each unit's slice."""
    squares = score.detach().cpu().double().square()
    ahead = squares.unbind(0) if group.parts > 1 else (squares,)
    index = slot.dim.index - (1 if group.parts > 1 else 0)
    owner = _owners(group, slot)
    found = []
    for piece in ahead:
        along = piece.movedim(index, 0).reshape(slot.dim.size, -1).sum(1)
        found.append(torch.zeros(group.units, dtype=torch.float64).index_add_(0, owner, along))
    return torch.stack(found)


def _owners(group: Group, slot: Slot) -> torch.Tensor:
    """The unit of each index along the slot's dimension."""
    share = slot.dim.size // sum(slot.stretches)
    units = torch.arange(group.units)
    return torch.cat([units.repeat_interleave(share * length // group.units) for length in slot.stretches])
