"""Pure. The drawings of a report: sensitivity curves and maps, slices, layer amounts, parts of a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.reports.svg import (
    Box,
    Scale,
    element,
    fit,
    line,
    mark,
    picture,
    scale_of,
    text,
    text_width,
)
from orchestrator.wording import change, number, percent

WIDE, NARROW = 1040.0, 330.0
FONT = 12.0
HEAT_STEPS = 8
DEPTH_STEPS = 6
_HEAT_RANGE = 1000.0  # the lowest colour step begins at a thousandth of the greatest value


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Loss change of one layer against the amount pruned."""

    label: str
    points: Sequence[tuple[float, float, float | None]]
    """Amount, change, standard error; by amount."""
    depth: float
    """From 0, the first layer, to 1, the last."""


def curves(title: str, lines: Sequence[Curve], y: tuple[float, ...]) -> Markup:
    """One small panel; `y` holds the values that all panels beside it must be able to show."""
    frame = Box(46, 30, NARROW - 20, 190)
    scale_y = scale_of(y, frame.bottom, frame.top)
    amounts = [amount for curve in lines for amount, *_ in curve.points]
    scale_x = Scale(low=0.0, high=max(1.0, *amounts), start=frame.left, end=frame.right)
    drawn = value_axis(scale_y, frame, number_short, most=5)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn.append(text(scale_x(tick), frame.bottom + 16, percent(tick, 0), "tick", "middle"))
    for curve in lines:
        drawn.append(_curve(curve, scale_x, scale_y))
    worst = max(lines, key=lambda curve: curve.points[-1][1])
    label = fit(worst.label, 150, FONT - 1)
    amount, value, _ = worst.points[-1]
    above = max(scale_y(value) - 8, frame.top + 8)
    drawn.append(text(min(scale_x(amount) - 8, frame.right), above, label, "name", "end"))
    heading = fit(title, NARROW - 12, FONT)
    return picture(NARROW, 214, f"{title}: {len(lines)} layers", text(4, 16, heading, "heading"), *drawn)


def _curve(curve: Curve, x: Scale, y: Scale) -> Markup:
    step = min(DEPTH_STEPS - 1, int(curve.depth * DEPTH_STEPS))
    path = " ".join(f"{x(amount):.1f},{y(value):.1f}" for amount, value, _ in curve.points)
    told = ", ".join(f"{number(value, 3)} at {percent(amount, 0)}" for amount, value, _ in curve.points)
    parts = [element("title", f"{curve.label}: {told}")]
    errors = [(amount, value, error) for amount, value, error in curve.points if error]
    if len(errors) > 1:
        upper = [f"{x(amount):.1f},{y(value + error):.1f}" for amount, value, error in errors]
        lower = [f"{x(amount):.1f},{y(value - error):.1f}" for amount, value, error in reversed(errors)]
        parts.append(element("polygon", points=" ".join(upper + lower), class_="band"))
    parts.append(element("polyline", points=path, class_="curve"))
    parts += [
        element("circle", cx=float(x(amount)), cy=float(y(value)), r=2.2, class_="dot")
        for amount, value, _ in curve.points
    ]
    return element("g", *parts, class_=f"depth{step}")


def heat_map(
    layers: Sequence[str],
    amounts: Sequence[float],
    values: Mapping[tuple[str, float], float],
    *,
    label: str,
) -> Markup:
    """Layer by amount; the colour is the loss change, in steps that grow by a factor, and the number stands in it."""
    side, cell, row = side_of(layers, FONT - 1), 62.0, 20.0
    top = max([value for value in values.values() if math.isfinite(value)], default=0.0)
    drawn = [
        text(side + cell * (column + 0.5), 14, percent(amount, 0), "tick", "middle")
        for column, amount in enumerate(amounts)
    ]
    for index, layer in enumerate(layers):
        y = 22 + index * row
        drawn.append(text(side - 8, y + 14, fit(layer, side - 12, FONT - 1), "layer", "end"))
        for column, amount in enumerate(amounts):
            if (layer, amount) in values:
                drawn.append(
                    _cell(layer, amount, values[layer, amount], top, side + column * cell, y, cell, row)
                )
    return picture(side + cell * len(amounts) + 8, 26 + row * len(layers), label, *drawn)


