"""Pure. What a trigger finds to do: the slot, the records so far and the moment in, a decision with its reason out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.nights.slots import Slot, following, latest
from orchestrator.specs.nights import ScheduleSpec

EARLY_SECONDS = 120.0
"""A trigger whose clock is so far ahead of the slot waits for it; it would otherwise find the last slot done and go."""
MOST_MISSED = 400  # slots that are named; an outage of a year of nights


class Duty(StrEnum):
    """What is to be done."""

    RUN = "run"
    WAIT = "wait"
    DONE = "done"
    MISSED = "missed"
    GIVEN_UP = "given up"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A decision about the slot at hand."""

    duty: Duty
    reason: str
    slot: Slot | None = None
    until: float = 0.0
    """RUN: after which nothing more is started; WAIT: when the slot begins."""
    missed: tuple[str, ...] = ()
    """Names of the slots since the last closed one for which no night was run; their work is this night's."""


def due(
    schedule: ScheduleSpec, at: float, closed: Collection[str], tries: Collection[str] = (), refused: int = 0
) -> Due:
    """What a trigger at this moment is to do.

    `closed`: names of the slots that are over and done with; `tries`: of the slot at hand, one for each time that its
    night was begun; in `refused` of them it was sent away by something that may be over at the next trigger, such as a
    registry that does not answer: as long as the window is open they do not count.
    """
    coming = following(schedule, at)
    if coming is not None and coming.begins - at <= EARLY_SECONDS:
        return Due(
            duty=Duty.WAIT, slot=coming, until=coming.begins, reason=f"slot {coming.name} is about to begin"
        )
    slot = latest(schedule, at)
    if slot is None:
        return Due(duty=Duty.NONE, reason="no slot has begun yet")
    if slot.name in closed:
        return Due(duty=Duty.DONE, slot=slot, reason=f"the night of slot {slot.name} is over")
    missed = missed_before(schedule, slot, closed)
    if len(tries) - refused >= schedule.tries:
        reason = f"slot {slot.name} was tried {len(tries)} times without coming to an end"
        return Due(duty=Duty.GIVEN_UP, slot=slot, missed=missed, reason=reason)
    if at < slot.ends:
        word = "begins" if not tries else f"goes on, try {len(tries) + 1}"
        return Due(
            duty=Duty.RUN,
            slot=slot,
            until=slot.ends,
            missed=missed,
            reason=f"the night of slot {slot.name} {word}",
        )
    if schedule.catch_up == "one" and schedule.window is not None:
        until = min(at + schedule.window, slot.next_begins)
        return Due(
            duty=Duty.RUN, slot=slot, until=until, missed=missed, reason=f"slot {slot.name} is caught up"
        )
    reason = f"the window of slot {slot.name} has passed without a night that came to its end; the next one does its work"
    duty = Duty.GIVEN_UP if tries else Duty.MISSED  # who began says how it ended
    return Due(duty=duty, slot=slot, missed=missed, reason=reason)


def overdue(schedule: ScheduleSpec, since: float, at: float) -> float:
    """When the first slot after `since` began, seconds since the epoch; 0 if none has by now."""
    slot = following(schedule, since)
    return slot.begins if slot is not None and slot.begins <= at else 0.0


def missed_before(schedule: ScheduleSpec, slot: Slot, closed: Collection[str]) -> tuple[str, ...]:
    """The slots after the last closed one and before this one; none where no night was ever closed."""
    earlier = [name for name in closed if name < slot.name]
    if not earlier:
        return ()
    last = max(earlier)
    found: list[str] = []
    current = latest(schedule, slot.begins - 1)
    while current is not None and current.name > last and len(found) < MOST_MISSED:
        found.append(current.name)
        current = latest(schedule, current.begins - 1)
    return tuple(reversed(found))
