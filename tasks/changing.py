"""Effects. What is written in place of each stored tensor: dense weights in, the bytes of pruned ones out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from tasks.allocation import Allocation
from tasks.contract import BadInput
from tasks.criteria import Criterion, Seen
from tasks.masking import mask_layer, zeroed
from tasks.models import Layer, Model
from tasks.patterns import NotANumber
from tasks.recipes import Recipe
from tasks.reconstruct import NotPositive
from tasks.selection import stored_names
from tasks.sweeping import Change, Outcome
from tasks.weights import check_finite


def changes(
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    change_layer: Change,
    allocation: Allocation,
    outcomes: dict[str, Outcome],
) -> Callable[[str], Iterable[memoryview] | None]:
    """What `write_like` asks for; looks at every dense weight once, and notes the outcomes of the layers."""
    layer_of = {name: layer for layer in layers for name in stored_names(model, layer)}
    checkpoint = model.checkpoint

    def change(name: str) -> Iterable[memoryview] | None:
        checkpoint.release()
        file = checkpoint.file(name).path.name
        layer = layer_of.get(name)
        weight = checkpoint.mapped(name)
        check_finite(weight, name, file)
        if layer is None:
            return None
        try:
            outcomes[layer.name], blocks = change_layer(layer, weight, allocation.amounts[layer.name])
        except NotANumber:
            raise _bad_score(recipe.criterion, file, name) from None
        except NotPositive as error:
            raise BadInput(
                "a layer cannot be reconstructed",
                why=f"the Hessian of its inputs has no Cholesky factor, {error}",
                do="Skip the layer, use more calibration data, or the criterion wanda.",
                file=file,
                tensor=name,
            ) from None
        return blocks

    return change


def masking(recipe: Recipe, criterion: Criterion, seen_by: Callable[[Layer], Seen]) -> Change:
    """Zeros where the scores are lowest; what stays stays as it is."""

    def change(layer: Layer, weight: torch.Tensor, amount: float) -> tuple[Outcome, Iterable[memoryview]]:
        masked = mask_layer(
            criterion, layer, weight, seen_by(layer),
            amount=amount, pattern=recipe.pattern, scope=recipe.scope,
        )  # fmt: skip
        return Outcome(pruned=masked.pruned, error=masked.error), zeroed(layer, weight, masked.mask)

    return change


def _bad_score(criterion: str, file: str, tensor: str) -> BadInput:
    return BadInput(
        "a score is not a number",
        why=f"the criterion {criterion} gives NaN or infinity",
        do="Use another criterion, or calibration data with smaller activations.",
        file=file,
        tensor=tensor,
    )
