"""Effects. Which dimensions of a model's weights belong together: those that can only be permuted together.

A hidden unit has no place of its own: if everything that writes it and everything that reads it is permuted alike, the
model computes what it did. The smallest sets of dimensions for which that holds are the coupled groups. They are tried
on the model as it runs, so that no operation has to be known by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import gcd
from typing import NoReturn

import torch
from torch import nn

from tasks.contract import BadInput
from tasks.cutting.axes import Axis, Dim
from tasks.statistics.holding import holding

LONGEST_RUN = 16
"""Dimensions next to each other in the model that are tried as a group of their own."""
SIDE_BY_SIDE = ((1,), (1, 1), (1, 1, 1))
"""Stretches of one weight that hold a unit's slice each: gate and up, or query, key and value."""
TOLERANCE = 1e-3
"""What a permutation may change by rounding, relative to what permuting a part of the group changes."""
VISIBLE = 1e-4
"""What permuting a part must change, relative to the answer, for anything to be concluded."""
DRAWS = 3

Answer = Callable[[], torch.Tensor]
"""Runs the module on some fixed input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A dimension of a weight as it holds the units of a group."""

    dim: Dim
    stretches: tuple[int, ...] = (1,)
    """The dimension is such stretches side by side, of these relative lengths; each holds a slice of every unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Slices of weights that can only go together."""

    name: str
    """The module that all of them are part of."""
    axis: Axis
    units: int
    slots: tuple[Slot, ...]
    parts: int = 1
    """Along the first dimension of every weight, units are chosen independently: the experts of one layer."""

    def members(self, slot: Slot, units: torch.Tensor) -> torch.Tensor:
        """Indices along the slot's dimension of some units, in the order given."""
        share = slot.dim.size // sum(slot.stretches)
        stretches = torch.split(torch.arange(slot.dim.size), [share * length for length in slot.stretches])
        return torch.cat([stretch.view(self.units, -1)[units].reshape(-1) for stretch in stretches])


