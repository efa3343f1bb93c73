"""Pure. Which of a text's tokens a language model is asked for, and at which positions it answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOT_ASKED = -100
"""Stands in the targets where no prediction counts."""
MASKED_SHARE = 0.15
"""Of a text's ordinary tokens; that of Devlin et al., arXiv 1810.04805, section 3.1."""

Ids = NDArray[np.int64]


def next_tokens(ids: Ids, given: int = 1) -> Ids:
    """Each position's target is the token behind it; the first `given` tokens are asked for nowhere."""
    targets = np.full_like(ids, NOT_ASKED)
    targets[given - 1 : -1] = ids[given:]
    return targets


def masked_tokens(ids: Ids, is_special: NDArray[np.bool_], mask: int, seed: int) -> tuple[Ids, Ids]:
    """(the text with a share of its ordinary tokens behind the mask token, those tokens as targets where they stood).

    At least one is masked if there is any; which ones depends on the seed and on how many there are. Always the mask and never
    another token: what the paper does beside that is for training.
    """
    ordinary = np.flatnonzero(~is_special)
    count = max(1, round(MASKED_SHARE * ordinary.size))
    chosen = np.random.default_rng(seed).permutation(ordinary)[:count]
    text, targets = ids.copy(), np.full_like(ids, NOT_ASKED)
    text[chosen] = mask
    targets[chosen] = ids[chosen]
    return text, targets
