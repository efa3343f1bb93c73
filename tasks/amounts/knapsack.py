"""Pure. The exact choice of one measured amount for each layer: a multiple-choice knapsack, solved by HiGHS.

Unlike `tasks.amounts.allocation`, which may stop between two amounts of the grid, nothing is interpolated. The linear
relaxation of this very program bounds it from below: its value is that of the greedy walk over the convex hulls.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from tasks.amounts.allocation import Allocation, Goal, check_room, curves_of, dense_loss, limited_curves
from tasks.contract import BadInput, Finding, Row
from tasks.masks.patterns import pruned_count

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.intp]

NODES = 200_000
"""Of the search tree: a limit by number and not by time, so that the answer is the same on every machine."""
_SLACK = 1e-6  # by which HiGHS may miss a constraint that is scaled to 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Every amount that can be chosen, layer after layer, ascending; 0 is one of each unless there is a least."""

    layer: npt.NDArray[np.intp]
    amount: Floats
    count: tuple[int, ...]
    """Weights that go."""
    loss: Floats


def choose_for_goal(
    layers: Mapping[str, int],
    rows: Sequence[Row],
    goal: Goal,
    max_amount: float,
    counts: Mapping[str, tuple[int, int]] | None = None,
    min_amount: float = 0.0,
) -> Allocation:
    """The amounts of the grid of least predicted loss that reach a goal; BadInput if none do. Of equal losses no more goes than must.

    `counts` has (outputs, inputs) of layers that lose the same number of weights in every row.
    """
    choices, names = choices_of(layers, rows, max_amount, counts, min_amount), list(layers)
    if goal.wanted <= 0:
        _, cheapest = np.unique(choices.layer, return_index=True)
        return _allocation(names, choices, cheapest, math.inf)
    check_room(layers, limited_curves(layers, rows, max_amount), goal)
    pairs = zip(choices.layer, choices.count, strict=True)
    worth = [goal.worth[names[layer]] * count for layer, count in pairs]
    gains = np.array([value / goal.wanted for value in worth])

    def is_reached(chosen: Positions) -> bool:
        return bool(sum(worth[at] for at in chosen) >= goal.wanted)

    chosen, is_proven = _reaching(choices.loss, gains, 1.0, choices, is_reached)
    spared = _spared(chosen, choices, is_reached)
    return _allocation(names, choices, spared, _relaxed(gains, 1.0, choices), is_proven)


def choose_for_quality(
    layers: Mapping[str, int],
    rows: Sequence[Row],
    max_increase: float,
    max_amount: float,
    counts: Mapping[str, tuple[int, int]] | None = None,
    min_amount: float = 0.0,
) -> Allocation:
    """The amounts of the grid that remove most weights with a predicted loss within `max_increase` of the dense one."""
    limit = max_increase * dense_loss(rows)
    choices, total = choices_of(layers, rows, max_amount, counts, min_amount), max(1, sum(layers.values()))
    if limit <= 0:
        raise BadInput("no allocation by knapsack", why="max_increase is 0", do="Allow a small increase.")
    values = np.array([-count / total for count in choices.count])

    def is_within(chosen: Positions) -> bool:
        return float(choices.loss[chosen].sum()) <= limit

    chosen, is_proven = _reaching(values, -choices.loss / limit, -1.0, choices, is_within)
    removed = sum(choices.count[at] for at in chosen)
    gains = np.array([count / max(1, removed) for count in choices.count])
    least = _relaxed(gains, 1.0, choices) if removed else 0.0
    return _allocation(list(layers), choices, chosen, least, is_proven)


