"""Pure. What goes wrong in a simulated night: at which effect on the store, and with which attempt on which node."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

Evil = TypeVar("Evil")


class Site(NamedTuple):
    """One effect: who does what to which object."""

    actor: str
    verb: str
    key: str


class Strike(StrEnum):
    """What befalls an actor at one effect."""

    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"
    AMBIGUOUS = "ambiguous"
    """It is done, and the actor hears nothing."""
    LOST = "lost"
    """It is not done, and the actor hears nothing."""
    REFUSED = "refused"
    DENIED = "denied"
    GARBLED = "garbled"
    """A read that gets half of the bytes."""
    STALE = "stale"
    """A listing that does not know of what is new."""
    PAUSE = "pause"
    """The actor stands still before it, while all others go on."""


class Fate(StrEnum):
    """What befalls an attempt."""

    LOST = "lost"
    """Its node goes; somebody notices after a while."""
    PREEMPTED = "preempted"
    KILLED = "killed"
    """Its process dies without a word."""
    STARVED = "starved"
    """The cluster kills it for its memory."""
    BROKEN = "broken"
    """Its environment cannot be set up."""
    SILENT = "silent"
    """It hangs until it ends itself at its limit."""
    MUTE = "mute"
    """It does all its work, and its report is lost."""
    ZOMBIE = "zombie"
    """It is taken for lost, goes on to its end, and reports then."""
    LATE = "late"
    TWICE = "twice"
    """Its report arrives late, or twice."""
    SLOW = "slow"


class Loss(NamedTuple):
    """A node that goes at a time, and comes back so many seconds later."""

    at: float
    node: int
    seconds: float


class Weather(Protocol):
    """Says of each effect and each attempt, by its number in the night, what befalls it."""

    @property
    def losses(self) -> Sequence[Loss]:
        """Nodes that go, and when."""

    def strike(self, number: int, site: Site) -> Strike | None:
        """What befalls this effect."""

    def fate(self, number: int) -> Fate | None:
        """What befalls this attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """Weather that is written down; none by default."""

    strikes: Mapping[int, Strike] = field(default_factory=dict)
    fates: Mapping[int, Fate] = field(default_factory=dict)
    losses: Sequence[Loss] = ()

    def strike(self, number: int, site: Site) -> Strike | None:
        """What is written."""
        return self.strikes.get(number)

    def fate(self, number: int) -> Fate | None:
        """What is written."""
        return self.fates.get(number)


@dataclass(slots=True, kw_only=True)
class Dice:
    """Weather drawn from a seed; each seed knows only some of the evils, so that none drowns the others."""

    rng: random.Random
    strike_rates: Mapping[Strike, float]
    fate_rates: Mapping[Fate, float]
    losses: Sequence[Loss]

    def strike(self, number: int, site: Site) -> Strike | None:
        """Drawn anew for each effect."""
        return _drawn(self.rng, self.strike_rates)

    def fate(self, number: int) -> Fate | None:
        """Drawn anew for each attempt."""
        return _drawn(self.rng, self.fate_rates)


def dice(rng: random.Random, nodes: int) -> Dice:
    """Random weather over so many nodes."""
    losses = [
        Loss(rng.uniform(0, 200), rng.randrange(nodes), rng.choice((30.0, 300.0, 20_000.0)))
        for _ in range(rng.choice((0, 0, 1, nodes)))
    ]
    return Dice(
        rng=rng,
        strike_rates={strike: rng.choice((0.002, 0.01, 0.05)) for strike in _some(rng, list(Strike))},
        fate_rates={fate: rng.choice((0.02, 0.1, 0.3)) for fate in _some(rng, list(Fate))},
        losses=sorted(losses),
    )


def _some(rng: random.Random, evils: Sequence[Evil]) -> list[Evil]:
    return [evil for evil in evils if rng.random() < 0.3]


def _drawn(rng: random.Random, rates: Mapping[Evil, float]) -> Evil | None:
    at = rng.random()
    for evil, rate in rates.items():
        at -= rate
        if at < 0:
            return evil
    return None
