"""Pure. How little has to be cut so that a measured latency is low enough: few timings, none of them twice.

The amounts of a cut are scaled by one factor. Factors that come to the same sizes once they are rounded are one rung of a
ladder, from the least that can be cut to all that may be. Latency is taken to fall along it and is known not to always:
kernels like some sizes better than smaller ones. So what is found is a rung that is fast enough and whose neighbour below,
where it was timed, is not; it need not be the least cut of all that are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tasks.contract import Finding
from tasks.measuring.timing import Speed

STEPS = 128
"""Factors are whole multiples of 1 / STEPS."""
MOST_TIMINGS = 8
"""One for all that may be cut, and bisection of the other 127."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A rung as it was timed."""

    factor: float
    speed: Speed

    @property
    def ratio(self) -> float:
        """Its latency over the dense model's."""
        return 1 / self.speed.speedup


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a search found."""

    chosen: Timed
    timed: tuple[Timed, ...]
    """All that were, in the order in which they were."""
    limit: float
    broken: tuple[float, ...] = ()
    """Factors with which the model does not run."""

    @property
    def is_met(self) -> bool:
        """Whether the rung that was chosen is fast enough."""
        return self.chosen.ratio <= self.limit


def ladder(sizes_at: Callable[[float], Hashable]) -> tuple[float, ...]:
    """The factors from which on sizes are others than with smaller ones, ascending; sizes as of factor 0 are no rung."""
    found: list[float] = []
    last = sizes_at(0.0)
    for step in range(1, STEPS + 1):
        sizes = sizes_at(step / STEPS)
        if sizes != last:
            found.append(step / STEPS)
            last = sizes
    return tuple(found)


def least_that_will_do(
    rungs: Sequence[float], limit: float, time: Callable[[float], Speed | None]
) -> Search | None:
    """Times the last rung; if it is fast enough, or does not run (`time` gives None), bisects the others.

    A rung that does not run is not met. None if no rung that was tried runs. Errors: ValueError without any rung.
    """
    if not rungs:
        raise ValueError("nothing can be cut, so there is nothing to time")
    timed: list[Timed] = []
    broken: list[float] = []

    def at(index: int) -> Timed | None:
        speed = time(rungs[index])
        if speed is None:
            broken.append(rungs[index])
            return None
        timed.append(Timed(factor=rungs[index], speed=speed))
        return timed[-1]

    low, high = 0, len(rungs) - 1
    chosen = at(high)
    is_met = chosen is not None and chosen.ratio <= limit
    while low < high and (is_met or rungs[-1] in broken):
        middle = (low + high) // 2
        found = at(middle)
        is_fast = found is not None and found.ratio <= limit
        if is_fast or (found is None and not is_met):
            high = middle
        else:
            low = middle + 1
        if found is not None and (is_fast or not is_met):
            chosen, is_met = found, is_fast
    if chosen is None:
        return None
    return Search(chosen=chosen, timed=tuple(timed), limit=limit, broken=tuple(broken))


def findings_of(search: Search) -> Iterator[Finding]:
    """A budget that is missed, cuts with which the model does not run, and sizes that were slower than larger ones by more than their intervals."""
    chosen = search.chosen
    if not search.is_met:
        message = (
            f"all that cut allows and that runs is cut, and a pass takes {chosen.ratio:.3f} of the dense model's time "
            f"({1 / chosen.speed.high:.3f} to {1 / chosen.speed.low:.3f}), and {search.limit:g} was the most"
        )
        yield Finding(kind="budget_missed", subject="latency", message=message)
    if search.broken:
        shares = ", ".join(f"{factor:g}" for factor in search.broken)
        message = f"with {shares} of what cut allows the model does not run, so less is cut"
        yield Finding(kind="does_not_run", subject="latency", message=message)
    in_order = sorted(search.timed, key=lambda timed: timed.factor)
    for larger, smaller in pairwise(in_order):
        if smaller.speed.high < larger.speed.low:
            yield _slower(smaller, f"than with {larger.factor:g} of it ({larger.ratio:.3f})")
    for timed in in_order:
        if timed.speed.high < 1:
            yield _slower(timed, "than the dense model")


def _slower(timed: Timed, than: str) -> Finding:
    message = (
        f"with {timed.factor:g} of what cut allows a pass takes {timed.ratio:.3f} of the dense model's time, longer {than}: "
        "a smaller model need not be a faster one, so less may have been enough; round_to keeps sizes that hardware likes"
    )
    return Finding(kind="slower_when_smaller", subject="latency", message=message)
