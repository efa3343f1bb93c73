"""Pure. The mask of one layer's weight, what it costs, and the weight's bytes with zeros where it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from tasks.loading.models import Layer, rows_of
from tasks.masks.criteria import Criterion, Seen, layer_score
from tasks.masks.patterns import NotANumber, block_of, kept_of_group, mask_of

_CHUNK = 1 << 16
"""Entries handled together where only passes over them matter: they stay in a processor's cache."""
_BLOCK = 1 << 18
"""Entries scored together where rows can be masked one by one: bounds memory, whatever the tensor's size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masked:
    """Which weights of a layer go."""

    mask: torch.Tensor
    """[outputs, inputs / groups], True where the weight goes."""
    pruned: int
    error: float
    """Sum of the squared scores of what goes over that of all; of the squared weights, if scores are drawn."""


def mask_layer(
    criterion: Criterion,
    layer: Layer,
    weight: torch.Tensor,
    seen: Seen,
    *,
    amount: float,
    pattern: str,
    scope: str | None,
) -> Masked:
    """Scores a weight and chooses what goes; NotANumber if a score is NaN or infinite."""
    mask = torch.empty(layer.outputs, layer.parameters // max(1, layer.outputs), dtype=torch.bool)
    lost = total = 0.0
    for rows, score in masked_blocks(
        criterion, layer, weight, seen, amount=amount, pattern=pattern, scope=scope, out=mask
    ):
        measure = score if criterion.seed is None else rows_of(layer, weight)[rows].abs()
        lost_here, total_here = _squares(measure, mask[rows])
        lost, total = lost + lost_here, total + total_here
    if not math.isfinite(total):
        raise NotANumber("a score is infinite")
    return Masked(mask=mask, pruned=int(torch.count_nonzero(mask)), error=lost / total if total else 0.0)


def masked_blocks(
    criterion: Criterion,
    layer: Layer,
    weight: torch.Tensor,
    seen: Seen,
    *,
    amount: float | None,
    pattern: str,
    scope: str | None,
    out: torch.Tensor,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Fills a mask in, [outputs, inputs / groups]; the rows that are done and their scores, as they are, block by block."""
    is_by_row = scope == "row" or kept_of_group(pattern) is not None
    high = (block_of(pattern) or (1, 1))[0]
    step = max(1, _BLOCK // max(1, out.shape[1]) // high) * high if is_by_row else max(1, layer.outputs)
    for start in range(0, layer.outputs, step):
        rows = slice(start, start + step)
        score = layer_score(criterion, layer, weight, seen, rows)
        out[rows] = mask_of(score, amount, pattern, scope)
        yield rows, score


def zeroed(layer: Layer, weight: torch.Tensor, mask: torch.Tensor) -> Iterator[memoryview]:
    """The stored bytes of a weight, block by block; taken as integers, so that no zero is negative."""
    bits = weight.reshape(-1).view(torch.uint8).numpy().view(f"u{weight.element_size()}")
    gone = (mask.t() if layer.transposed else mask).reshape(-1).numpy()
    for start in range(0, bits.size, _CHUNK):
        yield np.multiply(bits[start : start + _CHUNK], ~gone[start : start + _CHUNK]).data


def _squares(score: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """Sums of squares of the masked scores and of all; in float64 where float32 would be too narrow."""
    lost, total = _squares_in(torch.float32, score, mask)
    return (lost, total) if 0 < total < math.inf else _squares_in(torch.float64, score, mask)


def _squares_in(dtype: torch.dtype, score: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    lost = total = 0.0
    flat, gone = score.reshape(-1), mask.reshape(-1).numpy()
    with np.errstate(over="ignore", invalid="ignore"):  # seen by the caller in the sums
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK].to(dtype).numpy()
            total += float(np.dot(part, part))
            part = part * gone[start : start + _CHUNK]
            lost += float(np.dot(part, part))
    return lost, total