def groups_of(module: nn.Module, axis: Axis, answer: Answer, seed: int = 0) -> tuple[Group, ...]:
    """The coupled groups of an axis, each proved by permuting it; `module` computes in float32.

    BadInput if even all of its dimensions together are no group.
    """
    search = _Search(module=module, axis=axis, answer=answer, seed=seed)
    groups: list[Group] = []
    left, start = list(axis.dims), 0
    while start < len(left):
        group = search.smallest_from(left, start)
        if group is None:
            start += 1
            continue
        groups.append(group)
        taken = {slot.dim for slot in group.slots}
        left = [dim for dim in left if dim not in taken]
    if left:
        rest = search.group(left)
        groups = (
            [*groups, rest] if rest else [search.group(axis.dims) or _refuse(axis, search.shows(axis.dims))]
        )
    return tuple(groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Search:
    module: nn.Module
    axis: Axis
    answer: Answer
    seed: int
    known: set[tuple[tuple[str, int, int], ...]] = field(default_factory=set)
    """Kinds of runs that are groups and have none inside them: blocks are alike, and the first one tells."""

    def smallest_from(self, dims: Sequence[Dim], start: int) -> Group | None:
        """The shortest run of dimensions from a place on that is a group; if it has a group inside it, that one."""
        lengths = range(2, min(LONGEST_RUN, len(dims) - start) + 1)
        runs = [dims[start : start + length] for length in lengths]
        for run in sorted(runs, key=lambda run: _kind(run) not in self.known):
            group = self.group(run)
            if group is None:
                continue
            if _kind(run) not in self.known:
                inner = (self.smallest_from(run, inside) for inside in range(1, len(run)))
                if found := next(filter(None, inner), None):
                    return found
                self.known.add(_kind(run))
            return group
        return None

    def group(self, dims: Sequence[Dim]) -> Group | None:
        """The dimensions as a group, of the smallest units and the simplest layout that the model bears out."""
        for candidate in self._candidates(dims):
            if self._is_symmetric(candidate):
                apart = replace(candidate, parts=self._parts(dims))
                return apart if apart.parts > 1 and self._is_symmetric(apart) else candidate
        return None

    def shows(self, dims: Sequence[Dim]) -> bool:
        """Whether the answer depends at all on what such dimensions hold."""
        draws = (torch.Generator().manual_seed(self.seed + draw) for draw in range(DRAWS))
        moved = (self._changes(group, draw) for draw in draws for group in self._candidates(dims))
        return any(change > VISIBLE * scale for change, _, scale in moved)

    def _candidates(self, dims: Sequence[Dim]) -> Iterator[Group]:
        finest = gcd(*(dim.size for dim in dims))
        least = min(dim.size for dim in dims)
        counts = (self.axis.count,) if self.axis.kind == "heads" else dict.fromkeys((finest, self.axis.count))
        layouts = [*SIDE_BY_SIDE, (self.axis.shared_by, 1, 1)] if self.axis.shared_by > 1 else SIDE_BY_SIDE
        sizes = tuple(dict.fromkeys(dim.size for dim in dims))
        options = [
            [layout for layout in layouts if size * max(layout) >= least * sum(layout)] for size in sizes
        ]
        for units in counts:
            for chosen in product(*options):
                layout = dict(zip(sizes, chosen, strict=True))
                if units > 1 and all(size % (units * sum(layout[size])) == 0 for size in sizes):
                    slots = tuple(Slot(dim=dim, stretches=layout[dim.size]) for dim in dims)
                    yield Group(name=_common(dims), axis=self.axis, units=units, slots=slots)

    def _parts(self, dims: Sequence[Dim]) -> int:
        """How long the first dimension is, if all weights have the same one and none of it is permuted."""
        state = self.module.state_dict(keep_vars=True)
        shapes = [tuple(state[dim.tensor].shape) for dim in dims]
        lengths = {shape[0] for shape in shapes}
        fits = all(len(shape) == 3 and dim.index > 0 for shape, dim in zip(shapes, dims, strict=True))
        return lengths.pop() if fits and len(lengths) == 1 else 1

    def _is_symmetric(self, group: Group) -> bool:
        """Whether permuting all of it changes far less than permuting only its first weight does.

        Seen with several draws of noise, since parts of a small model may be dead with one; what never shows is no group.
        """
        is_seen = False
        for draw in range(DRAWS):
            change, rounding, scale = self._changes(group, torch.Generator().manual_seed(self.seed + draw))
            if change > VISIBLE * scale:
                if rounding > TOLERANCE * change:
                    return False
                is_seen = True
        return is_seen

    def _changes(self, group: Group, draw: torch.Generator) -> tuple[float, float, float]:
        """How much the answer moves with the first weight permuted and with all, and how large it is itself."""
        state = self.module.state_dict(keep_vars=True)
        noisy = {slot.dim.tensor: _noisy(state[slot.dim.tensor].detach(), draw) for slot in group.slots}
        orders = [_derangement(group.units, draw) for _ in range(group.parts)]
        answers = []
        for slots in ((), group.slots[:1], group.slots):
            with holding(self.module, permuted(noisy, group, slots, orders)):
                answers.append(self.answer())
        before, broken, after = answers
        return _distance(before, broken), _distance(before, after), float(before.abs().max())


def permuted(
    tensors: Mapping[str, torch.Tensor],
    group: Group,
    slots: Sequence[Slot],
    orders: Sequence[torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The tensors with the units of a group in other orders, or fewer of them; one order for each of its parts."""
    result = dict(tensors)
    for slot in slots:
        tensor, index = result[slot.dim.tensor], slot.dim.index
        members = [group.members(slot, order).to(tensor.device) for order in orders]
        if group.parts == 1:
            result[slot.dim.tensor] = tensor.index_select(index, members[0])
        else:
            pieces = zip(tensor.unbind(0), members, strict=True)
            result[slot.dim.tensor] = torch.stack(
                [piece.index_select(index - 1, own) for piece, own in pieces]
            )
    return result


def _noisy(tensor: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Equal entries made unequal, so that a permutation shows; positive ones stay positive."""
    spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
    scale = max(spread, 0.3 * float(tensor.abs().mean()), 1e-2)
    noise = torch.randn(tensor.shape, generator=draw).to(tensor.device) * scale
    return (tensor + noise).abs() + 1e-3 * scale if bool((tensor > 0).all()) else tensor + noise


def _derangement(units: int, draw: torch.Generator) -> torch.Tensor:
    """An order in which no unit stays where it is."""
    cycle = torch.randperm(units, generator=draw)
    order = torch.empty_like(cycle)
    order[cycle] = cycle.roll(1)
    return order


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def _common(dims: Sequence[Dim]) -> str:
    paths = [dim.tensor.split(".")[:-1] for dim in dims]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _kind(run: Sequence[Dim]) -> tuple[tuple[str, int, int], ...]:
    """What runs of blocks that are alike have in common: all but the numbers in their names."""
    return tuple((re.sub(r"\d+", "#", dim.tensor), dim.index, dim.size) for dim in run)


def _refuse(axis: Axis, is_seen: bool) -> NoReturn:
    raise BadInput(
        "the model cannot be cut",
        why=f"what {axis.name} sizes depends on the order of its units, so they cannot be taken out one by one"
        if is_seen
        else f"its answers do not depend on what {axis.name} sizes, so nothing tells what goes together",
        do="Cut something else, or match the recipe with other models.",
        file="config.json",
    )
