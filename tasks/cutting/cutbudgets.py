"""Pure. How much of each kind of unit goes for a budget or a quality, of what `cut` allows at most.

Without measured losses all shares are made smaller by one factor, and the largest model that will do is taken. With those of a
sensitivity step the kinds are weighed against each other: heads may stay where they are dear, and neurons go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from tasks.amounts.allocation import Curve, curves_of, dense_loss, remaining
from tasks.amounts.budgets import known_flops
from tasks.amounts.combinations import Counted, Floats, combinations_of, counted, for_budget, for_quality
from tasks.amounts.ladder import ladder
from tasks.contract import BadInput, Row
from tasks.cutting.choosing import best_blocks, sizes_of
from tasks.cutting.cutrecipes import DEPTH, EXPERTS, CutRecipe
from tasks.cutting.depth import Stack
from tasks.cutting.symmetry import Group
from tasks.cutting.worths import Worths
from tasks.loading.models import Model, prunable_layers
from tasks.measuring.measures import HEAD

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What goes."""

    recipe: CutRecipe
    """With the shares that go of each kind."""
    predicted_increase: float | None = None
    """Of the loss, by the measured curves; None without them. No combination that leaves as little can cost less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """One size of a kind."""

    share: float
    """That is asked to go."""
    kept: tuple[float, ...]
    """Of each group of the kind: the share of its units that stays."""
    blocks: tuple[int, ...] = ()
    """Those that stay, where the kind is blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    name: str
    groups: tuple[Group, ...]
    stack: Stack | None
    levels: tuple[_Level, ...]
    increases: Floats
    """Of the loss, at every level; 0 where nothing was measured."""

    def stays(self, tensor: str) -> tuple[float, ...]:
        """The share of a weight that is left at every level."""
        found = np.ones(len(self.levels))
        for place, group in enumerate(self.groups):
            for slot in group.slots:
                if slot.dim.tensor == tensor:
                    found *= [level.kept[place] for level in self.levels]
        block = self.stack.block_of(tensor) if self.stack else None
        if block is not None:
            found *= [block in level.blocks for level in self.levels]
        return tuple(found.tolist())


def amounts_for(
    recipe: CutRecipe,
    model: Model,
    groups: Sequence[Group],
    stack: Stack | None,
    worths: Worths,
    rows: Sequence[Row],
) -> Amounts:
    """The shares that a budget or a quality takes; `rows` are those of the table `sensitivity`, of the same cut.

    Where all that may go does not meet a budget, that goes. BadInput for a budget that cannot be counted, and for kinds that
    were not measured.
    """
    what, share = recipe.budget or ("parameters", 1.0)
    if what == "flops" and EXPERTS in recipe.cut:
        raise BadInput(
            "the budget cannot be met",
            why="flops stay where experts go: a token is sent to as many of those that are left",
            do="Give a budget of parameters or bytes, or leave experts out of `cut`.",
        )
    amounts = counts_of(what, model)
    most = remaining(share, sum(amounts.values()))
    if not recipe.is_measured:
        factors = (0.0, *ladder(lambda factor: sizes_of(recipe.scaled(factor), groups, stack)))
        kinds = [_kind(recipe, name, groups, stack, worths, factors) for name in recipe.cut]
        alike = np.repeat(np.arange(len(factors))[:, None], len(kinds), axis=1)
        left = _counted(amounts, kinds).left(alike)
        return Amounts(recipe=recipe.scaled(factors[for_budget(left, -left, most)]))
    kinds = [
        _measured(_kind(recipe, name, groups, stack, worths), recipe, model, rows) for name in recipe.cut
    ]
    combinations = combinations_of([len(kind.levels) for kind in kinds])
    left = _counted(amounts, kinds).left(combinations)
    increase = np.sum([kind.increases[combinations[:, at]] for at, kind in enumerate(kinds)], axis=0)
    if recipe.max_increase is None:
        best = for_budget(left, increase, most)
    else:
        best = for_quality(left, increase, recipe.max_increase * dense_loss(rows))
    levels = zip(kinds, combinations[best], strict=True)
    chosen = {kind.name: kind.levels[level].share for kind, level in levels}
    return Amounts(recipe=replace(recipe, cut=chosen), predicted_increase=float(increase[best]))


