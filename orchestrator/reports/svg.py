"""Pure. SVG elements, scales and labels; colours come from the page's style sheet."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from orchestrator.wording import shorten

SHAPES = 6
_NEGLIGIBLE = 1e-300
_STEEPEST = 1e12


def element(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; text and attribute values are escaped. `class_` is `class`, `stroke_width` is `stroke-width`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(child if isinstance(child, Markup) else escape(child) for child in children)
    return Markup(f"<{name}{given}>{inner}</{name}>" if children else f"<{name}{given}/>")


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return str(escape(value))


def picture(
    width: float,
    height: float,
    label: str,
    *children: str | Markup,
    class_: str = "chart",
    stretch: bool = False,
) -> Markup:
    """A drawing with a name for people who do not see it."""
    return element(
        "svg",
        element("title", label),
        *children,
        class_=class_,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=float(width),
        height=float(height),
        role="img",
        preserveAspectRatio="none" if stretch else None,
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def text(x: float, y: float, content: str, class_: str = "", anchor: str = "start") -> Markup:
    """A label; `anchor` is start, middle or end."""
    return element(
        "text",
        content,
        x=float(x),
        y=float(y),
        class_=class_ or None,
        text_anchor=None if anchor == "start" else anchor,
    )


def mark(shape: int, x: float, y: float, radius: float, class_: str, title: str = "") -> Markup:
    """A symbol: circle, square, triangle, diamond, cross or triangle on its tip, in this order, again and again."""
    children = (element("title", title),) if title else ()
    if shape % SHAPES == 0:
        return element("circle", *children, cx=float(x), cy=float(y), r=float(radius), class_=class_)
    r = radius * 1.15
    corners = {
        1: ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
        2: ((0, -1.1), (1.05, 0.8), (-1.05, 0.8)),
        3: ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
        4: tuple(
            (a * s, b * t)
            for a, b, s, t in (
                (0.4, 1.1, -1, -1), (0.4, 1.1, 1, -1), (0.4, 0.4, 1, -1), (1.1, 0.4, 1, -1),
                (1.1, 0.4, 1, 1), (0.4, 0.4, 1, 1), (0.4, 1.1, 1, 1), (0.4, 1.1, -1, 1),
                (0.4, 0.4, -1, 1), (1.1, 0.4, -1, 1), (1.1, 0.4, -1, -1), (0.4, 0.4, -1, -1),
            )
        ),
        5: ((0, 1.1), (1.05, -0.8), (-1.05, -0.8)),
    }[shape % SHAPES]  # fmt: skip
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return element("polygon", *children, points=points, class_=class_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values to pixels: linear, or by asinh where small and large values must be told apart."""

    low: float
    high: float
    start: float
    end: float
    bend: float = 0.0
    """About where asinh turns from linear to logarithmic; 0 is linear all along."""

    def __call__(self, value: float) -> float:
        """The pixel of a value; beyond the ends it stays at the ends."""
        low, high, at = (self._bent(v) for v in (self.low, self.high, min(max(value, self.low), self.high)))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the scale, ascending."""
        return _bent_ticks(self, most) if self.bend else _round_ticks(self.low, self.high, most)

    def _bent(self, value: float) -> float:
        return math.asinh(value / self.bend) if self.bend else value


def scale_of(values: Iterable[float], start: float, end: float, *, may_bend: bool = True) -> Scale:
    """A scale that holds all values and zero; bent where the large ones would flatten the others."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(0.0, *finite), max(0.0, *finite)
    if high - low < _NEGLIGIBLE:
        high = low + 1.0
    sizes = sorted(abs(value) for value in finite if value)
    middle = sizes[len(sizes) // 2] if sizes else 0.0
    largest = max(-low, high)
    bend = max(middle / 2, largest / _STEEPEST) if may_bend and middle and largest > 25 * middle else 0.0
    room = 0.0 if bend else (high - low) * 0.05
    return Scale(
        low=low - room if low < 0 else low,
        high=high * 1.1 if bend else high + room,
        start=start,
        end=end,
        bend=bend,
    )


def _round_ticks(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / max(1, most - 1)
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10, 20) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _bent_ticks(scale: Scale, most: int) -> list[float]:
    top = math.floor(math.log10(max(-scale.low, scale.high)))
    bottom = math.ceil(math.log10(scale.bend))
    powers = [10.0**power for power in range(bottom, top + 1)][
        :: max(1, math.ceil((top - bottom + 1) / most))
    ]
    ticks = [-power for power in reversed(powers) if -power >= scale.low] + [0.0]
    return ticks + [power for power in powers if power <= scale.high]


def text_width(content: str, font_size: float) -> float:
    """A generous guess of how wide a label is, in the units of the font size."""
    return sum(1.0 if unicodedata.east_asian_width(c) in "WF" else 0.6 for c in content) * font_size


def fit(content: str, width: float, font_size: float) -> str:
    """The label, shortened in its middle until it fits."""
    while len(content) > 3 and (needed := text_width(content, font_size)) > width:
        content = shorten(content, max(3, min(len(content) - 1, int(len(content) * width / needed))))
    return content


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle that labels must not share."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two overlap."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def place_label(
    x: float, y: float, width: float, height: float, taken: Sequence[Box], within: Box
) -> Box | None:
    """A free place for a label next to a mark, or None; right of it is tried first."""
    gap = 8.0
    for left, top in (
        (x + gap, y - height / 2),
        (x - gap - width, y - height / 2),
        (x - width / 2, y - gap - height),
        (x - width / 2, y + gap),
        (x + gap, y - gap - height),
        (x + gap, y + gap),
        (x - gap - width, y - gap - height),
        (x - gap - width, y + gap),
    ):
        box = Box(left, top, left + width, top + height)
        inside = (
            box.left >= within.left
            and box.right <= within.right
            and box.top >= within.top
            and box.bottom <= within.bottom
        )
        if inside and not any(box.meets(other) for other in taken):
            return box
    return None