def choices_of(
    layers: Mapping[str, int],
    rows: Sequence[Row],
    max_amount: float,
    counts: Mapping[str, tuple[int, int]] | None = None,
    min_amount: float = 0.0,
) -> Choices:
    """The measured amounts of every layer from `min_amount` to `max_amount`, with their losses made to rise.

    BadInput for a layer with none.
    """
    curves = curves_of(layers, rows)
    layer, amounts, removed, losses = [], [], [], []
    for index, (name, size) in enumerate(layers.items()):
        for amount, loss in zip(*curves[name], strict=True):
            if min_amount <= amount <= max_amount:
                outputs, inputs = (counts or {}).get(name, (1, size))
                layer.append(index)
                amounts.append(float(amount))
                removed.append(outputs * pruned_count(float(amount), inputs))
                losses.append(float(loss))
        if index not in layer[-1:]:
            raise BadInput(
                "no allocation by knapsack",
                why=f"no amount from min_amount {min_amount:g} to max_amount {max_amount:g} was measured of {name}",
                do="Lower min_amount, or add amounts to sensitivity.grid.",
            )
    return Choices(
        layer=np.array(layer, dtype=np.intp),
        amount=np.array(amounts),
        count=tuple(removed),
        loss=np.array(losses),
    )


def _reaching(
    values: Floats,
    gains: Floats,
    least: float,
    choices: Choices,
    is_reached: Callable[[Positions], bool],
) -> tuple[Positions, bool]:
    """As `_solve`, and reached exactly; what gains most where only the solver's tolerance hides it. BadInput if that will not do."""
    for extra in (0.0, 2 * _SLACK):
        solved, is_proven, told = _solve(values, gains, least + extra, choices)
        if solved is not None and is_reached(solved):
            return solved, is_proven
    order = np.lexsort((-values, gains, choices.layer))
    utmost = order[np.append(np.flatnonzero(np.diff(choices.layer)), len(order) - 1)]
    if is_reached(utmost):
        return utmost, False
    raise BadInput(
        "no allocation by knapsack",
        why=f"no choice of measured amounts will do ({told})",
        do="Ask for less, raise max_amount, add amounts to sensitivity.grid, or use allocation: sensitivity.",
    )


def _spared(chosen: Positions, choices: Choices, is_reached: Callable[[Positions], bool]) -> Positions:
    """The choice with the least amounts of equal loss that still reach, one layer after the other."""
    spared = chosen.copy()
    for place in range(len(spared)):
        while (at := int(spared[place])) and choices.layer[at - 1] == choices.layer[at]:
            less = spared.copy()
            less[place] -= 1
            if choices.loss[at - 1] < choices.loss[at] or not is_reached(less):
                break
            spared = less
    return spared


def _solve(
    values: Floats, gains: Floats, least: float, choices: Choices
) -> tuple[Positions | None, bool, str]:
    """Positions of one choice a layer, of least value, whose gains sum up to `least`; whether that is proven; the solver's word."""
    scale = float(np.abs(values).max()) or 1.0
    found = milp(
        values / scale,
        constraints=_constraints(gains, least, choices),
        integrality=np.ones(len(values)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "node_limit": NODES},
    )
    chosen = None if found.x is None else np.flatnonzero(found.x > 0.5)
    return chosen, found.status == 0, found.message


def _relaxed(gains: Floats, least: float, choices: Choices) -> float:
    """The least predicted loss of the linear relaxation."""
    scale = float(np.abs(choices.loss).max()) or 1.0
    found = milp(choices.loss / scale, constraints=_constraints(gains, least, choices), bounds=Bounds(0, 1))
    assert found.x is not None, "a choice was found, so its relaxation has one"
    return max(0.0, float(found.fun) * scale)


def _constraints(gains: Floats, least: float, choices: Choices) -> LinearConstraint:
    at, layers = np.arange(len(choices.layer)), int(choices.layer.max()) + 1
    one_each = csr_array((np.ones(len(at)), (choices.layer, at)), shape=(layers, len(at)))
    matrix = vstack([one_each, csr_array(gains[None])], format="csr")
    return LinearConstraint(matrix, np.append(np.ones(layers), least), np.append(np.ones(layers), np.inf))


def _allocation(
    names: Sequence[str], choices: Choices, chosen: npt.NDArray[np.intp], least: float, is_proven: bool = True
) -> Allocation:
    value = float(choices.loss[chosen].sum())
    message = f"the choice is good, and not proven to be the best by {NODES} nodes and the solver's tolerance"
    unproven = Finding(kind="not_optimal", subject="knapsack", message=message)
    return Allocation(
        amounts={names[choices.layer[at]]: float(choices.amount[at]) for at in chosen},
        predicted_increase=value,
        lower_bound=min(least, value),
        findings=() if is_proven else (unproven,),
    )
