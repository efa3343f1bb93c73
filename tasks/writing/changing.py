"""Effects. What is written in place of each stored tensor: dense weights in, the bytes of pruned ones out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import torch

from tasks.amounts.allocation import Allocation
from tasks.contract import BadInput
from tasks.loading.building import constants_of
from tasks.loading.models import Layer, Model, weight_stored
from tasks.loading.weights import check_finite
from tasks.masks.criteria import Criterion, Seen
from tasks.masks.masking import mask_layer, zeroed
from tasks.masks.patterns import NotANumber
from tasks.masks.reconstruct import NotPositive
from tasks.masks.selection import stored_names
from tasks.recipes import Recipe
from tasks.writing.sweeping import Change, Outcome


def changes(
    model: Model,
    layers: Sequence[Layer],
    recipe: Recipe,
    change_layer: Change,
    allocation: Allocation,
    outcomes: dict[str, Outcome],
) -> Callable[[str], Iterable[memoryview] | None]:
    """What `write_like` asks for; looks at every dense weight once, and notes the outcomes of the layers."""
    layers_of: dict[str, list[Layer]] = {}
    for layer in layers:
        for name in stored_names(model, layer):
            layers_of.setdefault(name, []).append(layer)
    checkpoint, constants = model.checkpoint, constants_of(model.module)

    def change(name: str) -> Iterable[memoryview] | None:
        checkpoint.release()
        file = checkpoint.file(name).path.name
        weight = checkpoint.mapped(name)
        if name not in constants:
            check_finite(weight, name, file)
        if name not in layers_of:
            return None
        return _bytes_of(name, file, weight, layers_of[name])

    def _bytes_of(
        name: str, file: str, weight: torch.Tensor, members: Sequence[Layer]
    ) -> Iterable[memoryview]:
        """One layer's bytes, or those of a fused weight: expert by expert, some of which may stay as they are."""
        parts: dict[int, Iterable[memoryview]] = {}
        for layer in members:
            index = layer.place.index if layer.place else None
            parts[index or 0] = changed(layer, weight_stored(layer, weight), name, file)
            if index is None:
                return parts[0]
        return chain.from_iterable(
            parts.get(index, [expert.reshape(-1).view(torch.uint8).numpy().data])
            for index, expert in enumerate(weight)
        )

    def changed(layer: Layer, weight: torch.Tensor, name: str, file: str) -> Iterable[memoryview]:
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
            amount=amount, pattern=recipe.pattern, scope=recipe.mask_scope,
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
