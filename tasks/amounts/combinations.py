"""Pure. How much of each kind of unit goes where several kinds are cut: all combinations are counted, and the best one is taken.

What is counted (parameters, flops, bytes) is a sum of products: a weight shrinks with every kind that holds a dimension of it.
So kinds cannot be chosen one by one, and there are so few of them that all their combinations can be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MOST_COMBINATIONS = 300_000
"""Of levels; where there were more, every second level of the kind with most of them is left out, as often as it takes."""
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What a model counts, by its parts; parts that shrink alike are one."""

    amounts: Floats
    """[parts]: of the dense model."""
    stays: tuple[Floats, ...]
    """For each kind of unit [parts, levels]: the share of the part that is left."""

    @property
    def dense(self) -> float:
        return float(self.amounts.sum())

    def left(self, combinations: Indices) -> Floats:
        """What is left with each of the combinations [combinations, kinds] of levels."""
        total = np.zeros(len(combinations))
        for part, amount in enumerate(self.amounts):
            shares = [stays[part, combinations[:, kind]] for kind, stays in enumerate(self.stays)]
            total += amount * np.prod(shares, axis=0)
        return total


def counted(amounts: Mapping[str, float], stays: Sequence[Mapping[str, Sequence[float]]]) -> Counted:
    """Parts by name -> parts put together where every kind leaves as much of them at every level."""
    together: dict[tuple[tuple[float, ...], ...], float] = {}
    for name, amount in amounts.items():
        line = tuple(tuple(of_kind[name]) for of_kind in stays)
        together[line] = together.get(line, 0.0) + amount
    lines = list(together)
    return Counted(
        amounts=np.array(list(together.values()), dtype=np.float64),
        stays=tuple(
            np.array([line[kind] for line in lines], dtype=np.float64).reshape(len(lines), -1)
            for kind in range(len(stays))
        ),
    )


def combinations_of(levels: Sequence[int]) -> Indices:
    """All combinations [combinations, kinds] of so many levels of each kind; of too many some, the first and last level always."""
    kept = [np.arange(count) for count in levels]
    while prod(len(line) for line in kept) > MOST_COMBINATIONS:
        longest = max(range(len(kept)), key=lambda kind: len(kept[kind]))
        line = kept[longest]
        kept[longest] = np.union1d(line[::2], line[-1:])
    return np.array(list(product(*kept)), dtype=np.intp).reshape(-1, len(levels))


def for_budget(left: Floats, increase: Floats, most: float) -> int:
    """The combination of least loss of which no more is left than that; where none will do, the one of which least is.

    Of equal losses the one of which most is left.
    """
    fits = left <= most * (1 + _ROUNDING)
    if not fits.any():
        return int(np.lexsort((increase, left))[0])
    able = np.flatnonzero(fits)
    return int(able[np.lexsort((-left[able], increase[able]))[0]])


def for_quality(left: Floats, increase: Floats, most: float) -> int:
    """The combination of which least is left, of those whose loss rises by no more than that; the first has a rise of 0."""
    able = np.flatnonzero(increase <= most)
    return int(able[np.lexsort((increase[able], left[able]))[0]])
