"""Pure. Sensitivities and a budget -> how much of each layer goes, so that the predicted loss rises least.

Per layer the measured loss increases become a curve that never falls (isotonic regression, weighted by 1 / stderr^2),
from (0, 0) through the measured amounts, linear between them. The lower convex hulls of the curves turn the choice into
a linear program that a greedy walk over the slopes solves exactly; losses are taken to add up over layers, which only
an evaluation of the pruned model can confirm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from tasks.contract import BadInput, Finding, Row
from tasks.masks.patterns import pruned_count

Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""Amounts, ascending from 0, and the loss increase at each, never falling."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """How much of each layer goes, and what that is predicted to cost."""

    amounts: Mapping[str, float]
    """`pruned_count(amount, parameters)` of the layer is exactly the number of weights meant."""
    predicted_increase: float
    """Of the loss, by the curves; NaN where nothing was measured (uniform)."""
    lower_bound: float
    """Of the linear program over the convex hulls: no allocation on these curves that removes as much can cost less."""
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """How much must go, and what one weight of each layer counts: 1 where weights themselves are counted."""

    worth: Mapping[str, int]
    wanted: int
    of: int
    """What all there is counts, in the same unit."""


def uniform(layers: Mapping[str, int], amount: float) -> Allocation:
    """The same amount of every layer (name -> number of weights)."""
    nothing_known = float("nan")
    return Allocation(
        amounts=dict.fromkeys(layers, amount), predicted_increase=nothing_known, lower_bound=nothing_known
    )


def by_sensitivity(
    layers: Mapping[str, int], rows: Sequence[Row], amount: float, max_amount: float, min_amount: float = 0.0
) -> Allocation:
    """The amounts of least predicted loss that prune exactly `pruned_count(amount, all weights)` in all.

    `rows` are those of the `sensitivity` table. No layer goes beyond `max_amount`, nor beyond what was measured, nor below
    `min_amount`. BadInput if those allow less than `amount`, or more.
    """
    goal = share_of_weights(layers, amount)
    least = sum(pruned_count(min_amount, size) for size in layers.values())
    if least > goal.wanted:
        _refuse(
            f"min_amount {min_amount:g} of every layer is more than the {amount:g} of all weights that are to go",
            "Lower min_amount, or raise amount.",
        )
    return for_goal(layers, rows, goal, max_amount, min_amount)


def share_of_weights(layers: Mapping[str, int], amount: float) -> Goal:
    """The goal that so much of all weights goes."""
    total = sum(layers.values())
    return Goal(worth=dict.fromkeys(layers, 1), wanted=pruned_count(amount, total), of=total)


def for_goal(
    layers: Mapping[str, int], rows: Sequence[Row], goal: Goal, max_amount: float, min_amount: float = 0.0
) -> Allocation:
    """The amounts of least predicted loss that reach a goal, as `by_sensitivity`; of the last layer as little as will do."""
    curves = limited_curves(layers, rows, max_amount, min_amount)
    check_room(layers, curves, goal)
    hulls = {name: convex_hull(curve) for name, curve in curves.items()}
    counts = _fill(layers, hulls, goal)
    amounts = _amounts(layers, counts)
    return Allocation(
        amounts=amounts,
        predicted_increase=_total(curves, amounts),
        lower_bound=_total(hulls, amounts),
    )


def for_quality(
    layers: Mapping[str, int],
    rows: Sequence[Row],
    max_increase: float,
    max_amount: float,
    min_amount: float = 0.0,
) -> Allocation:
    """The most weights whose predicted loss increase stays within `max_increase` times the dense loss; best effort.

    Pieces of the hulls are taken from the cheapest on, as many as fit, the last one in part. BadInput if `min_amount` of
    every layer is already predicted to cost more.
    """
    limit = max_increase * dense_loss(rows)
    curves = limited_curves(layers, rows, max_amount, min_amount)
    hulls = {name: convex_hull(curve) for name, curve in curves.items()}
    counts = _least(layers, curves)
    least = _total(curves, _amounts(layers, counts))
    if least > limit and min_amount:
        _refuse(
            f"min_amount {min_amount:g} of every layer is predicted to raise the loss by {least:.4g}, and {limit:.4g} is allowed",
            "Lower min_amount, or raise quality.max_increase.",
        )
    for piece in _pieces(layers, hulls, dict.fromkeys(layers, 1)):
        fixed = counts[piece.name]

        def predicted(more: int, name: str = piece.name, fixed: int = fixed) -> float:
            return _total(curves, _amounts(layers, counts | {name: fixed + more}))

        low, high = 0, piece.size + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if predicted(middle) <= limit else (low, middle)
        counts[piece.name] = fixed + low
        if low < piece.size:
            break
    amounts = _amounts(layers, counts)
    removed = Goal(worth=dict.fromkeys(layers, 1), wanted=sum(counts.values()), of=sum(layers.values()))
    return Allocation(
        amounts=amounts,
        predicted_increase=_total(curves, amounts),
        lower_bound=_total(hulls, _amounts(layers, _fill(layers, hulls, removed))),
    )


def dense_loss(rows: Sequence[Row]) -> float:
    """The loss that the dense model had when the sensitivity was measured; BadInput if there is none above 0."""
    values = {row.get("dense_value") for row in rows}
    known = [value for value in values if value is not None and math.isfinite(value) and value > 0]
    if not known:
        _refuse(
            "the dense loss is not known, or not above 0", "Measure the sensitivity again, or use amount."
        )
    return float(max(known))


def limited_curves(
    layers: Mapping[str, int], rows: Sequence[Row], max_amount: float, min_amount: float = 0.0
) -> dict[str, Curve]:
    """The curves of `curves_of`, none beyond `max_amount`, all from `min_amount` on; BadInput for one that ends before."""
    curves = {name: _limited(curve, max_amount) for name, curve in curves_of(layers, rows).items()}
    if not min_amount:
        return curves
    for name, (amounts, _) in curves.items():
        if amounts[-1] < min_amount:
            _refuse(
                f"{name} was measured up to {amounts[-1]:g}, and min_amount is {min_amount:g}",
                "Lower min_amount, or add larger amounts to sensitivity.grid.",
            )
    return {name: _from(curve, min_amount) for name, curve in curves.items()}


def check_room(layers: Mapping[str, int], curves: Mapping[str, Curve], goal: Goal) -> None:
    """BadInput if the layers cannot give what the goal wants."""
    room = sum(
        goal.worth[name] * pruned_count(float(curve[0][-1]), layers[name]) for name, curve in curves.items()
    )
    if goal.wanted > room:
        asked, most = goal.wanted / max(1, goal.of), room / max(1, goal.of)
        _refuse(
            f"{asked:.4f} cannot go: max_amount and the measured grid allow at most {most:.4f}",
            "Ask for less, raise max_amount, or add larger amounts to sensitivity.grid.",
        )


def curves_of(layers: Mapping[str, int], rows: Sequence[Row]) -> dict[str, Curve]:
    """The loss curve of every layer; it ends before the first amount at which the loss was not finite.

    BadInput for a layer that was not measured, or whose rows are of another model.
    """
    points: dict[str, list[tuple[float, float, float]]] = {name: [] for name in layers}
    ends = dict.fromkeys(layers, math.inf)
    for row in rows:
        name, amount, delta = row["layer"], row["amount"], row.get("delta")
        if name not in points:
            continue
        if row.get("parameters") not in (None, layers[name]):
            _refuse(
                f"{name} has {layers[name]} weights and had {row['parameters']} when its sensitivity was measured",
                "Measure the sensitivity of this very model.",
            )
        if not 0 <= amount <= 1:
            _refuse(f"{name} was measured at amount {amount}", "Use amounts from 0 to 1.")
        if delta is None or not math.isfinite(delta):
            ends[name] = min(ends[name], amount)
            continue
        stderr = row.get("stderr") or 0.0
        points[name].append((amount, delta, stderr if math.isfinite(stderr) else 0.0))
    missing = [name for name, found in points.items() if not found and ends[name] == math.inf]
    if missing:
        names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        _refuse(
            f"{len(missing)} layers have no measured sensitivity: {names}",
            "Measure it, or skip these layers.",
        )
    return {
        name: monotone_curve([point for point in found if point[0] < ends[name]])
        for name, found in points.items()
    }


def monotone_curve(points: Sequence[tuple[float, float, float]]) -> Curve:
    """(amount, delta, stderr), any order -> the closest curve that never falls and starts at (0, 0)."""
    known = np.array(sorted(point for point in points if point[0] > 0), dtype=np.float64).reshape(-1, 3)
    amounts, group = np.unique(known[:, 0], return_inverse=True)
    exact = bool((known[:, 2] <= 0).any())
    weights = np.ones(len(known)) if exact else 1.0 / np.square(known[:, 2])
    total = np.bincount(group, weights=weights)
    deltas = np.bincount(group, weights=weights * known[:, 1]) / total
    rising = isotonic_regression(deltas, weights=total).x
    return np.concatenate([[0.0], amounts]), np.concatenate([[0.0], np.maximum(rising, 0.0)])


def convex_hull(curve: Curve) -> Curve:
    """The largest convex curve that lies nowhere above the given one."""
    hull: list[tuple[float, float]] = []
    for amount, delta in zip(*curve, strict=True):
        while len(hull) >= 2 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (amount, delta)):
            hull.pop()
        hull.append((float(amount), float(delta)))
    points = np.array(hull, dtype=np.float64)
    return points[:, 0], points[:, 1]


def _limited(curve: Curve, max_amount: float) -> Curve:
    amounts, deltas = curve
    if amounts[-1] <= max_amount:
        return curve
    inside = amounts < max_amount
    if not inside.any():
        return np.zeros(1), np.zeros(1)
    last = float(np.interp(max_amount, amounts, deltas))
    return np.append(amounts[inside], max_amount), np.append(deltas[inside], last)


def _from(curve: Curve, min_amount: float) -> Curve:
    amounts, deltas = curve
    inside = amounts > min_amount
    first = float(np.interp(min_amount, amounts, deltas))
    return np.insert(amounts[inside], 0, min_amount), np.insert(deltas[inside], 0, first)


def _least(layers: Mapping[str, int], curves: Mapping[str, Curve]) -> dict[str, int]:
    """What goes of each layer whatever is wanted: where its curve begins."""
    return {name: pruned_count(float(curves[name][0][0]), size) for name, size in layers.items()}


@dataclass(frozen=True, slots=True, order=True)
class _Piece:
    """A straight stretch of a layer's hull; the cheapest first, of equals that which leaves its layer densest."""

    price: float
    """Loss for each unit of what its weights count."""
    end: float
    index: int
    name: str
    size: int


