"""Pure. Macro F1 of a classifier, and how much of it a compressed one loses, with resamples of the examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from orchestrator.statistics import RESAMPLES, Floats

_COUNTS_AT_ONCE = 4_000_000


def macro_f1(labels: Floats, predictions: Floats) -> float:
    """The mean F1 of the classes that are a label or a prediction of some example.

    A class that is never right counts 0, one that does not occur counts not at all: `f1_score(average="macro")` of
    scikit-learn with zero_division=0.
    """
    classes, codes = np.unique(np.concatenate([labels, predictions]), return_inverse=True)
    asked, given = codes[: len(labels)], codes[len(labels) :]
    ones = np.ones((1, len(labels)))
    return float(_macro(ones, asked, given, len(classes))[0])


def f1_drops(labels: Floats, dense: Floats, pruned: Floats, rng: np.random.Generator) -> Floats:
    """What the dense model's macro F1 is above the compressed one's, in 2,000 resamples of the examples; ascending.

    Examples that agree in label and both predictions are drawn together, as one count.
    """
    size = len(labels)
    classes, codes = np.unique(np.concatenate([labels, dense, pruned]), return_inverse=True)
    cells, counts = np.unique(codes.reshape(3, size), axis=1, return_counts=True)
    asked, before, after = cells
    chunk = max(1, _COUNTS_AT_ONCE // max(len(counts), len(classes)))
    drops = []
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.multinomial(size, counts / size, size=min(chunk, RESAMPLES - start)).astype(np.float64)
        drops.append(_macro(drawn, asked, before, len(classes)) - _macro(drawn, asked, after, len(classes)))
    return np.sort(np.concatenate(drops))


def _macro(counts: Floats, asked: NDArray[np.intp], given: NDArray[np.intp], classes: int) -> Floats:
    """Macro F1 of each row of counts [draws, cells]; `asked` and `given` are the cells' label and prediction."""

    def by_class(codes: NDArray[np.intp], weights: Floats) -> Floats:
        cells = np.arange(len(codes))
        member = sparse.csr_array((weights, (cells, codes)), shape=(len(codes), classes))
        summed: Floats = counts @ member
        return summed

    every = np.ones(len(asked))
    right = by_class(asked, (asked == given).astype(np.float64))
    total = by_class(asked, every) + by_class(given, every)
    scores = np.divide(2 * right, total, out=np.zeros_like(total), where=total > 0)
    means: Floats = scores.sum(axis=1) / (total > 0).sum(axis=1)
    return means