def _cell(
    layer: str, amount: float, value: float, top: float, x: float, y: float, width: float, height: float
) -> Markup:
    step = heat_step(value, top)
    title = f"{layer} at {percent(amount, 0)}: {number(value)}"
    return element(
        "g",
        element("title", title),
        element("rect", x=x + 1, y=y + 1, width=width - 2, height=height - 2, rx=2.0, class_="cell"),
        text(x + width / 2, y + 14, number_short(value), "value", "middle"),
        class_=f"heat{step}",
    )


def heat_step(value: float, top: float) -> int:
    """0 for no harm; then 1 to 7, in equal factors between a thousandth of the greatest value and it."""
    if not value > 0 or top <= 0:
        return 0
    if not math.isfinite(value):
        return HEAT_STEPS - 1
    place = 1 + math.log(value / top) / math.log(_HEAT_RANGE)
    return max(0, min(HEAT_STEPS - 1, 1 + math.floor(place * (HEAT_STEPS - 1))))


def heat_legend(top: float) -> Markup:
    """Which colour stands for which loss change."""
    width, drawn = 64.0, []
    for step in range(HEAT_STEPS):
        least = top * _HEAT_RANGE ** ((step - 1) / (HEAT_STEPS - 1) - 1) if step else 0.0
        label = "none" if step == 0 else f"≥ {number_short(least)}"
        drawn.append(
            element(
                "g",
                element("rect", x=step * width, y=0.0, width=width - 2, height=14.0, rx=2.0, class_="cell"),
                class_=f"heat{step}",
            )
        )
        drawn.append(text((step + 0.5) * width - 1, 28, label, "tick", "middle"))
    return picture(
        width * HEAT_STEPS,
        34,
        "Colours of the map, from no change to the greatest",
        *drawn,
        class_="chart legend",
    )


