"""Pure. What repeated timings of two models say: medians, quartiles, and how many times faster one of them is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_BLOCKS = 6  # with fewer, no order statistics enclose the median with 95 %
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Two passes of either model, taken in turns so that a drift of the machine meets both alike; seconds."""

    dense: tuple[float, float]
    pruned: tuple[float, float]

    @property
    def ratio(self) -> float:
        """How many times faster the pruned model was."""
        return math.fsum(self.dense) / math.fsum(self.pruned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of some timings, and the quarters below and above it; seconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast two models are, and the ratio of dense to pruned with its interval."""

    dense: Spread
    pruned: Spread
    speedup: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        """Whether the whole interval lies above 1."""
        return self.low > 1.0


def speed_of(blocks: Sequence[Block]) -> Speed:
    """The median ratio of the blocks, and order statistics that enclose it with 95 % whatever the noise is like.

    Errors: ValueError for fewer than LEAST_BLOCKS.
    """
    ratios = sorted(block.ratio for block in blocks)
    rank = lowest_rank(len(ratios), CONFIDENCE)
    return Speed(
        dense=_spread([seconds for block in blocks for seconds in block.dense]),
        pruned=_spread([seconds for block in blocks for seconds in block.pruned]),
        speedup=statistics.median(ratios),
        low=ratios[rank],
        high=ratios[-1 - rank],
    )


def lowest_rank(count: int, confidence: float) -> int:
    """The highest r for which the r-th smallest and r-th largest (from 0) of `count` values enclose the median.

    That the median lies below the r-th smallest has the chance P(X <= r) with X ~ Binomial(count, 1/2).
    Errors: ValueError, where even the smallest and the largest do not enclose it so surely.
    """
    limit, below, rank = (1 - confidence) / 2, 0.0, -1
    for r in range(count):
        below += math.comb(count, r) / 2**count
        if below > limit:
            break
        rank = r
    if rank < 0:
        raise ValueError(f"{count} blocks are too few for an interval; it takes {LEAST_BLOCKS}")
    return rank


def _spread(seconds: Sequence[float]) -> Spread:
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Spread(median=statistics.median(seconds), low=low, high=high)
