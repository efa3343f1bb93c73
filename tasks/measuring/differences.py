"""Pure. Mean losses over the same examples, and how surely one differs from the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
"""One loss an example, summed over its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of two mean losses."""

    delta: float
    stderr: float | None
    """None for a single example, which says nothing about others."""


def mean_loss(losses: Sums, tokens: Sums) -> float:
    """Per token: the ratio of the sums, so that each token counts the same."""
    return float(losses.sum() / tokens.sum())


def difference(losses: Sums, dense: Sums, tokens: Sums) -> Difference:
    """Mean loss minus dense mean loss, with the standard error of that over examples drawn like these.

    Examples are the clusters and their tokens vary, so this is the ratio estimator (Cochran, Sampling Techniques,
    3rd edition, section 6.4), without finite-population correction; with one token each it is sd / sqrt(n).
    """
    changes = losses - dense
    size = len(changes)
    total = float(tokens.sum())
    delta = float(changes.sum()) / total
    if size < 2:
        return Difference(delta=delta, stderr=None)
    residuals = changes - delta * tokens
    return Difference(
        delta=delta, stderr=math.sqrt(size / (size - 1) * float(np.square(residuals).sum())) / total
    )
