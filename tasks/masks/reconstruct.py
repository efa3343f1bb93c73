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

from tasks.loading.models import Layer, rows_of
from tasks.masks.patterns import NotANumber, kept_of_group, mark_upright, mask_of, pruned_count

SPARSEGPT = "sparsegpt"
BLOCK = 128
"""Columns between two updates of everything to their right, as in the paper."""
_STRIP = 16
"""Columns between two updates of the rest of their block: changes no result, and keeps the rest out of the inner loop."""
_STEP = 4
"""Columns between two updates of the rest of their strip, for the same reason; with N:M it is M."""
_SMALL = 128
"""Size of a matrix whose Cholesky factor is found at once."""
_PART = 256
"""Columns of a weight multiplied together."""
_CANCELLED = 0.1
"""Where less than this share of a difference is left, it is computed directly."""
DAMPINGS = (0.01, 0.1, 1.0)
"""Shares of the mean diagonal that are added to the diagonal: the paper's, then what is tried where it fails."""


class NotPositive(ValueError):
    """The Hessian has no Cholesky factor, however much it is damped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """What the sweep reads of a layer's Hessian."""

    unit: torch.Tensor
    """R over its diagonal, column by column, with R R^T the damped Hessian and R upper triangular: float32 [inputs, inputs]."""
    curvature: torch.Tensor
    """The squared diagonal of R: what an input's weight squared costs when all to its right make up for it. [inputs]"""
    added: torch.Tensor
    """What damping added to the Hessian's diagonal: [inputs]."""
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
    before = hessian.diagonal()
    dead = before == 0
    mean = float(before[~dead].mean()) if not bool(dead.all()) else 1.0
    for damping in DAMPINGS:
        added = torch.where(dead, mean * (1 + damping), mean * damping)
        backwards = hessian.flip(0, 1)
        backwards.diagonal().add_(added.flip(0))
        lower = _cholesky_(backwards)
        if lower is None:
            continue
        # H backwards is L L^T, so H is R R^T with R = L backwards
        diagonal = lower.diagonal().flip(0)
        unit = lower.div_(lower.diagonal().clone()).flip(0, 1)
        if bool(torch.isfinite(unit.sum())):
            return Factor(unit=unit, curvature=diagonal.square(), added=added, dead=dead, damping=damping)
    raise NotPositive(f"not even with {DAMPINGS[-1]:g} times the mean of its diagonal added to it")


def _cholesky_(matrix: torch.Tensor) -> torch.Tensor | None:
    """The lower factor, in place and by halves: most of it are products. None if there is none."""
    size = len(matrix)
    if size <= _SMALL:
        lower, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed else matrix.copy_(lower)
    half = size // 2
    above, below = matrix[:half, :half], matrix[half:, :half]
    if _cholesky_(above) is None:
        return None
    below.copy_(torch.linalg.solve_triangular(above.t(), below, upper=True, left=False))
    matrix[half:, half:].addmm_(below, below.t(), alpha=-1)
    matrix[:half, half:] = 0.0
    return None if _cholesky_(matrix[half:, half:]) is None else matrix


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
    swept = _swept(before, factor, amount=amount, pattern=pattern, scope=scope)
    stored = swept.weight.to(weight.dtype)
    change = swept.given.sub_(stored)
    total = _energy(before, hessian)
    # the sweep has summed up the change under the damped Hessian; what damping added comes off
    error = swept.lost - float(change.square().sum(1).double() @ factor.added.double())
    if weight.dtype is not torch.float32 or not error > _CANCELLED * swept.lost:
        error = _energy(change.t(), hessian)
    if not (bool(torch.isfinite(stored.sum())) and math.isfinite(error) and math.isfinite(total)):
        raise NotANumber("a reconstructed weight is not finite")
    whole = torch.empty_like(weight)
    rows_of(layer, whole).copy_(stored.t())
    pruned = int(swept.gone.sum(1).sum(dtype=torch.float64))
    return Reconstructed(weight=whole, pruned=pruned, error=error / total if total > 0 else 0.0)


