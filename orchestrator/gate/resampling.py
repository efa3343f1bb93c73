"""Pure. BCa by drawn resamples, of any statistic of counted units; also in the far tails, of which plain draws know nothing.

There half of the draws are plain, half are tilted by the units' influence until what is asked for is usual among them, and
each is weighed by how likely plain drawing was to find it. Sources: Johns 1988, JASA 83, 709-714 (tilted resamples);
Hesterberg 1995, Technometrics 37, 185-194 (mixed with plain ones, no weight is ever above 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import optimize, special

from orchestrator.gate.bootstrap import bca_level, from_normal, skewness
from orchestrator.gate.statistics import Floats

RESAMPLES = 10_000
ENOUGH = 100
"""Plain draws beyond a value or a quantile, with fewer of which tilted ones are drawn too."""
_COUNTS_AT_ONCE = 4_000_000
_REACH = 0.9
"""How far tilting goes at most, of the way to drawing the most influential unit alone."""
_FARTHEST = 2.0**20
_ROUNDING = 1e-12
_RAREST = 1e-300

Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Resamples:
    """The bootstrap distribution of a statistic; equal units are one, drawn as often as there are of them."""

    statistic: Statistic
    """Counts [draws, units] -> values [draws]."""
    times: Floats
    """[units]: how many there are of each."""
    influence: Floats
    """[units]: by how much the statistic falls without one of each (the jackknife's)."""
    observed: float
    rng: np.random.Generator

    @property
    def plain(self) -> Floats:
        """The statistic of resamples as they come."""
        return self._plain[0]

    def end(self, z: float) -> float | None:
        """The end of the BCa interval that lies z standard normal deviations out; None where no resample can tell."""
        level = bca_level(self._bias, self._acceleration, z)
        return None if level is None else self.quantile(level)

    def p_value(self) -> float:
        """One-sided: the level at which that interval does not reach down to 0."""
        if not math.isfinite(self._bias):
            return 1.0
        step = self.z(0.0) - self._bias
        room = 1 + self._acceleration * step
        return from_normal(step / room - self._bias if room > 0 else step, self._size)

    def z(self, value: float) -> float:
        """Normal quantile of the chance that a resample gives no more than `value`, or than the most extreme that was drawn."""
        share = float((self.plain <= value).mean())
        if min(share, 1 - share) * RESAMPLES >= ENOUGH:
            return float(special.ndtri(share))
        values, weights = self._drawn_around(value)
        is_low = value < self.observed
        beyond = (values <= value) == is_low
        if not beyond.any():
            beyond = values == (values.min() if is_low else values.max())
        tail = float(special.ndtri(np.clip(weights[beyond].sum(), _RAREST, 1.0)))
        return tail if is_low else -tail

    def quantile(self, z: float) -> float:
        """The value below which a resample lies with the chance that a normal deviate lies below z."""
        tail = float(special.ndtr(-abs(z)))
        if tail * RESAMPLES >= ENOUGH:
            return float(np.quantile(self.plain, float(special.ndtr(z))))
        values, weights = self._drawn_around(self.observed + z * float(self.plain.std()))
        outermost = np.argsort(values if z < 0 else -values, kind="stable")
        place = int(np.searchsorted(np.cumsum(weights[outermost]), tail))
        return float(values[outermost[min(place, len(outermost) - 1)]])

    @cached_property
    def _plain(self) -> tuple[Floats, Floats]:
        return self._drawn(self._shares)

    @cached_property
    def _bias(self) -> float:
        below = float((self.plain < self.observed).mean() + (self.plain <= self.observed).mean()) / 2
        return float(special.ndtri(below))

    @cached_property
    def _acceleration(self) -> float:
        of_each = np.repeat(self.influence, self.times.astype(np.intp))
        return skewness(of_each) / (6 * math.sqrt(self._size))

    @property
    def _size(self) -> int:
        return int(self.times.sum())

    @property
    def _shares(self) -> Floats:
        shares: Floats = self.times / self.times.sum()
        return shares

    @cached_property
    def _centred(self) -> Floats:
        centred: Floats = self.influence - float(self._shares @ self.influence)
        return centred

    def _drawn_around(self, value: float) -> tuple[Floats, Floats]:
        """The statistic of plain resamples and of such as tend to a value, and what each counts among plain ones."""
        tilt = _tilt(self._shares, self._centred, (value - self.observed) / self._size)
        tilted, scale = _tilted(self._shares, self._centred, tilt)
        pairs = self._plain, self._drawn(tilted)
        values, moved = (np.concatenate(both) for both in zip(*pairs, strict=True))
        return values, _weights(tilt * moved - self._size * scale)

    def _drawn(self, shares: Floats) -> tuple[Floats, Floats]:
        """The statistic of each resample, and the sum of its units' influence."""
        chunk, values, moved = max(1, _COUNTS_AT_ONCE // len(shares)), [], []
        for start in range(0, RESAMPLES, chunk):
            drawn = self.rng.multinomial(self._size, shares, size=min(chunk, RESAMPLES - start))
            counts = drawn.astype(np.float64)
            values.append(self.statistic(counts))
            moved.append(counts @ self._centred)
        return np.concatenate(values), np.concatenate(moved)


def exchange_p(
    statistic: Statistic, times: Floats, effects: Floats, observed: float, rng: np.random.Generator
) -> float:
    """One-sided permutation test: the chance of at least the observed where each unit's two answers change places evenly.

    `statistic` takes how many of each unit are exchanged [draws, units]; `effects` [units] is by how much it falls where one is.
    """

    def drawn(chances: Floats) -> Floats:
        return rng.binomial(times.astype(np.intp), chances, size=(RESAMPLES, len(times))).astype(np.float64)

    plain = drawn(np.full(len(times), 0.5))
    as_large = int((statistic(plain) >= observed - _ROUNDING).sum())
    if as_large >= ENOUGH:
        return (1 + as_large) / (1 + RESAMPLES)
    odds = -_exchange_tilt(times, effects) * effects
    exchanged = np.concatenate([plain, drawn(special.expit(odds))])
    likelier = exchanged @ special.log_expit(odds) + (times - exchanged) @ special.log_expit(-odds)
    likelier += float(times.sum()) * math.log(2)
    weights = _weights(likelier)
    return min(1.0, float(weights[statistic(exchanged) >= observed - _ROUNDING].sum()))


def _weights(likelier: Floats) -> Floats:
    """What each draw counts, of which half are plain: `likelier` is the logarithm of how much more so tilted drawing finds it."""
    weights: Floats = special.expit(-likelier) / RESAMPLES
    return weights


def _tilt(shares: Floats, centred: Floats, mean: float) -> float:
    """How strongly shares must favour influence for the mean influence to be so, or nearly where none reaches so far."""
    if not centred.any():
        return 0.0
    target = float(np.clip(mean, _REACH * centred.min(), _REACH * centred.max()))
    unit = float(np.abs(centred).max())

    def beyond(tilt: float) -> float:
        return float(_tilted(shares, centred, tilt / unit)[0] @ centred) - target

    return _root(beyond, math.copysign(1.0, target)) / unit


def _tilted(shares: Floats, centred: Floats, tilt: float) -> tuple[Floats, float]:
    """Shares times exp(tilt influence), and the logarithm of their sum."""
    product = tilt * centred
    top = float(product.max())
    raised = shares * np.exp(product - top)
    return raised / raised.sum(), top + math.log(float(raised.sum()))


def _exchange_tilt(times: Floats, effects: Floats) -> float:
    """How strongly units must stay as they are for exchanges to take hardly anything from the statistic."""
    sizes = np.abs(effects[effects != 0])
    if not len(sizes) or float(times @ effects) <= 0:
        return 0.0
    unit, target = float(sizes.max()), float(sizes.min()) / 2

    def beyond(tilt: float) -> float:
        return target - float((times * effects) @ special.expit(-tilt / unit * effects))

    return _root(beyond, 1.0) / unit


def _root(rising: Callable[[float], float], step: float) -> float:
    """Where a rising function passes 0 on the side of `step`, looked for in steps that double; 0 where it does not."""
    if rising(0.0) * step >= 0:
        return 0.0
    far = step
    while rising(far) * step < 0 and abs(far) < _FARTHEST:
        far *= 2
    return far if rising(far) * step < 0 else float(optimize.brentq(rising, 0.0, far))
