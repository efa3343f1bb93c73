"""Pure. What each class of failure is owed: the one owner of retries, since Ray's own are off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.domain import FailureClass


class Action(StrEnum):
    """What happens to a unit after a failure."""

    RETRY = "retry"
    QUARANTINE = "quarantine"
    """Recorded as the model's own fault; not planned again until its key changes or somebody asks."""
    GIVE_UP = "give_up"
    """Failed in this run; the next run tries again."""
    STOP_RUN = "stop_run"
    """Nothing in this run can succeed until a person acts; no unit is charged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """What one failure class is owed."""

    tries: int
    """Attempts in all that end in this class before `then`."""
    delay: float
    """Seconds before the next try, doubled at each one, at most `MAX_DELAY`."""
    then: Action
    alone: bool = False
    """The next try runs the unit in a shard of its own, so that no other unit pays for it."""
    memory_factor: float = 1.0
    """The next try asks for so much more memory."""
    deadline_factor: float = 1.0
    """The next try gets so much more time."""


MAX_DELAY = 300.0

POLICY: Mapping[FailureClass, Owed] = {
    FailureClass.PREEMPTION: Owed(tries=1_000, delay=0.0, then=Action.GIVE_UP),
    FailureClass.INFRASTRUCTURE: Owed(tries=8, delay=1.0, then=Action.GIVE_UP),
    FailureClass.CLUSTER: Owed(tries=1, delay=0.0, then=Action.STOP_RUN),
    FailureClass.STORAGE: Owed(tries=8, delay=2.0, then=Action.GIVE_UP),
    FailureClass.ENVIRONMENT: Owed(tries=3, delay=60.0, then=Action.STOP_RUN),
    FailureClass.MEMORY: Owed(tries=3, delay=0.0, then=Action.QUARANTINE, alone=True, memory_factor=2.0),
    FailureClass.TIMEOUT: Owed(tries=2, delay=0.0, then=Action.GIVE_UP, alone=True, deadline_factor=1.5),
    FailureClass.POISON: Owed(tries=3, delay=0.0, then=Action.QUARANTINE, alone=True, deadline_factor=1.5),
    FailureClass.INTERNAL: Owed(tries=2, delay=0.0, then=Action.GIVE_UP, alone=True),
    FailureClass.BAD_INPUT: Owed(tries=1, delay=0.0, then=Action.QUARANTINE),
    FailureClass.CHANGED: Owed(tries=1, delay=0.0, then=Action.GIVE_UP),
    FailureClass.UPSTREAM: Owed(tries=1, delay=0.0, then=Action.GIVE_UP),
    FailureClass.PERMISSION: Owed(tries=1, delay=0.0, then=Action.STOP_RUN),
}
"""One row a class. A worker that dies without a word is POISON: the unit it ran is tried alone before it is blamed. So does
one that hangs, for it ends itself at its limit; an attempt that is not heard of by its deadline (TIMEOUT) may as well have
waited in a busy cluster's queue, and nobody is blamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do with one unit after one failure, and why."""

    action: Action
    reason: str
    delay: float = 0.0
    alone: bool = False
    memory_factor: float = 1.0
    deadline_factor: float = 1.0


def after(failure_class: FailureClass, failures: Mapping[FailureClass, int], *, was_alone: bool) -> Decision:
    """The decision after a failure; `failures` counts this unit's failures by class, this one included.

    A poisonous shard charges nobody: only a unit that fails alone is counted against itself (`was_alone`).
    """
    owed = POLICY[failure_class]
    count = failures.get(failure_class, 0)
    if owed.alone and not was_alone:
        return Decision(
            action=Action.RETRY,
            reason=f"{failure_class}: to be tried alone, to see whose fault it is",
            alone=True,
            memory_factor=owed.memory_factor,
            deadline_factor=owed.deadline_factor,
        )
    if count >= owed.tries:
        return Decision(action=owed.then, reason=f"{failure_class}: {count} of {owed.tries} tries used")
    return Decision(
        action=Action.RETRY,
        reason=f"{failure_class}: try {count + 1} of {owed.tries}",
        delay=min(MAX_DELAY, owed.delay * 2 ** (count - 1)),
        alone=owed.alone,
        memory_factor=owed.memory_factor,
        deadline_factor=owed.deadline_factor,
    )
