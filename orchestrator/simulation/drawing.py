"""Pure. How busy each pool was over the time of a simulated run, as one SVG file that needs no page around it."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from orchestrator.reports.svg import Scale, element, line, text
from orchestrator.reports.timeline import at_work
from orchestrator.simulation.capacity import Outcome
from orchestrator.wording import duration, percent

STEPS = 240  # parts that the run's time is divided into
WIDE, ROW, SIDE, TOP, BOTTOM = 960.0, 120.0, 150.0, 40.0, 40.0
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1b2026}.tick{fill:#56616c}.heading{font-weight:600}"
    ".grid{stroke:#dfe3e7}.busy{fill:#7c93ad}.paper{fill:#fff}"
)


def shares(spans: Sequence[tuple[float, float]], slots: int, end: float, steps: int = STEPS) -> list[float]:
    """The share of a pool's slots that was taken, in each of so many equal parts of the time from 0 to `end` (seconds)."""
    return [busy / slots for busy in at_work(spans, end, steps)]


def utilization(outcome: Outcome, title: str) -> Markup:
    """One band a pool, the time from left to right, the share of its slots that was taken from below to above."""
    pools = [name for name, slots in outcome.slots.items() if slots]
    end = outcome.makespan_seconds
    height = TOP + ROW * len(pools) + BOTTOM
    x = Scale(low=0.0, high=max(end, 1e-9), start=SIDE, end=WIDE - 30)
    drawn = [
        element("style", Markup(STYLE)),
        element("rect", x=0.0, y=0.0, width=WIDE, height=height, class_="paper"),
        text(SIDE, 22, title, "heading"),
    ]
    for index, name in enumerate(pools):
        drawn += _band(outcome, name, x, TOP + ROW * index)
    for tick in x.ticks(8):
        drawn.append(text(x(tick), height - 16, duration(tick), "tick", "middle"))
    return element(
        "svg",
        element("title", title),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDE:.0f} {height:.0f}",
        width=WIDE,
        height=height,
        role="img",
    )


def _band(outcome: Outcome, pool: str, x: Scale, top: float) -> list[Markup]:
    slots, end = outcome.slots[pool], outcome.makespan_seconds
    y = Scale(low=0.0, high=1.0, start=top + ROW - 22, end=top + 8)
    drawn = [text(SIDE - 44, y.end + 12, pool, "heading", "end")]
    told = f"{slots} slots, {percent(outcome.utilization(pool), 0)} busy"
    drawn.append(text(SIDE - 44, y.end + 28, told, "tick", "end"))
    for share in (0.0, 0.5, 1.0):
        drawn.append(line(x.start, y(share), x.end, y(share), "grid"))
        drawn.append(text(x.start - 8, y(share) + 4, percent(share, 0), "tick", "end"))
    if end:
        corners = [f"{x.start:.1f},{y(0.0):.1f}"]
        for step, share in enumerate(shares(outcome.spans[pool], slots, end)):
            left, right = x(end * step / STEPS), x(end * (step + 1) / STEPS)
            corners += [f"{left:.1f},{y(share):.1f}", f"{right:.1f},{y(share):.1f}"]
        corners.append(f"{x.end:.1f},{y(0.0):.1f}")
        drawn.append(
            element("polygon", element("title", f"{pool}: {told}"), points=" ".join(corners), class_="busy")
        )
    return drawn