def _pieces(layers: Mapping[str, int], hulls: Mapping[str, Curve], worth: Mapping[str, int]) -> list[_Piece]:
    pieces = []
    for index, (name, size) in enumerate(layers.items()):
        amounts, deltas = hulls[name]
        for step in range(len(amounts) - 1):
            first, last = (pruned_count(float(amounts[at]), size) for at in (step, step + 1))
            if last > first and worth[name]:
                whole = (amounts[step + 1] - amounts[step]) * (size * worth[name])
                price = float((deltas[step + 1] - deltas[step]) / whole)
                pieces.append(_Piece(price, float(amounts[step + 1]), index, name, last - first))
    return sorted(pieces)


def _fill(layers: Mapping[str, int], hulls: Mapping[str, Curve], goal: Goal) -> dict[str, int]:
    """Takes the cheapest piece of hull again and again, until the goal is reached."""
    counts = _least(layers, hulls)
    missing = goal.wanted - sum(goal.worth[name] * count for name, count in counts.items())
    for piece in _pieces(layers, hulls, goal.worth):
        if missing <= 0:
            break
        taken = min(piece.size, -(-missing // goal.worth[piece.name]))
        counts[piece.name] += taken
        missing -= taken * goal.worth[piece.name]
    assert missing <= 0, "the room was checked before"
    return counts


def _amounts(layers: Mapping[str, int], counts: Mapping[str, int]) -> dict[str, float]:
    return {name: counts[name] / size if size else 0.0 for name, size in layers.items()}


def remaining(share: float, of: int) -> int:
    """The most that may remain: floor(share * of), exact for the share as it is written in decimal."""
    return math.floor(Fraction(repr(float(share))) * of)


def _total(curves: Mapping[str, Curve], amounts: Mapping[str, float]) -> float:
    return math.fsum(float(np.interp(amounts[name], *curve)) for name, curve in curves.items())


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])


def _refuse(why: str, do: str) -> NoReturn:
    raise BadInput("no allocation by sensitivity", why=why, do=do)
