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
"""Columns of a factor that are found together."""
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
        factor = hessian.clone(memory_format=torch.contiguous_format)
        factor.diagonal().add_(added)
        if not _factorized_(factor):
            continue
        diagonal = factor.diagonal().clone()
        unit = factor.div_(diagonal)
        if bool(torch.isfinite(unit.sum())):
            return Factor(unit=unit, curvature=diagonal.square(), added=added, dead=dead, damping=damping)
    raise NotPositive(f"not even with {DAMPINGS[-1]:g} times the mean of its diagonal added to it")


def _factorized_(matrix: torch.Tensor) -> bool:
    """Makes of a matrix its factor R, R R^T, in place, some columns at a time from the last on; False if it has none."""
    for stop in range(len(matrix), 0, -_SMALL):
        start = max(0, stop - _SMALL)
        inside = slice(start, stop)
        matrix[:stop, inside].addmm_(matrix[:stop, stop:], matrix[inside, stop:].t(), alpha=-1)
        lower, failed = torch.linalg.cholesky_ex(matrix[inside, inside].flip(0, 1))
        if failed:
            return False
        corner = lower.flip(0, 1)  # backwards, the lower factor is the upper one
        matrix[:start, inside] = matrix[:start, inside] @ _inverse(corner).t()
        matrix[inside, inside], matrix[stop:, inside] = corner, 0.0
    return True


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
    whole = _as_given(layer, weight, swept)
    change = before - rows_of(layer, whole).to(hessian.device)
    total = _energy(before, hessian)
    # the sweep has summed up the change under the damped Hessian; what damping added comes off
    squares = torch.linalg.vector_norm(change, dim=0).double().square()
    error = swept.lost - float(squares @ factor.added.double())
    if weight.dtype is not torch.float32 or not error > _CANCELLED * swept.lost:
        error = _energy(change, hessian)
    if not (math.isfinite(error) and math.isfinite(total)):
        raise NotANumber("the error of a reconstructed weight is not finite")
    pruned = int(swept.gone.sum(1).sum(dtype=torch.float64))
    return Reconstructed(weight=whole, pruned=pruned, error=error / total if total > 0 else 0.0)


def reconstructed_weight(
    layer: Layer, weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None
) -> torch.Tensor:
    """The weight that `reconstruct` finds, without its error, which takes nearly as long to measure."""
    before = rows_of(layer, weight).to(factor.unit.device, torch.float32)
    return _as_given(layer, weight, _swept(before, factor, amount=amount, pattern=pattern, scope=scope))


def _as_given(layer: Layer, weight: torch.Tensor, swept: _Swept) -> torch.Tensor:
    whole = torch.empty_like(weight)
    rows_of(layer, whole).copy_(swept.weight.t())
    if not bool(torch.isfinite(whole.sum(dtype=torch.float32))):
        raise NotANumber("a reconstructed weight is not finite")
    return whole


