"""All slots of a stretch of time, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.nights.slots import Slot, following
from orchestrator.specs.nights import ScheduleSpec


def between(schedule: ScheduleSpec, after: float, until: float) -> Iterator[Slot]:
    """Those that begin after `after` and not after `until`."""
    slot = following(schedule, after)
    while slot is not None and slot.begins <= until:
        yield slot
        slot = following(schedule, slot.begins)
