"""Effects. Divides what a recipe removes over the layers, as its allocation says; reads weights where that looks at them."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.allocation import Allocation, by_sensitivity, uniform
from tasks.calibration import Statistics
from tasks.contract import Work
from tasks.densities import erk, outlier_share, owl
from tasks.models import Layer, Model
from tasks.recipes import Recipe, bad_recipe
from tasks.selection import stored_names
from tasks.weights import check_finite


def divide(
    recipe: Recipe, model: Model, layers: Sequence[Layer], statistics: Statistics | None, work: Work
) -> Allocation:
    """How much of each layer goes; BadInput if the budget cannot be met, or rows of a sensitivity do not fit."""
    sizes = {layer.name: layer.parameters for layer in layers}
    if recipe.allocation == "uniform":
        return uniform(sizes, recipe.amount)
    if recipe.allocation == "erk":
        return erk({layer.name: layer.shape for layer in layers}, recipe.amount, recipe.max_amount)
    if recipe.allocation == "owl":
        assert statistics is not None, "owl was calibrated for"
        outliers = {layer.name: _outliers(model, layer, statistics) for layer in layers}
        return owl(sizes, outliers, recipe.amount, recipe.max_amount)
    rows = work.inputs.get("sensitivity", ())
    for row in rows:
        for key, value in (("criterion", recipe.criterion), ("pattern", recipe.pattern)):
            if row.get(key) not in (None, value):
                raise bad_recipe(f"the sensitivity was measured with {key} {row[key]}, not {value}")
    return by_sensitivity(sizes, rows, recipe.amount, recipe.max_amount)


def _outliers(model: Model, layer: Layer, statistics: Statistics) -> float:
    checkpoint, name = model.checkpoint, stored_names(model, layer)[0]
    weight = checkpoint.mapped(name)
    check_finite(weight, name, checkpoint.file(name).path.name)
    share = outlier_share(layer, weight, statistics.squares[layer.name].cpu())
    checkpoint.release()
    return share
