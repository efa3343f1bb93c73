"""Pure. Which drawings a model's section has, and from which rows; what is left out is said."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from orchestrator.reports.cases import Case
from orchestrator.reports.charts import (
    Amounts,
    Curve,
    Interval,
    amount_bars,
    curves,
    depth_legend,
    heat_legend,
    heat_map,
    intervals,
)
from orchestrator.reports.data import Row
from orchestrator.reports.front import front
from orchestrator.reports.scatterplot import Point, scatter
from orchestrator.wording import NAME_LENGTH, TEXT_LENGTH, change, count, percent, plain

MOST_PANELS = 12
MOST_CURVES = 60
MOST_LAYERS = 40
MOST_SLICES = 40
MOST_COLUMNS = 4
SAME_AMOUNT = 0.005  # layers this close to what was asked need no picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Drawings with what they show and what they leave out."""

    title: str
    drawings: tuple[Markup, ...]
    legend: Markup | None = None
    note: str = ""


def best_trades(cases: Sequence[Case]) -> frozenset[int]:
    """Indices of the cases on the fleet's Pareto front, by metric: of those that were not refused, no other is at least as
    good in quality, parameters, file size and measured latency, and better in one of them. What was not measured wins nothing."""
    chosen: set[int] = set()
    for members in _by_metric(
        case for case in cases if case.status not in ("block", "inconclusive")
    ).values():
        chosen.update(members[place].index for place in front([_goods(case) for case in members]))
    return frozenset(chosen)


def _goods(case: Case) -> tuple[float, ...]:
    assert case.relative is not None
    files = case.bytes / case.dense_bytes if case.bytes is not None and case.dense_bytes else None
    known = (case.nonzero, files, _latency(case))
    return (case.relative[0], *(math.inf if value is None else value for value in known))


def _latency(case: Case) -> float | None:
    return 1 / case.speedup if case.speedup and math.isfinite(case.speedup) else None


