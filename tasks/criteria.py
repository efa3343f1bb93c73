"""Pure. (weight, statistics of its inputs) -> a score for each weight; the lowest scores are pruned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

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


def _only_in_a_sweep(weight: torch.Tensor, norms: torch.Tensor | None) -> torch.Tensor:
    raise ValueError("sparsegpt scores weights while it changes them: see tasks.reconstruct")


CRITERIA: Mapping[str, Criterion] = {
    "magnitude": Criterion(score=magnitude, needs_activations=False),
    "wanda": Criterion(score=wanda, needs_activations=True),
    "sparsegpt": Criterion(score=_only_in_a_sweep, needs_activations=True, reconstructs=True),
}


def criterion_named(name: str) -> Criterion:
    """Ours, or one that an installed package offers under the entry point group `prunefleet.criteria`."""
    if name in CRITERIA:
        return CRITERIA[name]
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
    if squares is None:
        return criterion.score(part, None)
    norms = norms_by_row(layer, squares).to(weight.device)
    return criterion.score(part, norms if layer.groups == 1 else norms[rows])


def norms_by_row(layer: Layer, squares: torch.Tensor) -> torch.Tensor:
    """Float32 L2 norms of the inputs that each row sees: [1, inputs], or [outputs, inputs / groups] if grouped."""
    if squares.shape != (layer.inputs,):
        raise ValueError(f"{layer.name} has {layer.inputs} inputs and {list(squares.shape)} sums of squares")
    norms = squares.double().sqrt().float().reshape(layer.groups, -1)
    return norms if layer.groups == 1 else norms.repeat_interleave(layer.outputs // layer.groups, dim=0)
