"""Pure. (weight, statistics of its inputs) -> a score for each weight; the lowest scores are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import entry_points

import numpy as np
import torch

from tasks.contract import BadInput
from tasks.models import Layer, rows_of

ENTRY_POINTS = "prunefleet.criteria"


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """How the weights of a layer are scored."""

    score: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
    """(weight [outputs, inputs], norms of the inputs, broadcast to it) -> score of the same shape.

    A row's scores depend on that row alone: large weights are scored some rows at a time.
    """
    needs_activations: bool
    """Without them the norms are None, and calibration data is not read."""
    seed: int | None = None
    """Of a criterion that draws: in place of the norms it gets numbers from 0 to 1 in the shape of the weight."""
    reconstructs: bool = False
    """What stays of a weight changes too, which takes the Hessian of its inputs: `tasks.reconstruct` does it all."""


def magnitude(weight: torch.Tensor, norms: torch.Tensor | None = None) -> torch.Tensor:
    """|W|, in the weight's own dtype, where it is exact."""
    return weight.abs()


def wanda(weight: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    """|W_ij| * ||X_j||_2 in float32 (Sun et al., arXiv 2306.11695, equation 1)."""
    if norms is None:
        raise ValueError("wanda needs the norms of the inputs")
    return weight.float().abs().mul_(norms)


def chance(weight: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
    """What was drawn, whatever the weight: what every other criterion should be better than."""
    if drawn is None:
        raise ValueError("random needs numbers that were drawn")
    return drawn


def _only_in_a_sweep(weight: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    raise ValueError("sparsegpt scores weights while it changes them: see tasks.reconstruct")


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": Criterion(score=magnitude, needs_activations=False),
    "wanda": Criterion(score=wanda, needs_activations=True),
    "random": Criterion(score=chance, needs_activations=False, seed=0),
    "sparsegpt": Criterion(score=_only_in_a_sweep, needs_activations=True, reconstructs=True),
}


def criterion_named(name: str, seed: int = 0) -> Criterion:
    """Ours, or one that an installed package offers under the entry point group `prunefleet.criteria`.

    Only a criterion that draws heeds the seed.
    """
    if name in CRITERIA:
        found = CRITERIA[name]
        return found if found.seed is None else replace(found, seed=seed)
    for point in entry_points(group=ENTRY_POINTS, name=name):
        found = point.load()
        if not isinstance(found, Criterion):
            raise BadInput(
                "a criterion cannot be used",
                why=f"the entry point {name} of {ENTRY_POINTS} is a {type(found).__name__}, not a Criterion",
                do="Let it name a tasks.criteria.Criterion.",
            )
        return found
    known = ", ".join(sorted({*CRITERIA, *(point.name for point in entry_points(group=ENTRY_POINTS))}))
    raise BadInput("a criterion cannot be used", why=f"{name!r} is unknown", do=f"Use one of: {known}.")


def layer_score(
    criterion: Criterion,
    layer: Layer,
    weight: torch.Tensor,
    squares: torch.Tensor | None,
    rows: slice = slice(None),
) -> torch.Tensor:
    """The score of some of a layer's rows, [rows, inputs / groups]; `squares` has one sum of squares an input."""
    part = rows_of(layer, weight)[rows]
    if criterion.seed is not None:
        return criterion.score(part, drawn_for(layer, criterion.seed, rows).to(weight.device))
    if squares is None:
        return criterion.score(part, None)
    norms = norms_by_row(layer, squares).to(weight.device)
    return criterion.score(part, norms if layer.groups == 1 else norms[rows])


def drawn_for(layer: Layer, seed: int, rows: slice = slice(None)) -> torch.Tensor:
    """Float32 numbers for some of a layer's rows; a row's depend on the seed, the layer's name and its own number."""
    key = int.from_bytes(blake2b(f"{seed} {layer.name}".encode(), digest_size=16).digest(), "little")
    numbers = range(layer.outputs)[rows]
    found = np.empty((len(numbers), layer.inputs // layer.groups), dtype=np.float32)
    for row, number in zip(found, numbers, strict=True):
        np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, 0])).random(
            dtype=np.float32, out=row
        )
    return torch.from_numpy(found)


def norms_by_row(layer: Layer, squares: torch.Tensor) -> torch.Tensor:
    """Float32 L2 norms of the inputs that each row sees: [1, inputs], or [outputs, inputs / groups] if grouped."""
    if squares.shape != (layer.inputs,):
        raise ValueError(f"{layer.name} has {layer.inputs} inputs and {list(squares.shape)} sums of squares")
    norms = squares.double().sqrt().float().reshape(layer.groups, -1)
    return norms if layer.groups == 1 else norms.repeat_interleave(layer.outputs // layer.groups, dim=0)
