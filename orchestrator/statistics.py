"""Pure. The statistics of a paired comparison: exact tests, score intervals, a bootstrap, sample sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 2_000
SIGN_FLIPS = 10_000
NORMAL_FROM = 200  # examples from which the sign-flip test is as good as its normal limit
MOST_SAMPLES = 10**12
_DRAWS_AT_ONCE = 4_000_000  # 32 MB of indices


def mcnemar_p(worse: int, better: int) -> float:
    """One-sided exact McNemar test: the chance of so many right-to-wrong flips if both ways are alike.

    `worse` and `better` count right-to-wrong and wrong-to-right flips; without flips the answer is 1.
    """
    flips = worse + better
    return float(stats.binom.sf(worse - 1, flips, 0.5)) if flips else 1.0


def tango_bound(worse: int, better: int, samples: int, confidence: float) -> float:
    """One-sided upper bound of the drop in accuracy, by Tango's score test for paired proportions.

    Source: Tango 1998, Statistics in Medicine 17, 891-908. Without any flip it is z^2 / (n + z^2).
    """
    z = float(stats.norm.ppf(confidence))
    low, high = (worse - better) / samples, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _tango_z(worse, better, samples, middle) > -z:
            low = middle
        else:
            high = middle
    return high


def tango_interval(worse: int, better: int, samples: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of the drop in accuracy; each side has half of the error."""
    side = (1 + confidence) / 2
    return -tango_bound(better, worse, samples, side), tango_bound(worse, better, samples, side)


def _tango_z(worse: int, better: int, samples: int, drop: float) -> float:
    """Standard errors by which the observed drop lies above a supposed one, nuisance rate fitted to it."""
    half_b = (-worse - better + (2 * samples - worse + better) * drop) / 2
    c = -better * drop * (1 - drop)
    rate = (math.sqrt(max(0.0, half_b**2 - 2 * samples * c)) - half_b) / (2 * samples)
    variance = samples * (2 * rate + drop * (1 - drop))
    excess = worse - better - samples * drop
    return excess / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, excess)


def holm(p_values: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Which hypotheses Holm's step-down procedure rejects.

    The chance of even one false rejection stays below alpha, however dependent the tests are.
    """
    rejected = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return tuple(rejected)


def sign_flip_p(differences: Floats, rng: np.random.Generator) -> float:
    """One-sided paired permutation test that the differences are not above zero.

    Draws signs at random below 200 examples; above, the test's own normal limit.
    """
    total, scale = float(differences.sum()), math.sqrt(float((differences**2).sum()))
    if scale == 0.0:
        return 1.0
    if len(differences) >= NORMAL_FROM:
        return float(stats.norm.sf(total / scale))
    signs = rng.integers(0, 2, size=(SIGN_FLIPS, len(differences)), dtype=np.int8) * 2 - 1
    as_large = int((signs @ differences >= total - 1e-12 * scale).sum())
    return (1 + as_large) / (1 + SIGN_FLIPS)


def bootstrap_ratios(numerator: Floats, denominator: Floats, rng: np.random.Generator) -> Floats:
    """Sum(numerator) / sum(denominator) of 2,000 resamples of the examples, ascending."""
    size = len(numerator)
    chunk = max(1, _DRAWS_AT_ONCE // size)
    ratios = []
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.integers(0, size, size=(min(chunk, RESAMPLES - start), size))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1))
    return np.sort(np.concatenate(ratios))


def bootstrap_bounds(draws: Floats, samples: int, tail: float) -> tuple[float, float]:
    """The quantiles of bootstrap draws that leave `tail` on each side, widened for few examples.

    Plain percentiles are too narrow for few examples; the level moves out as Student's t lies beyond
    the normal. Source: Hesterberg 2015, The American Statistician 69, 371-386 (expanded percentile interval).
    """
    spread = math.sqrt(samples / (samples - 1)) * stats.t.ppf(tail, samples - 1)
    level = float(stats.norm.cdf(spread))
    low, high = np.quantile(draws, [level, 1 - level])
    return float(low), float(high)


def samples_needed(spread: float, margin: float, confidence: float, power: float = 0.9) -> int | None:
    """Examples needed to show that a harmless change is within the margin; None where no number suffices.

    `spread` is the variance of one example's change, for accuracy the flip rate. Rough below about 200.
    """
    z = float(stats.norm.ppf(confidence) + stats.norm.ppf(power))
    return _whole_number(z**2 * spread, margin**2)


def samples_needed_without_flips(margin: float, confidence: float) -> int | None:
    """Examples with which not even a single flip would show that accuracy is within the margin."""
    z = float(stats.norm.ppf(confidence))
    return _whole_number(max(0.0, z**2 * (1 - margin)), margin)


def _whole_number(share: float, of: float) -> int | None:
    """The quotient rounded up; None where it is more than anyone will ever measure."""
    return math.ceil(share / of) if share < MOST_SAMPLES * of else None
