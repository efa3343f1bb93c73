"""Simulated models for the quality gate, many at once, judged by the product's own decision."""

from __future__ import annotations

import numpy as np

from orchestrator.gate.decision import BLOCK, PASS, decide
from orchestrator.gate.inference import Asked, of_answers
from orchestrator.gate.statistics import drop_bounds, mcnemar_p

ALPHA = 0.05
FLIPS = 0.03
"""Right to wrong, and as often wrong to right, where nothing is harmed."""


def flips(rng, models, drops, samples, rate=FLIPS):
    """Counts [models, slices] of answers that turned wrong and right, where slice g truly loses drops[g]."""
    worse, better = [], []
    for drop in drops:
        drawn = rng.multinomial(samples, [rate + drop, rate, 1 - 2 * rate - drop], size=models)
        worse.append(drawn[:, 0])
        better.append(drawn[:, 1])
    return np.stack(worse, axis=1), np.stack(better, axis=1)


def with_whole(worse, better, samples):
    """The same with one more column for all examples together, and the examples of each column."""
    sizes = np.full(worse.shape[1] + 1, samples)
    sizes[-1] = samples * worse.shape[1]
    return (*(np.column_stack([part, part.sum(axis=1)]) for part in (worse, better)), sizes)


def codes_of(worse, better, samples, margins, alpha=ALPHA):
    """The decision on counts [models, slices]; equal counts are bounded once."""
    sizes = np.broadcast_to(samples, worse.shape)
    lines, inverse = np.unique(
        np.stack([worse.ravel(), better.ravel(), sizes.ravel()]), axis=1, return_inverse=True
    )
    p_values = mcnemar_p(lines[0], lines[1])[inverse].reshape(worse.shape)
    bounds = drop_bounds(*lines, alpha)[inverse].reshape(worse.shape)
    return decide(p_values, (worse - better) / sizes, bounds, margins, alpha)


def blocked(codes):
    """Share of the models that are blocked."""
    return float((codes == BLOCK).any(axis=1).mean())


def passed(codes):
    """Share of the models that pass."""
    return float((codes == PASS).all(axis=1).mean())


def clustered_models(rng, models, slices, clusters, size, drop=0.0, margin=0.0):
    """Codes [models, slices] by clusters, and by McNemar as if answers were independent: documents flip as one.

    Of each document a tenth turns wrong or right with most of its answers.
    """
    rows, naive = [], []
    for _ in range(models):
        evidence = []
        for _ in range(slices):
            turned = rng.choice([-1, 0, 1], size=clusters, p=[0.05, 0.9 - drop / 0.8, 0.05 + drop / 0.8])
            moved = (rng.random((clusters, size)) < 0.8) * turned[:, None]
            was = np.where(moved > 0, 1.0, np.where(moved < 0, 0.0, rng.random((clusters, size)) < 0.8))
            now = was - moved
            asked = Asked(
                confidence=0.95, alpha=ALPHA, margin=margin, rng=rng, clusters=np.repeat(np.arange(clusters), size)
            )  # fmt: skip
            found = of_answers(was.ravel(), now.ravel(), asked)
            bound = np.nan if found.bound is None else found.bound
            evidence.append((found.p_value, float((was - now).mean()), bound, found.worse, found.better))
        p, drops, bounds, worse, better = np.array(evidence).T
        rows.append(decide(p, drops, bounds, margin, ALPHA))
        naive.append(decide(mcnemar_p(worse, better), drops, bounds, margin, ALPHA))
    return np.array(rows), np.array(naive)
