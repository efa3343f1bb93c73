"""Pure. The hours in which a run may start work: text -> window -> until when, on a day of any length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from orchestrator.errors import UsageError

_TEXT = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)(?:\s+(\S+))?\Z")


@dataclass(frozen=True, slots=True)
class Window:
    """Wall-clock times of every day; one that ends at or before it begins ends on the next day."""

    begin: time
    end: time
    zone: tzinfo | None
    """None: that of the machine."""

    def __str__(self) -> str:
        zone = getattr(self.zone, "key", "")
        return f"{self.begin:%H:%M}-{self.end:%H:%M}{f' {zone}' if zone else ''}"


def parse_window(text: str, here: tzinfo | None) -> Window:
    """`01:00-06:00`, or `22:00-06:00 Europe/Berlin`; `here` is the zone where none is named. Errors: UsageError."""
    match = _TEXT.match(text.strip())
    if not match:
        raise UsageError(f"{text!r} is no window; write 01:00-06:00, or 22:00-06:00 Europe/Berlin")
    try:
        begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
    except ValueError as error:
        raise UsageError(f"{text!r} is no window: {error}") from None
    if begin == end:
        raise UsageError(f"{text!r} is no window: it begins when it ends")
    return Window(begin, end, _zone(match[5]) if match[5] else here)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAt:
    """A moment after which nothing more is started, and why."""

    at: float
    reason: str


def first_stop(window: Window | None, budget_hours: float | None, at: float) -> StopAt | None:
    """What ends a run that begins at this moment first: its window or its budget; at once, if the window is closed."""
    stops = []
    if window is not None:
        end = open_until(window, at)
        reason = f"the window {window} {'is not open' if end is None else 'has ended'}"
        stops.append(StopAt(at=at if end is None else end, reason=reason))
    if budget_hours is not None:
        reason = f"the budget of {budget_hours:g} hours has ended"
        stops.append(StopAt(at=at + budget_hours * 3600, reason=reason))
    return min(stops, key=lambda stop: stop.at, default=None)


def open_until(window: Window, at: float) -> float | None:
    """When the window ends that is open at this moment (seconds since the epoch); None if it is closed.

    Where the clocks change: a time that comes twice opens at the first and closes at the second; one that does not come
    opens late and closes early.
    """
    today = datetime.fromtimestamp(at, window.zone).date()
    for day in (today - timedelta(days=1), today):
        begin, end = _moments(window, day)
        if begin <= at < end:
            return end
    return None


def _moments(window: Window, day: date) -> tuple[float, float]:
    last = day if window.end > window.begin else day + timedelta(days=1)
    begin = datetime.combine(day, window.begin, window.zone)
    end = datetime.combine(last, window.end, window.zone).replace(fold=1)
    return begin.astimezone(UTC).timestamp(), end.astimezone(UTC).timestamp()


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"{name!r} is no time zone; write one like Europe/Berlin") from None
