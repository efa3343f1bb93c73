"""Pure. Slots: the times on the wall at which a fleet's nights begin, each exactly once, in any zone and any year."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim

from orchestrator.specs.nights import DAYS, ScheduleSpec

DAY = timedelta(days=1)
LONGEST_GAP = timedelta(hours=24)
"""Where a place changes sides of the date line a whole day does not come; nor do its slots."""
HORIZON_DAYS = 9 * 366  # 29 February comes again after eight years at most
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One night that is to be."""

    name: str
    """Its time on the wall, such as 2026-11-22T0100; sorts by time."""
    begins: float
    """Seconds since the epoch."""
    ends: float
    """After which a night of this slot starts nothing more."""
    next_begins: float
    """When the slot after it begins."""


def latest(schedule: ScheduleSpec, at: float) -> Slot | None:
    """The last slot that has begun at this moment; None if none ever did within the calendar's reach."""
    zone = ZoneInfo(schedule.time_zone)
    for wall in _walls(schedule, _local(zone, at) + _unsteady(zone, at), back=True):
        begins = instant(wall, zone)
        if begins is not None and begins <= at:
            return _slot(schedule, zone, wall, begins)
    return None


def following(schedule: ScheduleSpec, at: float) -> Slot | None:
    """The first slot that begins after this moment."""
    zone = ZoneInfo(schedule.time_zone)
    found = _following(schedule, zone, at)
    return _slot(schedule, zone, *found) if found else None


@lru_cache(maxsize=4096)  # a night asks about the same few walls again and again
def instant(wall: datetime, zone: ZoneInfo) -> float | None:
    """Seconds since the epoch at which a clock in the zone first shows this time.

    The end of the gap where it never does; None where that whole day never comes.
    """
    early = wall.replace(tzinfo=zone, fold=1)
    late = wall.replace(tzinfo=zone, fold=0)
    before, after = late.utcoffset(), early.utcoffset()
    assert before is not None
    assert after is not None
    if after <= before:
        return late.timestamp()
    if after - before >= LONGEST_GAP:
        return None
    return _change_between(zone, early.timestamp(), late.timestamp())


def _change_between(zone: ZoneInfo, low: float, high: float) -> float:
    """The second at which the zone's offset changes, after `low` and not after `high`."""
    old = _offset(zone, low)
    first, last = int(low), int(high)
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(zone, middle) == old:
            first = middle
        else:
            last = middle
    return float(last)


def _following(schedule: ScheduleSpec, zone: ZoneInfo, at: float) -> tuple[datetime, float] | None:
    """The wall time and the moment of the first slot after `at`; of several at one moment, the last."""
    found: tuple[datetime, float] | None = None
    for wall in _walls(schedule, _local(zone, at) - _unsteady(zone, at), back=False):
        begins = instant(wall, zone)
        if begins is None or begins <= at:
            continue
        if found is not None and begins > found[1]:
            return found
        found = wall, begins
    return found


@lru_cache(maxsize=1024)
def _slot(schedule: ScheduleSpec, zone: ZoneInfo, wall: datetime, begins: float) -> Slot:
    after = _following(schedule, zone, begins)
    next_begins = after[1] if after else begins + HORIZON_DAYS * 86_400.0
    ends = next_begins if schedule.window is None else min(begins + schedule.window, next_begins)
    return Slot(name=f"{wall:%Y-%m-%dT%H%M}", begins=begins, ends=ends, next_begins=next_begins)


def _walls(schedule: ScheduleSpec, start: datetime, *, back: bool) -> Iterator[datetime]:
    """Times on the wall from `start` on, itself included, forth or back, whether or not the clock of a zone shows them."""
    if schedule.cron:
        edge = start.replace(second=0, microsecond=0)
        edge = edge + timedelta(minutes=1) if back else edge - _SECOND
        yield from CronSim(schedule.cron, edge, reverse=back)
        return
    days = _weekdays(schedule.days)
    times = schedule.times[::-1] if back else schedule.times
    date = start.date()
    for _ in range(HORIZON_DAYS):
        if date.weekday() in days:
            for moment in times:
                wall = datetime.combine(date, moment)
                if (wall <= start) if back else (wall >= start):
                    yield wall
        date += -DAY if back else DAY


@lru_cache
def _weekdays(days: tuple[str, ...]) -> frozenset[int]:
    return frozenset(DAYS.index(day) for day in days)


def _unsteady(zone: ZoneInfo, at: float) -> timedelta:
    """How far around a moment the order of wall times may differ from that of moments: not at all where no clock changes."""
    around = {_offset(zone, at + hours * 3600.0) for hours in (-26, 0, 26)}
    return LONGEST_GAP + timedelta(hours=1) if len(around) > 1 else timedelta()


def _local(zone: ZoneInfo, at: float) -> datetime:
    return datetime.fromtimestamp(at, zone).replace(tzinfo=None)


@lru_cache(maxsize=4096)
def _offset(zone: ZoneInfo, at: float) -> timedelta:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    assert offset is not None
    return offset
