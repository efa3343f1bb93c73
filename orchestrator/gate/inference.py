"""Pure. From the paired outcomes of one slice to its evidence: interval, upper bound of the drop, test, needed examples.

What hangs together (the sentences of a document, the recordings of a speaker) is added up first and drawn together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from orchestrator.gate.bootstrap import bca_end, bca_p, widened
from orchestrator.gate.statistics import (
    Floats,
    drop_bounds,
    mcnemar_p,
    share_bound,
    share_p,
    sign_flip_p,
    tango_interval,
)

Groups = NDArray[np.intp]

BOOTSTRAP_FROM = 200
"""Independent units from which the BCa bootstrap tests; with fewer, signs are flipped."""
FEW_CHANGES = 20
"""Units that changed, below which no bootstrap of counts is believed when it claims more than if none had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How sure one slice's answer has to be, and what its examples are."""

    confidence: float
    """Of the two-sided interval."""
    alpha: float
    """Error of the one-sided bound."""
    margin: float | None
    """The drop that its gate allows, if it has one."""
    rng: np.random.Generator
    clusters: Groups | None = None
    """The number of each example's cluster, from 0 without gaps; None if all examples are independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the outcomes of one slice say of its drop; None is what they do not say."""

    units: int
    """Independent ones: examples or clusters."""
    changed: int
    """Units whose result is another; fewer than a test needs can never show harm."""
    low: float | None = None
    high: float | None = None
    bound: float | None = None
    p_value: float | None = None
    """One-sided: how likely at least this drop is where nothing changed; of fidelity: where the margin is just kept."""
    spread: float | None = None
    """Variance of one unit's change, for planning sample sizes; the flip rate of answers."""
    worse: int | None = None
    better: int | None = None


def of_answers(was_right: Floats, is_right: Floats, asked: Asked) -> Evidence:
    """Accuracy: exact McNemar and Tango; clusters of answers are added up, and flipped or drawn together."""
    samples = len(was_right)
    worse, better = int((was_right > is_right).sum()), int((was_right < is_right).sum())
    if asked.clusters is not None:
        found = _counted(of_ratio(was_right - is_right, np.ones(samples), asked), asked)
        return replace(found, worse=worse, better=better)
    low, high = tango_interval(worse, better, samples, asked.confidence)
    return Evidence(
        units=samples,
        changed=worse + better,
        low=low,
        high=high,
        bound=float(drop_bounds(worse, better, samples, asked.alpha)),
        p_value=float(mcnemar_p(worse, better)),
        spread=(worse + better) / samples,
        worse=worse,
        better=better,
    )


def of_changes(changed: Floats, predictions: Floats, asked: Asked) -> Evidence:
    """Fidelity: the share of predictions that changed, each for the worse; harm is only what is beyond the margin."""
    samples, count, margin = len(changed), int(changed.sum()), asked.margin
    if asked.clusters is not None or not bool((predictions == 1).all()):
        beyond = None if margin is None else of_ratio(changed - margin * predictions, predictions, asked)
        found = _counted(of_ratio(changed, predictions, asked), asked)
        return replace(found, low=_above(0.0, found.low), p_value=beyond.p_value if beyond else None)
    side = (1 - asked.confidence) / 2
    return Evidence(
        units=samples,
        changed=count,
        low=1 - share_bound(samples - count, samples, side),
        high=share_bound(count, samples, side),
        bound=share_bound(count, samples, asked.alpha),
        p_value=None if margin is None else share_p(count, samples, margin),
        spread=count / samples,
        worse=count,
        better=0,
    )


def of_distances(distances: Floats, asked: Asked) -> Evidence:
    """A mean of what is never negative, such as the distance of embeddings; harm is only what is beyond the margin."""
    ones = np.ones(len(distances))
    beyond = None if asked.margin is None else of_ratio(distances - asked.margin, ones, asked)
    found = _counted(of_ratio(distances, ones, asked), asked)
    return replace(found, low=_above(0.0, found.low), p_value=beyond.p_value if beyond else None)


def of_scores(was: Floats, now: Floats, asked: Asked) -> Evidence:
    """A mean that falls with harm; scores from 0 to 1 are at most counts, and so is what few changes say of them."""
    found = of_ratio(was - now, np.ones(len(was)), asked)
    is_share = min(was.min(), now.min()) >= 0 and max(was.max(), now.max()) <= 1
    return _counted(found, asked) if is_share else found


def of_ratio(numerator: Floats, denominator: Floats, asked: Asked) -> Evidence:
    """A ratio of sums over the slice, such as the loss's change over the tokens: BCa, and signs flipped below 200 units."""
    top, bottom = summed(numerator, asked.clusters), summed(denominator, asked.clusters)
    units, changed = len(top), int(np.count_nonzero(top))
    if units < 2 or bottom.sum() <= 0:
        return Evidence(units=units, changed=changed, p_value=1.0)
    side = widened((1 - asked.confidence) / 2, units)
    share = (top - bottom * (top.sum() / bottom.sum())) / bottom.mean()
    return Evidence(
        units=units,
        changed=changed,
        low=bca_end(top, bottom, -side),
        high=bca_end(top, bottom, side),
        bound=bca_end(top, bottom, widened(asked.alpha, units)),
        p_value=sign_flip_p(top, asked.rng) if units < BOOTSTRAP_FROM else bca_p(top),
        spread=float((share**2).mean()),
    )


def summed(values: Floats, clusters: Groups | None) -> Floats:
    """The sums over clusters, or the values themselves."""
    return values if clusters is None else np.bincount(clusters, weights=values).astype(np.float64)


def unchanged_bound(units: int, alpha: float) -> float:
    """The bound of a drop where nothing changed."""
    return float(drop_bounds(0, 0, units, alpha))


def _counted(found: Evidence, asked: Asked) -> Evidence:
    """Evidence of counts: where few units changed a bootstrap claims more than is known, and where none did, certainty."""
    if found.units < 2 or found.changed >= FEW_CHANGES:
        return found
    bound = _above(unchanged_bound(found.units, asked.alpha), found.bound)
    if found.changed:
        return replace(found, bound=bound)
    side = unchanged_bound(found.units, (1 - asked.confidence) / 2)
    return replace(found, low=-side, high=side, bound=bound)


def _above(least: float, value: float | None) -> float | None:
    return None if value is None else max(least, value)
