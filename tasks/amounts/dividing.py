"""Effects. Divides what a recipe removes over the layers, as its allocation says; reads weights where that looks at them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch

from tasks.amounts.allocation import (
    Allocation,
    by_sensitivity,
    for_goal,
    for_quality,
    remaining,
    share_of_weights,
    uniform,
)
from tasks.amounts.budgets import goal_of
from tasks.amounts.densities import blocks_of, erk, outlier_share, owl, wanda_scores
from tasks.amounts.knapsack import choose_for_goal, choose_for_quality
from tasks.contract import Row, Work
from tasks.loading.models import Layer, Model, weight_stored
from tasks.loading.weights import check_finite
from tasks.masks.patterns import pruned_count
from tasks.masks.reconstruct import SPARSEGPT
from tasks.masks.selection import stored_names
from tasks.recipes import MEASURED, Recipe, bad_recipe
from tasks.statistics.calibration import Statistics


def divide(
    recipe: Recipe, model: Model, layers: Sequence[Layer], statistics: Statistics | None, work: Work
) -> Allocation:
    """How much of each layer goes; BadInput if the budget cannot be met, or rows of a sensitivity do not fit."""
    sizes = {layer.name: layer.parameters for layer in layers}
    if recipe.allocation in MEASURED:
        return _by_sensitivity(recipe, model, layers, work.inputs.get("sensitivity", ()))
    assert recipe.amount is not None, "only measured allocations have budgets"
    if recipe.allocation == "uniform":
        return uniform(sizes, recipe.amount)
    if recipe.allocation == "erk":
        return erk(
            {layer.name: layer.shape for layer in layers}, recipe.amount, recipe.max_amount, recipe.min_amount
        )
    assert statistics is not None, "owl was calibrated for"
    return owl(
        sizes, _outliers(model, layers, statistics), recipe.amount, recipe.max_amount, recipe.min_amount
    )


def _by_sensitivity(recipe: Recipe, model: Model, layers: Sequence[Layer], rows: Sequence[Row]) -> Allocation:
    sizes = {layer.name: layer.parameters for layer in layers}
    for row in rows:
        for key, value in (("criterion", recipe.criterion), ("pattern", recipe.pattern)):
            if row.get(key) not in (None, value):
                raise bad_recipe(f"the sensitivity was measured with {key} {row[key]}, not {value}")
    is_by_row = recipe.scope == "row" and recipe.criterion != SPARSEGPT
    by_rows = (
        {layer.name: (layer.outputs, layer.inputs // layer.groups) for layer in layers} if is_by_row else {}
    )
    most, least = recipe.max_amount, recipe.min_amount
    if recipe.max_increase is not None:
        if recipe.allocation == "knapsack":
            return choose_for_quality(sizes, rows, recipe.max_increase, most, by_rows, least)
        return for_quality(sizes, rows, recipe.max_increase, most, least)
    if recipe.budget is None:
        assert recipe.amount is not None, "the recipe was checked"
        if recipe.allocation == "sensitivity":
            return by_sensitivity(sizes, rows, recipe.amount, most, least)
        return choose_for_goal(sizes, rows, share_of_weights(sizes, recipe.amount), most, by_rows, least)
    goal = goal_of(*recipe.budget, model, layers)
    if recipe.allocation == "knapsack":
        return choose_for_goal(sizes, rows, goal, most, by_rows, least)
    return whole_rows(for_goal(sizes, rows, goal, most, least), by_rows, most)


def whole_rows(allocation: Allocation, by_rows: Mapping[str, tuple[int, int]], most: float) -> Allocation:
    """Where every row loses as many weights: as many more as it takes, so that less remains; none loses more than `most`.

    `by_rows` has (outputs, inputs) of such layers. A row may lose a part of a weight more than was measured; a goal may be missed
    where rounding up would pass `most`.
    """
    amounts = dict(allocation.amounts)
    for name, (outputs, inputs) in by_rows.items():
        count = pruned_count(amounts[name], outputs * inputs)
        amounts[name] = min(-(-count // outputs), remaining(most, inputs)) / inputs
    return replace(allocation, amounts=amounts)


def _outliers(model: Model, layers: Sequence[Layer], statistics: Statistics) -> dict[str, float]:
    """By layer: the share of outliers in its block."""
    blocks = blocks_of(model.module, [layer.name for layer in layers])
    members = defaultdict[str, list[Layer]](list)
    for layer in layers:
        members[blocks[layer.name]].append(layer)
    shares = {
        block: outlier_share(partial(_scores, model, inside, statistics)) for block, inside in members.items()
    }
    return {layer: shares[block] for layer, block in blocks.items()}


def _scores(model: Model, layers: Sequence[Layer], statistics: Statistics) -> Iterator[torch.Tensor]:
    checkpoint = model.checkpoint
    for layer in layers:
        name = stored_names(model, layer)[0]
        weight = weight_stored(layer, checkpoint.mapped(name))
        check_finite(weight, name, checkpoint.file(name).path.name)
        yield from wanda_scores(layer, weight, statistics.squares[layer.name].cpu())
        checkpoint.release()