def counts_of(what: str, model: Model) -> dict[str, int]:
    """What each weight counts of parameters, bytes or flops, by the first of its names; BadInput for flops that are not known."""
    weights = dict(model.module.named_parameters())
    if what == "flops":
        found = known_flops(model, layers := prunable_layers(model.module))
        by_weight = {layer.weight: found[layer.name] for layer in layers}
        return {HEAD: found[HEAD], **by_weight, **{name: found[name] for name in weights if name in found}}
    return {
        name: weight.numel() * (weight.element_size() if what == "bytes" else 1)
        for name, weight in weights.items()
    }


def _kind(
    recipe: CutRecipe,
    name: str,
    groups: Sequence[Group],
    stack: Stack | None,
    worths: Worths,
    factors: Sequence[float] | None = None,
) -> _Kind:
    """A kind at the sizes that some factors of its share come to, or at all that it can have."""
    own = tuple(group for group in groups if group.axis.kind == name)
    blocks = stack if name == DEPTH else None

    def alone(factor: float) -> CutRecipe:
        return replace(recipe, cut={name: recipe.cut[name] * factor})

    if factors is None:
        factors = (0.0, *ladder(lambda factor: sizes_of(alone(factor), own, blocks)))
    levels = []
    for factor in factors:
        sizes = sizes_of(alone(factor), own, blocks)
        kept = tuple(size / group.axis.count for size, group in zip(sizes, own, strict=False))
        stay = (
            ()
            if blocks is None or worths.blocks is None
            else best_blocks(worths.blocks, alone(factor).cut[name])
        )
        levels.append(_Level(share=alone(factor).cut[name], kept=kept, blocks=stay))
    return _Kind(name=name, groups=own, stack=blocks, levels=tuple(levels), increases=np.zeros(len(levels)))


def _measured(kind: _Kind, recipe: CutRecipe, model: Model, rows: Sequence[Row]) -> _Kind:
    """The kind with its predicted losses, and without the levels that go beyond what was measured."""
    own = [row for row in rows if row.get("pattern") == f"cut:{kind.name}"]
    if strangers := {str(row.get("criterion", recipe.criterion)) for row in own} - {recipe.criterion}:
        _refuse(f"it was measured with the criterion {min(strangers)}, not {recipe.criterion}", kind.name)
    sizes = {name: weight.numel() for name, weight in model.module.state_dict(keep_vars=True).items()}
    held = {
        group.name: sum(sizes[name] for name in {slot.dim.tensor for slot in group.slots})
        for group in kind.groups
    }
    if kind.stack:
        held[kind.stack.name] = sum(
            size for name, size in sizes.items() if kind.stack.block_of(name) is not None
        )
    if not own:
        _refuse("it was not measured: see the findings of the sensitivity step", kind.name)
    curves = curves_of(held, own)
    gone = [_gone(kind, level) for level in kind.levels]
    known = [
        at
        for at, shares in enumerate(gone)
        if all(share <= curves[name][0][-1] + _ROUNDING for name, share in shares.items())
    ]
    increases = [sum(_at(curves[name], share) for name, share in gone[at].items()) for at in known]
    return replace(kind, levels=tuple(kind.levels[at] for at in known), increases=np.array(increases))


def _gone(kind: _Kind, level: _Level) -> dict[str, float]:
    """What each group, or the stack, loses."""
    found = {group.name: 1 - kept for group, kept in zip(kind.groups, level.kept, strict=True)}
    return found | ({kind.stack.name: 1 - len(level.blocks) / kind.stack.count} if kind.stack else {})


def _at(curve: Curve, share: float) -> float:
    return float(np.interp(share, *curve))


def _counted(amounts: Mapping[str, int], kinds: Sequence[_Kind]) -> Counted:
    return counted(amounts, [{name: kind.stays(name) for name in amounts} for kind in kinds])


def _refuse(why: str, kind: str) -> NoReturn:
    raise BadInput(
        f"nothing says what cutting {kind} costs",
        why=why,
        do=f"Leave {kind} out of `cut`, or leave out `allocation: sensitivity`.",
    )