def depth_legend() -> Markup:
    """Which line colour stands for which place in the model."""
    drawn = [text(0, 11, "first layer", "tick")]
    for step in range(DEPTH_STEPS):
        drawn.append(element("g", line(70 + step * 22, 7, 90 + step * 22, 7, "curve"), class_=f"depth{step}"))
    drawn.append(text(76 + DEPTH_STEPS * 22, 11, "last layer", "tick"))
    return picture(
        280, 16, "Colours of the lines, from the first layer to the last", *drawn, class_="chart legend"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """One slice of the slice plot: how much worse, with its interval and limit."""

    label: str
    samples: int
    value: float | None
    low: float | None
    high: float | None
    limit: float | None
    status: str


def intervals(rows: Sequence[Interval], *, label: str, unit: str) -> Markup:
    """A dot and its interval for each slice; to the right is worse, and the limit stands as a line."""
    side, height = side_of([row.label for row in rows], FONT), 24.0
    frame = Box(side, 26, 760, 26 + height * len(rows))
    known = [v for r in rows for v in (r.value, r.low, r.high, r.limit) if v is not None and math.isfinite(v)]
    x = scale_of(known, frame.left, frame.right, may_bend=False)
    drawn = [text(frame.right + 26, 16, "change · examples", "tick")]
    for tick in x.ticks(6):
        drawn.append(line(x(tick), frame.top, x(tick), frame.bottom, "zero" if tick == 0 else "grid"))
        drawn.append(text(x(tick), 16, change_short(tick, unit), "tick", "middle"))
    for index, row in enumerate(rows):
        drawn += _interval(row, index, x, frame, height, unit)
    drawn.append(text(frame.left, frame.bottom + 18, "◂ better", "axis"))
    drawn.append(text(frame.right, frame.bottom + 18, "worse ▸", "axis", "end"))
    return picture(930, frame.bottom + 26, label, *drawn)


def _interval(row: Interval, index: int, x: Scale, frame: Box, height: float, unit: str) -> list[Markup]:
    y = frame.top + height * (index + 0.5)
    shown = fit(row.label, frame.left - 14, FONT)
    parts = [text(frame.left - 10, y + 4, shown, "strong" if index == 0 else "", "end")]
    if row.limit is not None and math.isfinite(row.limit):
        parts.append(line(x(row.limit), y - height / 2 + 1, x(row.limit), y + height / 2 - 1, "limit"))
    told = f"n = {row.samples:,}"
    if row.value is not None:
        interval = ""
        if row.low is not None and row.high is not None:
            parts.append(line(x(row.low), y, x(row.high), y, f"whisker {row.status}"))
            parts += [
                line(x(end), y - 4, x(end), y + 4, f"whisker {row.status}") for end in (row.low, row.high)
            ]
            interval = f" ({change(row.low, unit)} to {change(row.high, unit)})"
        limit = f", limit {change(row.limit, unit)}" if row.limit is not None else ""
        title = f"{row.label}: {change(row.value, unit)}{interval}, {told}{limit}"
        shape = {"block": 3, "inconclusive": 1}.get(row.status, 0)
        parts.append(mark(shape, x(row.value), y, 5.0, f"mark {row.status}", title))
    parts.append(text(frame.right + 26, y + 4, f"{change(row.value, unit)} · {told}", "tick"))
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """One recipe of the layer plot: by layer, the share measured and the share asked for."""

    title: str
    shares: Mapping[str, tuple[float, float | None]]


def amount_bars(layers: Sequence[str], columns: Sequence[Amounts], *, label: str) -> Markup:
    """A column of bars for each recipe, beside each other: a bar for what was measured, a tick for what was asked."""
    side, row, gap = side_of(layers, FONT - 1), 18.0, 72.0
    width = min(340.0, (WIDE - side) / len(columns) - gap)
    bottom = 40 + row * len(layers)
    drawn = [
        text(side - 10, 40 + index * row + 13, fit(layer, side - 14, FONT - 1), "layer", "end")
        for index, layer in enumerate(layers)
    ]
    for place, column in enumerate(columns):
        left = side + place * (width + gap)
        x = Scale(low=0.0, high=1.0, start=left, end=left + width)
        drawn.append(text(left, 13, fit(column.title, width + gap - 12, FONT), "heading"))
        for tick in (0.0, 0.5, 1.0):
            drawn.append(line(x(tick), 36, x(tick), bottom, "grid"))
            drawn.append(text(x(tick), 31, percent(tick, 0), "tick", "middle"))
        for index, layer in enumerate(layers):
            if layer in column.shares:
                drawn += _bar(layer, *column.shares[layer], x, 40 + index * row, row)
    return picture(side + len(columns) * (width + gap), bottom + 6, label, *drawn)


def _bar(layer: str, measured: float, asked: float | None, x: Scale, y: float, height: float) -> list[Markup]:
    told = f"{layer}: {percent(measured)}" + (f", asked {percent(asked)}" if asked is not None else "")
    width = max(0.5, x(measured) - x.start)
    bar = element(
        "rect",
        element("title", told),
        x=x.start,
        y=y + 4,
        width=width,
        height=height - 8,
        rx=2.0,
        class_="bar",
    )
    parts = [bar, text(x.end + 10, y + 13, percent(measured), "tick")]
    if asked is not None:
        parts.append(line(x(asked), y + 1, x(asked), y + height - 1, "asked"))
    return parts


def share_bar(parts: Sequence[tuple[str, str, int]], *, label: str) -> Markup:
    """Status, word and number of each part of a whole, as one bar."""
    total, at = sum(n for *_, n in parts), 0.0
    drawn = []
    for status, word, n in parts:
        if n:
            width = WIDE * n / total
            title = element("title", f"{n:,} {word}")
            drawn.append(
                element(
                    "rect",
                    title,
                    x=at,
                    y=0.0,
                    width=max(1.0, width - 2),
                    height=12.0,
                    rx=2.0,
                    class_=f"part {status}",
                )
            )
            at += width
    return picture(WIDE, 12, label, *drawn, class_="chart share", stretch=True)


def value_axis(y: Scale, frame: Box, shown: Callable[[float], str], most: int = 6) -> list[Markup]:
    """Lines across the drawing at round values, with their labels on the left."""
    drawn = []
    for tick in y.ticks(most):
        drawn.append(line(frame.left, y(tick), frame.right, y(tick), "zero" if tick == 0 else "grid"))
        drawn.append(text(frame.left - 8, y(tick) + 4, shown(tick), "tick", "end"))
    return drawn


def side_of(labels: Sequence[str], font_size: float) -> float:
    """Room for the labels left of a drawing."""
    return 15 + min(240.0, max((text_width(label, font_size) for label in labels), default=0.0))


def change_short(value: float, unit: str = "%") -> str:
    """A change for a tick, without needless decimals."""
    number_part, unit_part = change(value, unit).rsplit(" ", 1)
    return f"{number_part.rstrip('0').rstrip('.') if '.' in number_part else number_part} {unit_part}"


def number_short(value: float) -> str:
    """Two significant digits at most, for ticks and cells."""
    shown = (
        number(value, 2)
        if value == 0 or 1e-3 <= abs(value) < 1e4
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )
    shown = shown.replace("-", "−")
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown
