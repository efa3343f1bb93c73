"""Effects. Draws the dashboards as SVG from their JSON and a Prometheus's answers, for the documentation: this is not Grafana.

python dashboards/draw.py http://127.0.0.1:9090 docs/pictures --since 1764000000 --until 1764000600
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from markupsafe import Markup

from orchestrator.reports.svg import Box, Scale, element, fit, line, scale_of, text, text_width
from orchestrator.wording import duration, number, percent, plain, size

HERE = Path(__file__).parent
CELL, ROW, GAP, HEAD = 40.0, 25.0, 8.0, 56.0
COLUMNS = 24
MOST_SERIES = 8
POINTS = 160
COLOURS = ("#2b6cb0", "#b3600f", "#0a7557", "#8c6bb1", "#b93a0e", "#1f8a9c", "#855d00", "#56616c")
STYLE = (
    "text{font:12px system-ui,'DejaVu Sans',sans-serif;fill:#1b2026}.soft{fill:#56616c;font-size:11px}"
    ".h1{font-size:18px;font-weight:650}.h2{font-size:13px;font-weight:600}.big{font-size:30px;font-weight:600}"
    ".page{fill:#f7f7f5}.card{fill:#fff;stroke:#dfe3e7}.grid{stroke:#e9ecef}.zero{stroke:#aab2ba}.line{fill:none;stroke-width:1.5}"
    + "".join(
        f".c{place}{{stroke:{colour}}}.f{place}{{fill:{colour}}}" for place, colour in enumerate(COLOURS)
    )
)

UNITS: Mapping[str, Callable[[float], str]] = {
    "s": duration,
    "bytes": size,
    "mbytes": lambda value: size(value * 1e6),
    "Bps": lambda value: f"{size(value)}/s",
    "ops": lambda value: f"{_plain_number(value)}/s",
    "percent": lambda value: percent(value / 100, 0),
    "percentunit": percent,
    "currencyUSD": lambda value: f"${value:,.3f}",
    "short": lambda value: _plain_number(value),
    "none": lambda value: _plain_number(value),
}


def _plain_number(value: float) -> str:
    """Without needless decimals."""
    return f"{value:,.0f}" if value == round(value) else number(value, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a panel: its name, and (seconds since the epoch, value)."""

    name: str
    points: Sequence[tuple[float, float]]


def answer(address: str, query: str, since: float, until: float) -> list[dict[str, Any]]:
    """What Prometheus says to a query over a range. Errors: OSError, if it cannot be reached or refuses."""
    step = max(1, round((until - since) / POINTS))
    asked = urlencode({"query": query, "start": since, "end": until, "step": step})
    with urlopen(f"{address}/api/v1/query_range?{asked}", timeout=30) as told:
        found: list[dict[str, Any]] = json.load(told)["data"]["result"]
    return found


def filled(query: str, window: str) -> str:
    """The query as Grafana sends it where every variable is All."""
    return re.sub(r"\$(fleet|recipe|pool|job|instance)\b", ".*", query).replace("$__rate_interval", window)


def series_of(result: Sequence[Mapping[str, Any]], legend: str) -> list[Series]:
    """The lines of a panel, named by the panel's legend; values that are no numbers are left out."""
    found = []
    for one in result:
        name = legend
        for label in re.findall(r"\{\{(\w+)\}\}", legend):
            name = name.replace(f"{{{{{label}}}}}", one["metric"].get(label, ""))
        pairs = ((float(moment), float(value)) for moment, value in one["values"])
        points = [(moment, value) for moment, value in pairs if math.isfinite(value)]
        if points:
            found.append(Series(name=plain(name or "none", 40), points=points))
    return sorted(found, key=lambda series: series.name)


