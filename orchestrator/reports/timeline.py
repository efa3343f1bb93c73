"""Pure. When each pool of a run was busy, and with what: units at work over time, by task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from orchestrator.domain import TaskName
from orchestrator.reports.charts import FONT, WIDE
from orchestrator.reports.svg import Box, Scale, element, fit, line, picture, text
from orchestrator.wording import count, duration, number, plain

STEPS = 160
"""Parts that the run's time is divided into."""
MOST_POOLS = 8
BAND, SIDE = 96.0, 150.0
TASKS = tuple(task.value for task in TaskName)

Span = tuple[float, float]


def at_work(spans: Iterable[Span], end: float, steps: int = STEPS) -> list[float]:
    """How many spans were open, on average, in each of so many equal parts of the time from 0 to `end` (seconds)."""
    width = end / steps
    seconds, whole = [0.0] * steps, [0] * (steps + 1)
    for start, stop in spans:
        first, last = (max(0, min(steps - 1, int(moment / width))) for moment in (start, stop))
        if first == last:
            seconds[first] += stop - start
            continue
        seconds[first] += (first + 1) * width - start
        seconds[last] += stop - last * width
        whole[first + 1] += 1
        whole[last] -= 1
    open_now, found = 0, []
    for step in range(steps):
        open_now += whole[step]
        found.append(seconds[step] / width + open_now)
    return found


def timeline(
    units: Iterable[Mapping[str, Any]], started_at: datetime | None, finished_at: datetime | None
) -> Markup | None:
    """A band for each pool, from rows of `units`; None where nothing ran, or the run goes on.

    What a worker's clock puts before the run's beginning or after its end is drawn at that end.
    """
    if started_at is None or finished_at is None:
        return None
    whole = (finished_at - started_at).total_seconds()
    pools = _spans(units, started_at, whole)
    if not pools or whole <= 0:
        return None
    busiest = sorted(pools, key=lambda pool: (-_seconds(pools[pool]), pool))
    shown = busiest[:MOST_POOLS]
    x = Scale(low=0.0, high=whole, start=SIDE, end=WIDE - 20)
    drawn: list[Markup] = []
    for index, pool in enumerate(shown):
        drawn += _band(pool, pools[pool], x, Box(SIDE, BAND * index + 10, WIDE - 20, BAND * (index + 1) - 14))
    height = BAND * len(shown) + 26
    for tick in x.ticks(7):
        drawn.append(text(x(tick), height - 10, duration(tick), "tick", "middle"))
    left_out = len(busiest) - len(shown)
    more = f"; {count(left_out, 'pool')} with less work not shown" if left_out else ""
    return picture(WIDE, height, f"Units at work over the time of the run, by pool and task{more}", *drawn)


def task_keys() -> list[tuple[str, Markup]]:
    """Each task with the colour of its area."""
    return [
        (
            task,
            picture(
                16,
                12,
                task,
                element("rect", width=16.0, height=12.0, rx=2.0, class_=f"task{index}"),
                class_="icon",
            ),
        )
        for index, task in enumerate(TASKS)
    ]


def _spans(
    units: Iterable[Mapping[str, Any]], started_at: datetime, whole: float
) -> dict[str, dict[str, list[Span]]]:
    """Pool -> task -> from when to when its units worked, in seconds since the run began."""
    pools: dict[str, dict[str, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for row in units:
        if row.get("started_at") is None or row.get("finished_at") is None:
            continue
        begun, ended = ((row[name] - started_at).total_seconds() for name in ("started_at", "finished_at"))
        begun, ended = (min(max(0.0, moment), whole) for moment in (begun, ended))
        if ended > begun and row.get("task") in TASKS:
            pools[row.get("pool") or "unknown"][row["task"]].append((begun, ended))
    return pools


def _seconds(tasks: Mapping[str, Sequence[Span]]) -> float:
    return sum(stop - start for spans in tasks.values() for start, stop in spans)


def _band(pool: str, tasks: Mapping[str, Sequence[Span]], x: Scale, frame: Box) -> list[Markup]:
    layers = [
        (index, task, at_work(tasks[task], x.high)) for index, task in enumerate(TASKS) if task in tasks
    ]
    top = max(map(sum, zip(*(open_units for *_, open_units in layers), strict=True)))
    y = Scale(low=0.0, high=max(top, 1.0), start=frame.bottom, end=frame.top)
    name = plain(pool, 40)
    drawn = [text(x.start - 44, frame.top + 12, fit(name, SIDE - 60, FONT), "heading", "end")]
    for tick in y.ticks(3):
        drawn.append(line(x.start, y(tick), x.end, y(tick), "grid"))
        drawn.append(text(x.start - 8, y(tick) + 4, number(tick, 3), "tick", "end"))
    below = [0.0] * STEPS
    for index, task, open_units in layers:
        above = [low + more for low, more in zip(below, open_units, strict=True)]
        told = f"{name}: {count(len(tasks[task]), f'{task} unit')}"
        drawn.append(
            element(
                "polygon", element("title", told), points=_outline(below, above, x, y), class_=f"task{index}"
            )
        )
        below = above
    return drawn


def _outline(below: Sequence[float], above: Sequence[float], x: Scale, y: Scale) -> str:
    """The corners of the area between two step lines."""
    edges = [x.low + (x.high - x.low) * step / STEPS for step in range(STEPS + 1)]
    upper = [
        f"{x(edge):.1f},{y(value):.1f}" for step, value in enumerate(above) for edge in edges[step : step + 2]
    ]
    lower = [
        f"{x(edge):.1f},{y(value):.1f}" for step, value in enumerate(below) for edge in edges[step : step + 2]
    ]
    return " ".join(upper + lower[::-1])
