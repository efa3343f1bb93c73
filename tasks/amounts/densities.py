"""Pure. Shapes or outliers, and a budget -> how much of each layer goes, without measuring any loss.

ERK (Evci et al., arXiv 1911.11134): what stays of a layer is proportional to the sum of its dimensions. OWL (Yin et al.,
arXiv 2310.05175): blocks with more outliers among their Wanda scores keep more, within a band, and the layers of a block
alike. Either meets the budget exactly and keeps every layer within its bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import nn

from tasks.amounts.allocation import Allocation
from tasks.contract import BadInput
from tasks.loading.models import Layer
from tasks.masks.criteria import CRITERIA, Seen, layer_score, norms_by_row
from tasks.masks.patterns import pruned_count

MULTIPLE = 5.0
"""M of OWL: a score above so many times its block's mean is an outlier."""
BAND = 0.08
"""Lambda of OWL: densities differ by at most twice as much, bounds aside."""
_BLOCK = 1 << 20
"""Entries scored together."""


def erk(
    shapes: Mapping[str, tuple[int, ...]], amount: float, max_amount: float, min_amount: float = 0.0
) -> Allocation:
    """What stays is proportional to sum(dimensions); layers that would keep more than all they have stay dense."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    slopes = {name: float(sum(shape)) for name, shape in shapes.items()}
    return _within(sizes, dict.fromkeys(sizes, 0.0), slopes, amount, max_amount, min_amount)


def owl(
    sizes: Mapping[str, int],
    outliers: Mapping[str, float],
    amount: float,
    max_amount: float,
    min_amount: float = 0.0,
) -> Allocation:
    """Densities follow the shares of outliers, stretched to a band; weighted by size, they meet the budget.

    `outliers` has for each layer the share of its block. The paper's code centres the band on the plain mean over blocks, which misses
    the budget where sizes differ.
    """
    low, high = min(outliers.values()), max(outliers.values())
    width = high - low or 1.0
    lifts = {name: 2 * BAND * (outliers[name] - low) / width * size for name, size in sizes.items()}
    slopes = {name: float(size) for name, size in sizes.items()}
    return _within(sizes, lifts, slopes, amount, max_amount, min_amount)


def blocks_of(module: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """By layer: the member of the outermost list of modules that it lies in, as a transformer's block; else the layer itself."""
    lists = [name for name, part in module.named_modules() if isinstance(part, nn.ModuleList)]
    found = {}
    for layer in layers:
        around = min((name for name in lists if layer.startswith(f"{name}.")), key=len, default=None)
        inside = layer[len(around) + 1 :].split(".")[0] if around is not None else ""
        found[layer] = f"{around}.{inside}" if inside else layer
    return found


def outlier_share(scores: Callable[[], Iterable[torch.Tensor]]) -> float:
    """The share of scores that exceed MULTIPLE times the mean of all; they are gone through twice."""
    total, count = 0.0, 0
    for part in scores():
        total, count = total + float(part.double().sum()), count + part.numel()
    limit = MULTIPLE * total / max(1, count)
    return sum(int((part > limit).sum()) for part in scores()) / max(1, count)


def wanda_scores(layer: Layer, weight: torch.Tensor, squares: torch.Tensor) -> Iterator[torch.Tensor]:
    """A layer's Wanda scores, some rows at a time."""
    step = max(1, _BLOCK * layer.outputs // max(1, layer.parameters))
    seen = Seen(norms=norms_by_row(layer, squares))
    for start in range(0, layer.outputs, step):
        yield layer_score(CRITERIA["wanda"], layer, weight, seen, slice(start, start + step))


def _within(
    sizes: Mapping[str, int],
    starts: Mapping[str, float],
    slopes: Mapping[str, float],
    amount: float,
    max_amount: float,
    min_amount: float,
) -> Allocation:
    """Keeps start + t * slope of each layer, within what max_amount and min_amount leave, t by the budget."""
    total = sum(sizes.values())
    kept = total - pruned_count(amount, total)
    least = {name: size - pruned_count(max_amount, size) for name, size in sizes.items()}
    most = {name: size - pruned_count(min_amount, size) for name, size in sizes.items()}
    if not sum(least.values()) <= kept <= sum(most.values()):
        raise BadInput(
            "the budget cannot be met",
            why=f"{amount:g} of all weights cannot go where each layer loses {min_amount:g} to {max_amount:g}",
            do="Change amount, min_amount or max_amount.",
        )

    def at(t: float) -> dict[str, float]:
        return {name: min(max(starts[name] + t * slopes[name], least[name]), most[name]) for name in sizes}

    low = min((least[name] - starts[name]) / slopes[name] for name in sizes)
    high = max((most[name] - starts[name]) / slopes[name] for name in sizes)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(at(middle).values()) < kept else (low, middle)
    counts = _whole(at(high), most, kept)
    nothing_known = float("nan")
    return Allocation(
        amounts={name: (size - counts[name]) / size if size else 0.0 for name, size in sizes.items()},
        predicted_increase=nothing_known,
        lower_bound=nothing_known,
    )


def _whole(shares: Mapping[str, float], most: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Whole numbers next to the shares that sum up to `wanted`; the largest remainders go up, of equals the first."""
    counts = {name: min(math.floor(share), most[name]) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: counts[name] - shares[name])
    missing = wanted - sum(counts.values())
    for name in order:
        if missing > 0 and counts[name] < most[name]:
            counts[name] += 1
            missing -= 1
    assert missing == 0, "the shares sum up to the budget"
    return counts