def board(
    told: Mapping[str, Any], answers: Mapping[int, Sequence[Series]], since: float, until: float
) -> Markup:
    """A whole dashboard, its panels where their JSON says."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in told["panels"])
    width, height = COLUMNS * CELL + 2 * GAP, HEAD + bottom * ROW + GAP
    source = f"Drawn by dashboards/draw.py from grafana/{told['uid']}.json and Prometheus's answers; Grafana itself looks otherwise."
    drawn = [
        element("title", f"{told['title']}: {told['description']}"),
        element("style", Markup(STYLE)),
        element("rect", width=width, height=height, class_="page"),
        text(GAP + 4, 24, str(told["title"]), "h1"),
        text(GAP + 4, 42, source, "soft"),
    ]
    for panel in told["panels"]:
        place = panel["gridPos"]
        left, top = GAP + place["x"] * CELL, HEAD + place["y"] * ROW
        box = Box(left + 3, top + 3, left + place["w"] * CELL - 3, top + place["h"] * ROW - 3)
        drawn += _panel(panel, answers[panel["id"]], box, since, until)
    return element(
        "svg",
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=width,
        height=height,
        role="img",
    )


def _panel(
    panel: Mapping[str, Any], lines: Sequence[Series], box: Box, since: float, until: float
) -> list[Markup]:
    shown = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    drawn = [
        element("rect", x=box.left, y=box.top, width=box.right - box.left, height=box.bottom - box.top, rx=5.0, class_="card"),
        text(box.left + 12, box.top + 20, fit(panel["title"], box.right - box.left - 20, 13), "h2"),
    ]  # fmt: skip
    if not lines:
        middle = (box.left + box.right) / 2
        return [*drawn, text(middle, (box.top + box.bottom) / 2 + 6, "no data in this run", "soft", "middle")]
    if panel["type"] == "stat":
        return drawn + _stat(lines, box, shown)
    return drawn + _lines(lines, box, shown, since, until)


def _stat(lines: Sequence[Series], box: Box, shown: Callable[[float], str]) -> list[Markup]:
    """The last value of each series, as Grafana's stat panel reduces it by default."""
    drawn, width = [], (box.right - box.left) / len(lines)
    for place, series in enumerate(lines):
        middle = box.left + width * (place + 0.5)
        drawn.append(text(middle, box.top + 66, shown(series.points[-1][1]), "big", "middle"))
        if len(lines) > 1:
            drawn.append(text(middle, box.top + 88, fit(series.name, width, 11), "soft", "middle"))
    return drawn


def _lines(
    lines: Sequence[Series], box: Box, shown: Callable[[float], str], since: float, until: float
) -> list[Markup]:
    kept = sorted(lines, key=lambda series: (-max(value for _, value in series.points), series.name))[
        :MOST_SERIES
    ]
    frame = Box(box.left + 74, box.top + 36, box.right - 34, box.bottom - 44)
    y = scale_of(
        [value for series in kept for _, value in series.points], frame.bottom, frame.top, may_bend=False
    )
    x = Scale(low=0.0, high=until - since, start=frame.left, end=frame.right)
    drawn = []
    for tick in y.ticks(5):
        drawn.append(line(frame.left, y(tick), frame.right, y(tick), "zero" if tick == 0 else "grid"))
        drawn.append(text(frame.left - 8, y(tick) + 4, shown(tick), "soft", "end"))
    for tick in x.ticks(6):
        drawn.append(text(x(tick), frame.bottom + 15, duration(tick) if tick else "0", "soft", "middle"))
    if len(kept) < len(lines):
        drawn.append(
            text(box.right - 12, box.top + 20, f"the highest {len(kept)} of {len(lines)}", "soft", "end")
        )
    at = frame.left
    for place, series in enumerate(kept):
        for run in _unbroken(series.points, (until - since) / POINTS):
            corners = " ".join(f"{x(moment - since):.1f},{y(value):.1f}" for moment, value in run)
            drawn.append(element("polyline", points=corners, class_=f"line c{place}"))
        name = fit(series.name, 150, 11)
        if at + text_width(name, 11) < frame.right:
            drawn.append(element("rect", x=at, y=box.bottom - 18, width=10.0, height=3.0, class_=f"f{place}"))
            drawn.append(text(at + 14, box.bottom - 13, name, "soft"))
        at += text_width(name, 11) + 30
    return drawn


def _unbroken(points: Sequence[tuple[float, float]], step: float) -> list[list[tuple[float, float]]]:
    """The points in pieces: where some are missing, nothing is drawn."""
    pieces: list[list[tuple[float, float]]] = [[points[0]]]
    for before, point in pairwise(points):
        if point[0] - before[0] > 2.5 * max(1.0, step):
            pieces.append([])
        pieces[-1].append(point)
    return [piece if len(piece) > 1 else [piece[0], (piece[0][0] + step, piece[0][1])] for piece in pieces]


def main() -> None:
    """Writes one SVG a dashboard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--since", type=float, default=time.time() - 3600, help="seconds since the epoch")
    parser.add_argument("--until", type=float, default=time.time())
    parser.add_argument("--window", default="15s", help="what $__rate_interval becomes: four scrapes or more")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((HERE / "grafana").glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        answers = {}
        for panel in told["panels"]:
            [target] = panel["targets"]
            result = answer(given.prometheus, filled(target["expr"], given.window), given.since, given.until)
            answers[panel["id"]] = series_of(result, target["legendFormat"])
        (given.folder / f"{path.stem}.svg").write_text(
            str(board(told, answers, given.since, given.until)) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
