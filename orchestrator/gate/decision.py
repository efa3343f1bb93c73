"""Pure. The gate's decision, on whole arrays of models and slices at once: the numbers of each slice in, its answer out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from orchestrator.domain import Judgement
from orchestrator.gate.statistics import holm

Codes = NDArray[np.int8]

JUDGEMENTS = (Judgement.PASS, Judgement.INCONCLUSIVE, Judgement.BLOCK)
"""By code, the least severe first: the largest code of a model's slices is the model's."""
PASS, INCONCLUSIVE, BLOCK = range(3)
ROUNDING = 1e-12  # a drop that exceeds its margin by less is a rounding of the same number


def decide(
    p_values: ArrayLike, drops: ArrayLike, bounds: ArrayLike, margins: ArrayLike, alpha: float
) -> Codes:
    """The code of each slice's judgement; the last axis is one family: the slices of one model, the whole among them.

    BLOCK: Holm rejects that there is no harm, and the drop is above its margin. PASS: the upper bound of the drop is
    below the margin. INCONCLUSIVE otherwise, and wherever a number is NaN.
    """
    drop, bound, margin = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (drops, bounds, margins)))
    with np.errstate(invalid="ignore"):
        harmed = (drop > 0) & (drop > margin + ROUNDING) & holm(p_values, alpha)
        passed = bound < margin
    codes: Codes = np.where(harmed, BLOCK, np.where(passed, PASS, INCONCLUSIVE)).astype(np.int8)
    return codes
