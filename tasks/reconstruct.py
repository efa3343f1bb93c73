"""Pure. SparseGPT: (weight, Hessian of its inputs) -> a weight with zeros whose other entries make up for them.

Frantar and Alistarh, arXiv 2301.00774, algorithm 1. Columns are gone through from left to right, in blocks; what is
pruned of a column is made up for by the columns to its right. Different from the paper's code on purpose: counts are
exact (`block_quotas`), equal scores keep the lower index, and what dead inputs see goes first instead of in addition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from tasks.models import Layer, rows_of
from tasks.patterns import NotANumber, kept_of_group, mask_of, mask_upright, pruned_count

SPARSEGPT = "sparsegpt"
BLOCK = 128
"""Columns between two updates of everything to their right, as in the paper."""
_STRIP = 16
"""Columns between two updates of the rest of their block: changes no result, and keeps the rest out of the inner loop."""
DAMPINGS = (0.01, 0.1, 1.0)
"""Shares of the mean diagonal that are added to the diagonal: the paper's, then what is tried where it fails."""

_SMALL = 128
"""Size of a triangular matrix that is inverted at once."""


class NotPositive(ValueError):
    """The Hessian has no Cholesky factor, however much it is damped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What the sweep reads of a layer's Hessian."""

    upper: torch.Tensor
    """U with U^T U = inverse of the damped Hessian: [inputs, inputs], float32."""
    dead: torch.Tensor
    """Inputs that were zero in every example: bool [inputs]."""
    damping: float
    """Which of DAMPINGS it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstructed:
    """A layer after the sweep."""

    weight: torch.Tensor
    """In the shape and dtype of the given one, on its device."""
    pruned: int
    error: float
    """||(W - W') X||^2 / ||W X||^2 over the calibration data, with W' as it is stored."""


def factor_of(hessian: torch.Tensor) -> Factor:
    """The factor of sum x x^T over the inputs, float32 [inputs, inputs]; NotPositive if there is none."""
    dead = hessian.diagonal() == 0
    mean = float(hessian.diagonal()[~dead].mean()) if not bool(dead.all()) else 1.0
    for damping in DAMPINGS:
        damped = hessian.clone()
        damped.diagonal()[dead] = mean
        damped.diagonal().add_(damping * mean)
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if failed:
            continue
        # H backwards is L L^T, so H is R R^T with R = L backwards, and the inverse of H is R^-T R^-1
        upper = _inverse_of_lower(lower).flip(0, 1)
        if bool(torch.isfinite(upper).all()):
            return Factor(upper=upper, dead=dead, damping=damping)
    raise NotPositive(f"not even with {DAMPINGS[-1]:g} times the mean of its diagonal added to it")


def _inverse_of_lower(lower: torch.Tensor) -> torch.Tensor:
    """Of a triangular matrix, by halves: a solver would not make use of the zeros on the right-hand side."""
    size = len(lower)
    if size <= _SMALL:
        found: torch.Tensor = torch.linalg.solve_triangular(lower, torch.eye(size).to(lower), upper=False)
        return found
    half = size // 2
    inverse = torch.zeros_like(lower)
    inverse[:half, :half] = _inverse_of_lower(lower[:half, :half])
    inverse[half:, half:] = _inverse_of_lower(lower[half:, half:])
    inverse[half:, :half] = inverse[half:, half:] @ (lower[half:, :half] @ inverse[:half, :half]).neg_()
    return inverse


def reconstruct(
    layer: Layer,
    weight: torch.Tensor,
    hessian: torch.Tensor,
    factor: Factor,
    *,
    amount: float,
    pattern: str,
    scope: str | None,
) -> Reconstructed:
    """Prunes a weight and lets the rest make up for it; NotANumber if the result is not finite in its dtype."""
    before = rows_of(layer, weight).to(hessian.device, torch.float32)
    rows, mask = sweep(before, factor, amount=amount, pattern=pattern, scope=scope)
    stored = rows.to(weight.dtype)
    change, total = (_energy(part, hessian) for part in (before - stored.float(), before))
    if not (bool(torch.isfinite(stored).all()) and math.isfinite(change) and math.isfinite(total)):
        raise NotANumber("a reconstructed weight is not finite")
    whole = torch.empty_like(weight)
    rows_of(layer, whole).copy_(stored)
    pruned = int(torch.count_nonzero(mask))
    return Reconstructed(weight=whole, pruned=pruned, error=change / total if total > 0 else 0.0)


def sweep(
    weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what becomes of a float32 weight [outputs, inputs], True where it was pruned)."""
    groups = kept_of_group(pattern)
    width = BLOCK if groups is None else max(1, BLOCK // groups[1]) * groups[1]
    edges = [*range(0, weight.shape[1], width), weight.shape[1]]
    shares = _shares(factor.dead, edges, weight.shape[0], amount, scope) if groups is None else None
    left = weight.t().clone(
        memory_format=torch.contiguous_format
    )  # the columns of the inner loop lie side by side
    mask = torch.zeros(left.shape, dtype=torch.bool, device=weight.device)
    for index, (start, stop) in enumerate(pairwise(edges)):
        inside, upper = slice(start, stop), factor.upper[start:stop]
        errors = _sweep_block_(
            left[inside],
            mask[inside],
            upper[:, inside],
            factor.dead[inside],
            None if shares is None else shares[index],
            pattern,
            scope,
        )
        left[stop:].addmm_(upper[:, stop:].t(), errors, alpha=-1)
    return left.t(), mask.t()


def block_quotas(dead: Sequence[int], live: Sequence[int], wanted: int) -> list[int]:
    """How many entries of each block go, `wanted` in all: first those that see dead inputs, then evenly of the rest."""
    of_dead = min(wanted, sum(dead))
    return [
        one + other
        for one, other in zip(_spread(dead, of_dead), _spread(live, wanted - of_dead), strict=True)
    ]


def _spread(sizes: Sequence[int], count: int) -> list[int]:
    """`count` over blocks in proportion to their sizes; what is rounded away from one block goes to the next."""
    total = max(1, sum(sizes))
    upto = [(2 * count * size + total) // (2 * total) for size in accumulate(sizes, initial=0)]
    return [last - first for first, last in pairwise(upto)]


def _shares(
    dead: torch.Tensor, edges: Sequence[int], rows: int, amount: float, scope: str | None
) -> list[float]:
    """Which share of each block goes."""
    columns = 1 if scope == "row" else rows  # entries of a column that compete with each other
    num_dead = [int(dead[start:stop].sum()) for start, stop in pairwise(edges)]
    sizes = [stop - start for start, stop in pairwise(edges)]
    quotas = block_quotas(
        [columns * count for count in num_dead],
        [columns * (size - count) for size, count in zip(sizes, num_dead, strict=True)],
        pruned_count(amount, columns * edges[-1]),
    )
    return [quota / (columns * size) for quota, size in zip(quotas, sizes, strict=True)]


def _sweep_block_(
    block: torch.Tensor,
    mask: torch.Tensor,
    upper: torch.Tensor,
    dead: torch.Tensor,
    share: float | None,
    pattern: str,
    scope: str | None,
) -> torch.Tensor:
    """Changes the block and its mask, [columns, outputs], in place; what each pruned weight was, over the diagonal, is
    returned.
    """
    diagonal = upper.diagonal().unsqueeze(1)
    curvature = diagonal.square()
    has_dead = bool(dead.any())
    errors = torch.empty_like(block)
    taken = torch.empty_like(block)  # of each entry: 1 / diagonal if it goes, else 0
    groups = kept_of_group(pattern)
    step = len(block) if groups is None else groups[1]
    width = _STRIP if groups is None else -(-_STRIP // step) * step
    for first in range(0, len(block), width):
        last = min(first + width, len(block))
        for column in range(first, last):
            if column % step == 0:  # N:M chooses as late as it can, after all that was made up for
                part = slice(column, column + step)
                scores = block[part].square().div_(curvature[part])
                if has_dead:
                    scores[dead[part]] = 0.0
                if groups is None:
                    mask[part] = mask_of(scores.t(), share, pattern, scope).t()
                else:
                    mask[part] = mask_upright(scores, groups[0])
                torch.div(mask[part], diagonal[part], out=taken[part])
            torch.mul(block[column], taken[column], out=errors[column])
            block[column:last].addr_(upper[column, column:last], errors[column], alpha=-1)
        block[last:].addmm_(upper[first:last, last:].t(), errors[first:last], alpha=-1)
    block[mask] = 0.0
    return errors


def _energy(rows: torch.Tensor, hessian: torch.Tensor) -> float:
    return float(((rows @ hessian) * rows).sum(dtype=torch.float64))
