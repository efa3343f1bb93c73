"""Pure. The drawing of quality against size or latency: a mark for each model under a recipe, named where there is room."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.reports.charts import FONT, WIDE, change_short, value_axis
from orchestrator.reports.front import staircase
from orchestrator.reports.svg import (
    Box,
    Scale,
    element,
    fit,
    line,
    mark,
    picture,
    place_label,
    scale_of,
    text,
    text_width,
)
from orchestrator.wording import percent

LABELLED_POINTS = 60  # beyond it only the worst marks are named
NAMED_OF_MANY, TRIED_OF_MANY = 15, 100
WHISKERED_POINTS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A mark of the scatter plot."""

    label: str
    told: str
    """What is read when one points at it."""
    x: float
    y: float
    low: float | None
    high: float | None
    shape: int
    status: str
    is_best: bool = False
    """Whether it is on the front of all that counts, which may be more than these two axes."""


def scatter(points: Sequence[Point], *, label: str, x_label: str, y_label: str) -> Markup:
    """Harm against a share of the dense model's; a mark's shape is its recipe, its colour the verdict, a ring says that it is
    among the best. Labels that would overlap are left out."""
    frame = Box(64, 30, WIDE - 16, 392)
    least, most = min(p.x for p in points), max(p.x for p in points)
    x = Scale(
        low=math.floor(10 * min(least, 1.0) - 0.5) / 10,
        high=1.02 * max(most, 1.0),
        start=frame.left,
        end=frame.right,
    )
    whiskers = len(points) <= WHISKERED_POINTS
    ends = [end for p in points for end in (p.low, p.high) if whiskers and end is not None]
    y = scale_of([*(p.y for p in points), *ends], frame.bottom, frame.top)
    drawn: list[Markup] = value_axis(y, frame, change_short)
    for tick in x.ticks(8):
        drawn.append(text(x(tick), frame.bottom + 18, percent(tick, 0), "tick", "middle"))
    drawn.append(text((frame.left + frame.right) / 2, frame.bottom + 40, x_label, "axis", "middle"))
    drawn.append(text(frame.left, frame.top - 14, y_label, "axis"))
    ordered = sorted(points, key=lambda p: (p.y, p.label))
    radius = 5.5 if len(points) <= LABELLED_POINTS else 3.5
    drawn.append(
        element("circle", element("title", "the dense model"), cx=x(1.0), cy=y(0.0), r=4.0, class_="dense")
    )
    drawn.append(text(x(1.0), y(0.0) - 10, "dense", "tick", "middle"))
    allowed = [(p.x, p.y) for p in points if p.status not in ("block", "inconclusive")]
    corners = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in staircase(allowed))
    drawn.append(element("polyline", points=corners, class_="front"))
    for p in ordered:
        if whiskers and p.low is not None and p.high is not None:
            drawn.append(line(x(p.x), y(p.low), x(p.x), y(p.high), f"whisker {p.status}"))
    for p in ordered:
        if p.is_best:
            drawn.append(element("circle", cx=x(p.x), cy=y(p.y), r=radius + 3.5, class_="best"))
        drawn.append(mark(p.shape, x(p.x), y(p.y), radius, f"mark {p.status}", p.told))
    return picture(WIDE, 440, label, *drawn, *_labels(ordered[::-1], x, y, frame))


def _labels(worst_first: Sequence[Point], x: Scale, y: Scale, frame: Box) -> list[Markup]:
    taken = [Box(x(p.x) - 6, y(p.y) - 6, x(p.x) + 6, y(p.y) + 6) for p in worst_first]
    are_many = len(worst_first) > LABELLED_POINTS
    drawn: list[Markup] = []
    for p in worst_first[:TRIED_OF_MANY] if are_many else worst_first:
        if are_many and len(drawn) == NAMED_OF_MANY:
            break
        shown = fit(p.label, 200, FONT - 1)
        box = place_label(x(p.x), y(p.y), text_width(shown, FONT - 1), FONT + 1, taken, frame)
        if box:
            taken.append(box)
            drawn.append(text(box.left, box.bottom - 3, shown, "name"))
    return drawn
