"""Effects. One ranking of all weights of a model: how many of each layer are among the lowest, in bounded memory.

The scores are never there all at once. The value at which the budget is met is found digit by digit: each pass over the
layers counts, for those scores that share the digits known so far, how many have which next digit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tasks.amounts.allocation import Allocation
from tasks.contract import BadInput
from tasks.loading.models import Layer, Model, weight_stored
from tasks.loading.weights import check_finite
from tasks.masks.criteria import Criterion, Seen, layer_score
from tasks.masks.patterns import NotANumber, pruned_count
from tasks.masks.selection import in_stored_order, stored_names
from tasks.recipes import Recipe

DIGIT_BITS = 11
"""A pass keeps 2^11 counts for each layer: three passes for 32-bit scores, six for 64-bit ones."""
FEW_LAYERS = 1024
"""With more of them, as with many experts, digits have 8 bits, so that the counts stay small: four passes, or eight."""
_BLOCK = 1 << 20
"""Entries scored together."""

Keys = Callable[[], Iterator[tuple[str, npt.NDArray[Any]]]]
"""One pass: some keys of a layer, and its name; unsigned integers in the order of the scores."""


def ranked(
    recipe: Recipe,
    criterion: Criterion,
    model: Model,
    layers: Sequence[Layer],
    seen_by: Callable[[Layer], Seen],
) -> Allocation:
    """How much of each layer goes if all its weights compete with those of all others.

    Exactly `pruned_count(amount, all weights)` go. Of equal scores those of later layers go first, then those of the
    higher index. A layer beyond its least or most amount gets just that, and the others share the rest.
    Errors: BadInput, if the amounts do not go together, or a score is not a number.
    """
    sizes = {layer.name: layer.parameters for layer in layers}
    assert recipe.amount is not None, "only measured allocations have budgets"
    wanted = pruned_count(recipe.amount, sum(sizes.values()))
    least = {name: pruned_count(recipe.min_amount, size) for name, size in sizes.items()}
    most = {name: pruned_count(recipe.max_amount, size) for name, size in sizes.items()}
    if not sum(least.values()) <= wanted <= sum(most.values()):
        raise BadInput(
            "the budget cannot be met",
            why=f"{recipe.amount:g} of all weights cannot go where each layer loses {recipe.min_amount:g} to {recipe.max_amount:g}",
            do="Change amount, min_amount or max_amount.",
        )
    in_order = in_stored_order(model, layers)
    bits = _key_bits(criterion, model, in_order, seen_by)

    def keys() -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for layer in in_order:
            yield from ((layer.name, part) for part in _keys_of(criterion, model, layer, seen_by, bits))

    counts = counts_of_lowest(sizes, keys, bits, wanted, least, most)
    nothing_known = float("nan")
    return Allocation(
        amounts={name: counts[name] / size if size else 0.0 for name, size in sizes.items()},
        predicted_increase=nothing_known,
        lower_bound=nothing_known,
    )


def counts_of_lowest(
    sizes: Mapping[str, int],
    keys: Keys,
    bits: int,
    wanted: int,
    least: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """How many of each layer's keys are among the `wanted` lowest of all, each layer's count within its bounds."""
    place = {name: index for index, name in enumerate(sizes)}
    low, high = (np.array([bound[name] for name in sizes], dtype=np.int64) for bound in (least, most))
    below, equal = np.zeros(len(sizes), dtype=np.int64), np.zeros(len(sizes), dtype=np.int64)
    known = shift = 0
    for shift, width in _digits(bits, DIGIT_BITS if len(sizes) <= FEW_LAYERS else 8):
        tally = np.zeros((len(sizes), 1 << width), dtype=np.int64)
        for name, part in keys():
            if shift + width < bits:
                part = part[part >> part.dtype.type(shift + width) == known]
            digits = (part >> part.dtype.type(shift)) & part.dtype.type((1 << width) - 1)
            tally[place[name]] += np.bincount(digits.astype(np.int64), minlength=1 << width)
        upto = np.cumsum(tally, axis=1) + below[:, None]
        totals = np.clip(upto, low[:, None], high[:, None]).sum(axis=0)
        digit = int(np.searchsorted(totals, wanted))
        equal = tally[:, digit]
        below = upto[:, digit] - equal
        known = known << width | digit
    counts, room = np.clip(below, low, high), np.clip(below + equal, low, high)
    missing = wanted - int(counts.sum())
    for index in reversed(range(len(sizes))):
        taken = min(missing, int(room[index] - counts[index]))
        counts[index] += taken
        missing -= taken
    assert missing == 0, "the bounds were checked before"
    return {name: int(counts[index]) for name, index in place.items()}


def keys_in_order(score: torch.Tensor, bits: int) -> npt.NDArray[Any]:
    """Unsigned integers of so many bits, in the order of the scores; NotANumber if there is none."""
    if bits == 32 and score.dtype is torch.float64:
        raise ValueError(
            "a score in float64 does not fit into 32 bits: give every layer's score the same dtype"
        )
    wide = score.detach().reshape(-1).cpu().to(torch.float32 if bits == 32 else torch.float64)
    if bool(wide.isnan().any()):
        raise NotANumber("a score is not a number")
    kind = np.dtype(f"u{bits // 8}")
    found = (wide + 0.0).numpy().view(kind)  # no zero is negative
    sign = kind.type(1 << bits - 1)
    return np.where(found & sign, ~found, found | sign)


def _digits(bits: int, most: int) -> Iterator[tuple[int, int]]:
    """(shift, width) of each digit, the highest first."""
    while bits > 0:
        width = min(most, bits)
        bits -= width
        yield bits, width


def _key_bits(
    criterion: Criterion, model: Model, layers: Sequence[Layer], seen_by: Callable[[Layer], Seen]
) -> int:
    """Float32 holds every score but those that are computed in float64."""
    first, kinds = layers[0], {model.checkpoint.dtype(stored_names(model, layer)[0]) for layer in layers}
    weight = weight_stored(first, model.checkpoint.mapped(stored_names(model, first)[0]))
    kinds.add(layer_score(criterion, first, weight, seen_by(first), slice(0, 0)).dtype)
    return 64 if torch.float64 in kinds else 32


def _keys_of(
    criterion: Criterion, model: Model, layer: Layer, seen_by: Callable[[Layer], Seen], bits: int
) -> Iterator[npt.NDArray[Any]]:
    checkpoint, name = model.checkpoint, stored_names(model, layer)[0]
    weight = weight_stored(layer, checkpoint.mapped(name))
    file = checkpoint.file(name).path.name
    check_finite(weight, name, file)
    seen = seen_by(layer)
    step = max(1, _BLOCK * layer.outputs // max(1, layer.parameters))
    for start in range(0, layer.outputs, step):
        score = layer_score(criterion, layer, weight, seen, slice(start, start + step))
        try:
            yield keys_in_order(score, bits)
        except NotANumber:
            raise BadInput(
                "a score is not a number",
                why=f"a score of the layer {layer.name} is NaN",
                do="Use another criterion, or calibration data with smaller activations.",
                file=file,
                tensor=name,
            ) from None
    checkpoint.release()
