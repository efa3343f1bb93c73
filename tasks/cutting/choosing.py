"""Effects. The units of a model that can be cut, and which of them a recipe takes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tasks.contract import BadInput
from tasks.cutting.axes import Axis, axes_of
from tasks.cutting.cutrecipes import DEPTH, CutRecipe
from tasks.cutting.cuts import Cut
from tasks.cutting.depth import Stack, stack_of
from tasks.cutting.probing import answer_of, in_float32
from tasks.cutting.symmetry import Group, groups_of
from tasks.cutting.units import choose, greatest, kept_count
from tasks.cutting.worths import Worths
from tasks.files.archives import PROGRAM
from tasks.files.configs import ModelConfig
from tasks.loading.interpreting import ExportedProgram
from tasks.loading.models import Model
from tasks.masks.patterns import NotANumber, pruned_count


def units_of(model: Model, config: ModelConfig, recipe: CutRecipe) -> tuple[tuple[Group, ...], Stack | None]:
    """The coupled groups of the kinds that a recipe cuts, and the blocks if it cuts those; BadInput if there are none."""
    if isinstance(model.module, ExportedProgram):
        raise BadInput(
            "units cannot be taken out of a program",
            why="its widths are fixed in its graph",
            do="Cut the model before it is exported, or prune the program's weights without `cut`.",
            file=PROGRAM,
        )
    dtype = next(model.module.parameters()).dtype
    stack = stack_of(config, model.config, dtype) if DEPTH in recipe.cut else None
    kinds = [kind for kind in recipe.cut if kind != DEPTH]
    if not kinds:
        return (), stack
    wide = in_float32(model)
    answer = answer_of(wide)
    axes = [axis for kind in kinds for axis in axes_of(config, model.config, kind, dtype)]
    return tuple(group for axis in axes for group in groups_of(wide.module, axis, answer)), stack


def sizes_of(recipe: CutRecipe, groups: Sequence[Group], stack: Stack | None) -> tuple[int, ...]:
    """What stays: units of each group's axis, group after group, and blocks."""
    counts = [_kept(recipe, group.axis, groups) for group in groups]
    return (*counts, stack.count - _blocks_gone(recipe.cut[DEPTH], stack.count)) if stack else tuple(counts)


def choose_cut(recipe: CutRecipe, groups: Sequence[Group], stack: Stack | None, worths: Worths) -> Cut:
    """What the recipe takes out: in each group, and of the blocks, those of least worth; BadInput if one is NaN."""
    changes: dict[Any, Any] = {}
    choices = []
    for group, found in zip(groups, worths.units, strict=True):
        kept = _kept(recipe, group.axis, groups)
        changes |= group.axis.settings(kept)
        with _told_of(group.name, recipe.criterion):
            choices.append(choose(group, found, kept))
    blocks: tuple[int, ...] = ()
    if stack and worths.blocks is not None:
        with _told_of(stack.name, recipe.criterion):
            blocks = best_blocks(worths.blocks, recipe.cut[DEPTH])
        changes |= stack.changes(blocks)
    return Cut(choices=tuple(choices), stack=stack, blocks=blocks, changes=changes)


@contextmanager
def _told_of(name: str, criterion: str) -> Iterator[None]:
    try:
        yield
    except NotANumber:
        raise BadInput(
            "the units cannot be scored",
            why=f"{criterion} gives one of {name} a score that is not a number",
            do="Check that the model's answers to the calibration data are finite, or use another criterion.",
        ) from None


def best_blocks(worths: torch.Tensor, share: float) -> tuple[int, ...]:
    """The blocks that stay, in order: those of greatest worth, of equals the first, and one at least."""
    return tuple(greatest(worths, len(worths) - _blocks_gone(share, len(worths))).tolist())


def _blocks_gone(share: float, count: int) -> int:
    return min(count - 1, pruned_count(share, count))


def _kept(recipe: CutRecipe, axis: Axis, groups: Sequence[Group]) -> int:
    alike = [group for group in groups if group.axis is axis]
    return kept_count(axis, recipe.cut[axis.kind], recipe.round_to, alike)