def sweep(
    weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(what becomes of a float32 weight [outputs, inputs], True where it was pruned)."""
    found = _swept(weight, factor, amount=amount, pattern=pattern, scope=scope)
    return found.weight.t(), found.gone.t()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Swept:
    """Upright, [inputs, outputs]: so the columns of a weight lie side by side."""

    weight: torch.Tensor
    gone: torch.Tensor
    """True where a weight was pruned."""
    lost: float
    """tr((W - W') H (W - W')^T) with the damped Hessian."""


def _swept(weight: torch.Tensor, factor: Factor, *, amount: float, pattern: str, scope: str | None) -> _Swept:
    groups = kept_of_group(pattern)
    width = BLOCK if groups is None else max(1, BLOCK // groups[1]) * groups[1]
    edges = [*range(0, weight.shape[1], width), weight.shape[1]]
    shares = _shares(factor.dead, edges, weight.shape[0], amount, scope) if groups is None else None
    left = weight.t().clone(memory_format=torch.contiguous_format)
    gone = torch.empty_like(left, dtype=torch.bool)
    costs = torch.where(factor.dead, 0.0, factor.curvature).unsqueeze(1)
    lost = 0.0
    block: _Block | None = None
    for index, (start, stop) in enumerate(pairwise(edges)):
        inside = slice(start, stop)
        given = weight[:, inside].t().clone(memory_format=torch.contiguous_format)
        if block is None or len(block.left) != stop - start:
            block = _Block.of(given, groups)
        block.asks.copy_(_inverse(factor.unit[inside, inside]).t())
        block.costs.copy_(costs[inside])
        # what the columns before it ask of the whole block, if nothing more goes
        torch.addmm(given, block.asks, left[inside].sub_(given), out=block.left)
        if shares is not None:
            score = block.left.square().mul_(block.costs)
            block.gone.copy_(mask_of(score.t(), shares[index], pattern, scope).t())
        _sweep_(block, groups)
        torch.sub(block.left, block.errors, out=left[inside])
        gone[inside] = block.gone
        left[stop:].addmm_(factor.unit[inside, stop:].t(), given.sub_(left[inside]))
        curvature = factor.curvature[inside].unsqueeze(1)
        lost += float(block.errors.square().mul_(curvature).sum(1).sum(dtype=torch.float64))
    return _Swept(weight=left, gone=gone, lost=lost)


def _inverse(upper: torch.Tensor) -> torch.Tensor:
    """Of an upper triangular matrix."""
    one = torch.eye(len(upper), device=upper.device)
    found: torch.Tensor = torch.linalg.solve_triangular(upper, one, upper=True)
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
class _Column:
    """A column of a block."""

    left: torch.Tensor
    gone: torch.Tensor
    error: torch.Tensor
    errors: torch.Tensor
    """Of the columns of its group before it, [outputs, columns]."""
    asks: torch.Tensor
    """What these ask of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Columns of which N:M chooses, or that are taken together for speed."""

    left: torch.Tensor
    gone: torch.Tensor
    costs: torch.Tensor
    errors: torch.Tensor
    """Of the columns of its strip before it."""
    asks: torch.Tensor
    """What these ask of each of its columns."""
    columns: tuple[_Column, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strip:
    """Columns after which the rest of their block is updated."""

    groups: tuple[_Group, ...]
    errors: torch.Tensor
    rest: torch.Tensor
    """What is left of the columns after it."""
    asks: torch.Tensor
    """What it asks of each of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Room for some columns, upright: [columns, outputs]. All else are views of it: making one takes as long as a small sum."""

    left: torch.Tensor
    """The weights after all that was made up for so far; a pruned one stays with what it was when its turn came."""
    gone: torch.Tensor
    """1 where a weight goes, else 0."""
    errors: torch.Tensor
    """What each pruned weight was when its turn came, 0 for the others."""
    asks: torch.Tensor
    """What each column makes up for of those to its left, with ones on the diagonal: lower triangular."""
    costs: torch.Tensor
    """What it costs to prune a weight of 1 of each column: [columns, 1]."""
    strips: tuple[_Strip, ...]

    @classmethod
    def of(cls, like: torch.Tensor, groups: tuple[int, int] | None) -> _Block:
        """Room for as many columns and outputs."""
        left, gone, errors = torch.empty_like(like), torch.empty_like(like), torch.empty_like(like)
        size = len(like)
        asks, costs = like.new_empty(size, size), like.new_empty(size, 1)
        step, strip = (_STEP, _STRIP) if groups is None else (groups[1], -(-_STRIP // groups[1]) * groups[1])
        lefts, gones, each_error = left.unbind(), gone.unbind(), errors.unbind()

        def column_of(column: int, start: int) -> _Column:
            return _Column(
                left=lefts[column],
                gone=gones[column],
                error=each_error[column],
                errors=errors[start:column].t(),
                asks=asks[column, start:column],
            )

        def group_of(start: int, stop: int, first: int) -> _Group:
            return _Group(
                left=left[start:stop],
                gone=gone[start:stop],
                costs=costs[start:stop],
                errors=errors[first:start],
                asks=asks[start:stop, first:start],
                columns=tuple(column_of(column, start) for column in range(start, stop)),
            )

        def strip_of(first: int, last: int) -> _Strip:
            return _Strip(
                groups=tuple(
                    group_of(start, min(start + step, last), first) for start in range(first, last, step)
                ),
                errors=errors[first:last],
                rest=left[last:],
                asks=asks[last:, first:last],
            )

        strips = tuple(strip_of(first, min(first + strip, size)) for first in range(0, size, strip))
        return cls(left=left, gone=gone, errors=errors, asks=asks, costs=costs, strips=strips)


def _sweep_(block: _Block, groups: tuple[int, int] | None) -> None:
    """Fills in the errors, and for N:M what goes, which it chooses as late as it can, after all that was made up for."""
    for strip in block.strips:
        for group in strip.groups:
            if len(group.errors):
                group.left.addmm_(group.asks, group.errors, alpha=-1)
            if groups is not None:
                mark_upright(group.left.square().mul_(group.costs), groups[0], group.gone)
            for column in group.columns:
                if len(column.asks):
                    column.left.addmv_(column.errors, column.asks, alpha=-1)
                torch.mul(column.left, column.gone, out=column.error)
        if len(strip.rest):
            strip.rest.addmm_(strip.asks, strip.errors, alpha=-1)


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