def _by_metric(cases: Iterable[Case]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.metric and case.nonzero is not None and case.relative is not None:
            found[case.metric].append(case)
    return dict(sorted(found.items()))


_AXES: tuple[tuple[str, str, Callable[[Case], float | None]], ...] = (
    ("size", "parameters that are not zero, of the dense model's", lambda case: case.nonzero),
    ("measured latency", "measured latency, of the dense model's", _latency),
)


def quality_figures(cases: Sequence[Case], shapes: Mapping[str, int]) -> list[Figure]:
    """For each metric, relative harm against the share of parameters that are not zero, and against latency where it was
    measured; the line is the front in that plane of what was not refused."""
    best = best_trades(cases)
    figures = []
    for metric, members in _by_metric(cases).items():
        for name, axis, of in _AXES:
            placed = [(case, x) for case in members if (x := of(case)) is not None]
            if len(placed) > 1:
                points = [_point(case, x, shapes, case.index in best) for case, x in placed]
                figures.append(_scatter(metric, name, axis, points))
    return figures


def _point(case: Case, x: float, shapes: Mapping[str, int], is_best: bool) -> Point:
    assert case.relative is not None
    assert case.nonzero is not None
    harm, low, high = case.relative
    recipe = plain(case.recipe, 40)
    told = [f"{case.id}, {recipe}: {change(harm)}", f"{percent(case.nonzero)} of the parameters are not zero"]
    if (latency := _latency(case)) is not None:
        told.append(f"latency {percent(latency)} of the dense model's")
    if is_best:
        told.append("no other beats it in all of these")
    return Point(
        label=case.id,
        told=", ".join(told),
        x=x,
        y=harm,
        low=low,
        high=high,
        shape=shapes[case.recipe],
        status=case.status,
        is_best=is_best,
    )


def _scatter(metric: str, name: str, axis: str, points: Sequence[Point]) -> Figure:
    drawing = scatter(
        points,
        label=f"{metric}: relative harm against {axis}, {len(points)} marks",
        x_label=axis,
        y_label=f"{metric}, relative change for the worse ▴",
    )
    named = str(drawing).count('class="name"')
    note = (
        "" if named == len(points) else f"{named} of {len(points)} marks are named; point at one to read it."
    )
    return Figure(title=f"{metric.capitalize()} against {name}", drawings=(drawing,), note=note)


def sensitivity_figures(rows: Iterable[Row]) -> list[Figure]:
    """Curves by kind of layer and a map of layer by amount, for each way in which sensitivity was measured."""
    settings: dict[tuple[str, ...], dict[tuple[str, float], Row]] = defaultdict(dict)
    for row in rows:
        if row.get("delta") is not None and row.get("amount") is not None:
            setting = tuple(
                str(row.get(column) or "") for column in ("criterion", "pattern", "metric", "method")
            )
            settings[setting][row["layer"], row["amount"]] = row
    figures = []
    for setting in sorted(settings):
        criterion, pattern, metric, method = (plain(word, 40) for word in setting)
        told = f"{metric or 'loss'} change, {criterion}, {pattern}" + (f", {method}" if method else "")
        cells = {key: row for key, row in settings[setting].items() if math.isfinite(row["delta"])}
        if cells:
            figures += [_curves(told, cells), _map(told, cells)]
    return figures


def _curves(told: str, cells: dict[tuple[str, float], Row]) -> Figure:
    points: dict[str, list[tuple[float, float, float | None]]] = defaultdict(list)
    for (layer, amount), row in sorted(cells.items(), key=lambda cell: cell[0][1]):
        points[layer].append((amount, row["delta"], row.get("stderr")))
    layers = sorted(points, key=natural)
    names = short_names(layers)
    families: dict[str, list[Curve]] = defaultdict(list)
    for place, layer in enumerate(layers):
        depth = place / max(1, len(layers) - 1)
        families[family(names[layer])].append(Curve(label=names[layer], points=points[layer], depth=depth))
    worst_first = sorted(families.items(), key=lambda item: (-max(map(_worst, item[1])), natural(item[0])))
    shown = worst_first[:MOST_PANELS]
    kept = [(name, sorted(lines, key=_worst)[-MOST_CURVES:]) for name, lines in shown]
    values = tuple(value for _, lines in kept for curve in lines for _, value, _ in curve.points)
    drawn = sum(len(lines) for _, lines in kept)
    note = (
        ""
        if drawn == len(layers)
        else f"{drawn} of {count(len(layers), 'layer')} are drawn: the most sensitive."
    )
    return Figure(
        title=f"Sensitivity: {told}",
        drawings=tuple(curves(_heading(name, lines), lines, values) for name, lines in kept),
        legend=depth_legend() if len(layers) > 1 else None,
        note=note,
    )


def _worst(curve: Curve) -> float:
    return max(value for _, value, _ in curve.points)


def _heading(name: str, lines: Sequence[Curve]) -> str:
    return lines[0].label if len(lines) == 1 else f"{name} ({len(lines)})"


def _map(told: str, cells: dict[tuple[str, float], Row]) -> Figure:
    values = {key: float(row["delta"]) for key, row in cells.items()}
    harm: dict[str, float] = defaultdict(lambda: -math.inf)
    for (layer, _), value in values.items():
        harm[layer] = max(harm[layer], value)
    layers = sorted(sorted(harm, key=lambda layer: (-harm[layer], natural(layer)))[:MOST_LAYERS], key=natural)
    amounts = sorted({amount for _, amount in values})
    names = short_names(layers)
    named = {(names[layer], amount): value for (layer, amount), value in values.items() if layer in names}
    note = (
        f"{len(layers)} of {count(len(harm), 'layer')} are shown: the most sensitive."
        if len(layers) < len(harm)
        else ""
    )
    return Figure(
        title="Layer by amount",
        drawings=(heat_map([names[x] for x in layers], amounts, named, label=f"{told}, layer by amount"),),
        legend=heat_legend(max(values.values())),
        note=note,
    )


def slice_figure(case: Case) -> Figure | None:
    """The change of each slice with its interval and the gate's limit."""
    if not any(change.value is not None for change in case.changes):
        return None
    rows = [
        Interval(
            label=plain(change.slice, NAME_LENGTH),
            samples=change.samples,
            value=change.value,
            low=change.low,
            high=change.high,
            limit=change.limit,
            status=change.verdict or "measured",
        )
        for change in case.changes
    ]
    note = "Dashed: the gate's limit. Circle: within it, diamond: beyond it, square: cannot be judged."
    if all(row.limit is None for row in rows):
        note = "No gate was set on these."
    if len(rows) > MOST_SLICES:
        note += f" The worst {MOST_SLICES} of {len(rows)} are shown."
    if any(change.is_default for change in case.changes):
        note += (
            " The recipe names no slices, so these are the default ones: each label, and tenths of the dense model's "
            "confidence and of the texts' length, 1 being the least."
        )
    title = f"{case.metric} on {plain(case.dataset, 48)}: change for the worse, with {percent(case.confidence, 0)} interval"
    drawing = intervals(rows[:MOST_SLICES], label=f"{title}, {plain(case.recipe, 40)}", unit=case.unit)
    return Figure(title=title.capitalize(), drawings=(drawing,), note=note)


def amount_figure(cases: Sequence[Case]) -> Figure | None:
    """How much of each layer each recipe pruned, asked and measured; no drawing where all are as asked and alike."""
    uneven, notes = [], []
    for case in cases:
        rows = {row["layer"]: row for row in case.layers if row.get("amount") is not None}
        recipe = plain(case.recipe, 40)
        if rows and _is_even(rows.values()):
            share = percent(next(iter(rows.values()))["amount"])
            notes.append(f"{recipe}: all {count(len(rows), 'layer')} pruned by {share}, as asked.")
        elif rows:
            uneven.append((recipe, rows))
    if not uneven and not notes:
        return None
    if len(uneven) > MOST_COLUMNS:
        notes.append(f"{MOST_COLUMNS} of {len(uneven)} recipes are drawn.")
    drawings = _amounts(uneven[:MOST_COLUMNS], notes) if uneven else ()
    return Figure(title="Amount by layer", drawings=drawings, note=" ".join(notes))


def _is_even(rows: Iterable[Row]) -> bool:
    measured = [row["amount"] for row in rows]
    off = [abs(row["amount"] - row["amount_asked"]) for row in rows if row.get("amount_asked") is not None]
    return max(measured) - min(measured) <= SAME_AMOUNT and max(off, default=0.0) <= SAME_AMOUNT


def _amounts(recipes: Sequence[tuple[str, dict[str, Row]]], notes: list[str]) -> tuple[Markup, ...]:
    distance: dict[str, float] = defaultdict(float)
    for _, rows in recipes:
        mean = math.fsum(row["amount"] for row in rows.values()) / len(rows)
        for layer, row in rows.items():
            distance[layer] = max(distance[layer], abs(row["amount"] - mean))
    furthest = sorted(distance, key=lambda layer: (-distance[layer], natural(layer)))[:MOST_LAYERS]
    layers = sorted(furthest, key=natural)
    names = short_names(layers)
    columns = [
        Amounts(
            title=recipe,
            shares={names[x]: (rows[x]["amount"], rows[x].get("amount_asked")) for x in layers if x in rows},
        )
        for recipe, rows in recipes
    ]
    notes.append("Bar: measured. Tick: asked.")
    if len(layers) < len(distance):
        notes.append(f"{len(layers)} of {len(distance)} layers are shown: those furthest from the mean.")
    return (amount_bars([names[x] for x in layers], columns, label="Share pruned of each layer, by recipe"),)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sorts `layers.2` before `layers.10`."""
    parts = re.split(r"([0-9]{1,12})", name[:TEXT_LENGTH])
    return tuple(
        (0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part) for part in parts
    )


def family(layer: str) -> str:
    """A layer's name without its numbers: what layers at different depths have in common."""
    return re.sub(r"[0-9]+", "*", layer)


def short_names(layers: Sequence[str]) -> dict[str, str]:
    """Layer names without the whole parts that all of them begin with; still different from each other."""
    split = [layer.split(".") for layer in layers]
    common = 0
    while len(split) > 1 and all(len(x) > common + 1 for x in split) and len({x[common] for x in split}) == 1:
        common += 1
    names = [plain(".".join(parts[common:]), NAME_LENGTH) for parts in split]
    if len(set(names)) < len(names):
        names = [f"{index}: {name}" for index, name in enumerate(names)]
    return dict(zip(layers, names, strict=True))