def sweep(
    weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what becomes of a float32 weight [outputs, inputs], True where it was pruned)."""
    found = _swept(weight, factor, amount=amount, pattern=pattern, scope=scope)
    return found.weight.t(), found.gone.t() != 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swept:
    """Upright, [inputs, outputs]: so the columns of a weight lie side by side."""

    given: torch.Tensor
    weight: torch.Tensor
    gone: torch.Tensor
    """1 where a weight was pruned, else 0."""
    lost: float
    """tr((W - W') H (W - W')^T) with the damped Hessian."""


def _swept(weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None) -> _Swept:
    groups = kept_of_group(pattern)
    width = BLOCK if groups is None else max(1, BLOCK // groups[1]) * groups[1]
    edges = [*range(0, weight.shape[1], width), weight.shape[1]]
    shares = _shares(factor.dead, edges, weight.shape[0], amount, scope) if groups is None else None
    given = weight.t().clone(memory_format=torch.contiguous_format)
    left, gone = given.clone(), torch.empty_like(given)
    lost = 0.0
    for index, (start, stop) in enumerate(pairwise(edges)):
        inside = slice(start, stop)
        block = _Block(
            left=left[inside],
            gone=gone[inside],
            ahead=_inverse(factor.unit[inside, inside]),
            curvature=factor.curvature[inside].unsqueeze(1),
            dead=factor.dead[inside] if bool(factor.dead[inside].any()) else None,
        )
        # what the columns before it ask of the whole block, if nothing more goes
        torch.addmm(given[inside], block.ahead.t(), block.left - given[inside], out=block.left)
        errors = _sweep_(block, None if shares is None else shares[index], pattern, scope)
        block.left.sub_(errors)
        left[stop:].addmm_(factor.unit[inside, stop:].t(), block.left - given[inside], alpha=-1)
        lost += float(errors.square_().mul_(block.curvature).sum(1).sum(dtype=torch.float64))
    return _Swept(given=given, weight=left, gone=gone, lost=lost)


def _inverse(unit: torch.Tensor) -> torch.Tensor:
    """Of a triangular matrix with ones on its diagonal."""
    found: torch.Tensor = torch.linalg.solve_triangular(
        unit, torch.eye(len(unit)).to(unit), upper=True, unitriangular=True
    )
    return found


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Some columns, upright: [columns, outputs]."""

    left: torch.Tensor
    """The weights after all that was made up for so far; a pruned one stays with what it was when its turn came."""
    gone: torch.Tensor
    """1 where a weight goes, else 0."""
    ahead: torch.Tensor
    """What the columns to its right make up for of each column, with ones on the diagonal: upper triangular."""
    curvature: torch.Tensor
    dead: torch.Tensor | None
    """None where none is."""

    def scores(self, part: slice) -> torch.Tensor:
        """What it costs to prune each weight of some columns."""
        found = self.left[part].square().mul_(self.curvature[part])
        if self.dead is not None:
            found[self.dead[part]] = 0.0
        return found


def _sweep_(block: _Block, share: float | None, pattern: str, scope: str | None) -> torch.Tensor:
    """Fills in `left` and `gone`; returns what each pruned weight was when its turn came, 0 for the others."""
    left, gone, ahead, size = block.left, block.gone, block.ahead, len(block.left)
    groups = kept_of_group(pattern)
    step, strip = (_STEP, _STRIP) if groups is None else (groups[1], -(-_STRIP // groups[1]) * groups[1])
    if groups is None:
        gone.copy_(mask_of(block.scores(slice(None)).t(), share, pattern, scope).t())
    errors = torch.empty_like(left)
    columns = list(zip(left.unbind(), gone.unbind(), errors.unbind(), strict=True))
    for first in range(0, size, strip):
        last = min(first + strip, size)
        for start in range(first, last, step):
            stop = min(start + step, last)
            if groups is not None:  # N:M chooses as late as it can, after all that was made up for
                mark_upright(block.scores(slice(start, stop)), groups[0], gone[start:stop])
            for column in range(start, stop):
                value, goes, error = columns[column]
                if column > start:
                    value.addmv_(errors[start:column].t(), ahead[start:column, column], alpha=-1)
                torch.mul(value, goes, out=error)
            if stop < last:
                left[stop:last].addmm_(ahead[start:stop, stop:last].t(), errors[start:stop], alpha=-1)
        if last < size:
            left[last:].addmm_(ahead[first:last, last:].t(), errors[first:last], alpha=-1)
    return errors


def _energy(rows: torch.Tensor, hessian: torch.Tensor) -> float:
    """tr(W H W^T), with half the products: H is symmetric."""
    total = 0.0
    for start in range(0, rows.shape[1], _PART):
        stop = start + _PART
        here = rows[:, start:stop]
        seen = (here @ hessian[start:stop, start:stop]).mul_(0.5)
        seen.addmm_(rows[:, :start], hessian[:start, start:stop])
        total += 2 * float((seen * here).sum(dtype=torch.float64))
    return total
