"""Effects. What a trigger finds to do at this moment, by the store's records: of the slots that are over, the tries, the lease."""

from __future__ import annotations

from orchestrator.leases import holder
from orchestrator.nights import nightrecords
from orchestrator.nights.due import Due, Duty, due
from orchestrator.ports import ObjectStore
from orchestrator.specs.nights import ScheduleSpec


def look(store: ObjectStore, fleet: str, schedule: ScheduleSpec, at: float) -> Due:
    """The decision of `due` about the fleet's slots, as the store has them. Errors: those of the store."""
    closed = nightrecords.closed_slots(store, fleet)
    decision = due(schedule, at, closed)
    if decision.duty not in (Duty.RUN, Duty.MISSED) or decision.slot is None:
        return decision
    slot = decision.slot.name
    tries = nightrecords.tries_of(store, fleet, slot)
    return due(schedule, at, closed, tries, nightrecords.refused_of(store, fleet, slot, tries))


def has_work(store: ObjectStore, fleet: str, decision: Due, at: float) -> tuple[bool, str]:
    """Whether a trigger at this moment should be given a cluster, and why; one whose night another works on should not."""
    if decision.duty not in (Duty.RUN, Duty.WAIT, Duty.GIVEN_UP):
        return False, decision.reason
    there = holder(store, lease_name(fleet))
    if there is not None and there.owner and there.expires > at:
        return False, f"{decision.reason}, and {there.owner} works on it"
    return True, decision.reason


def lease_name(fleet: str) -> str:
    """The lease of the fleet's nights."""
    return f"nightly-{fleet}"
