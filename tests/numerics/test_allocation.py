"""Allocations against brute force and a linear program solver: exact budgets, least predicted loss."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import linprog

from tasks.amounts.allocation import by_sensitivity, convex_hull, curves_of, monotone_curve, uniform
from tasks.contract import BadInput
from tasks.masks.patterns import pruned_count

GRID = (0.1, 0.3, 0.5, 0.7, 0.9)


def row(layer: str, amount: float, delta: float, stderr: float | None = None, **more):
    return {"layer": layer, "amount": amount, "delta": delta, "stderr": stderr, **more}


def draw(generator: np.random.Generator, layers: int):
    """Sizes and sensitivity rows of a model: rising, noisy, flat or falling curves, with or without errors."""
    sizes = {f"layer{index}": int(generator.integers(1, 5000)) for index in range(layers)}
    rows = []
    for name in sizes:
        kind = generator.integers(0, 4)
        scale = float(generator.random()) * 3
        for amount in GRID:
            delta = scale * amount ** generator.integers(1, 4)
            if kind == 1:
                delta += float(generator.normal(0, 0.3))
            elif kind == 2:
                delta = 0.0
            elif kind == 3:
                delta = -delta
            stderr = None if kind == 2 else float(generator.random() + 0.01)
            rows.append(row(name, amount, delta, stderr, parameters=sizes[name]))
    generator.shuffle(rows)
    return sizes, rows


def predicted(curves, amounts) -> float:
    return math.fsum(float(np.interp(amounts[name], *curve)) for name, curve in curves.items())


def test_uniform_gives_every_layer_the_same():
    allocation = uniform({"a": 10, "b": 3}, 0.4)
    assert allocation.amounts == {"a": 0.4, "b": 0.4}
    assert math.isnan(allocation.predicted_increase)


def test_the_insensitive_layer_goes_first():
    rows = [row("a", 0.5, 1.0), row("a", 0.9, 2.0), row("b", 0.5, 0.1), row("b", 0.9, 0.3)]
    allocation = by_sensitivity({"a": 100, "b": 100}, rows, 0.45, 0.9)
    assert allocation.amounts == {"a": 0.0, "b": 0.9}
    assert allocation.predicted_increase == pytest.approx(0.3)


def test_a_layer_is_priced_by_loss_per_weight_and_not_by_share():
    rows = [row("small", 0.5, 0.1), row("large", 0.5, 0.2)]
    allocation = by_sensitivity({"small": 10, "large": 1000}, rows, 0.25, 1.0)
    assert allocation.amounts["small"] == 0.0
    assert round(allocation.amounts["large"] * 1000) == pruned_count(0.25, 1010)


def test_equal_layers_without_any_loss_are_pruned_evenly_step_by_step():
    rows = [row(name, amount, 0.0) for name in "abc" for amount in (0.3, 0.6, 0.9)]
    amounts = by_sensitivity({"a": 100, "b": 100, "c": 100}, rows, 0.9, 0.95).amounts
    assert amounts == {"a": 0.9, "b": 0.9, "c": 0.9}


def test_the_budget_is_met_exactly_in_every_drawn_case():
    generator = np.random.default_rng(5)
    for _ in range(400):
        sizes, rows = draw(generator, int(generator.integers(1, 12)))
        limit = float(generator.choice([0.9, 0.5, 0.95, 0.77]))
        amount = float(generator.random()) * min(limit, 0.9) * 0.99
        room = sum(pruned_count(min(limit, 0.9), size) for size in sizes.values())
        wanted = pruned_count(amount, sum(sizes.values()))
        if wanted > room:
            continue
        allocation = by_sensitivity(sizes, rows, amount, limit)
        counts = {name: pruned_count(allocation.amounts[name], size) for name, size in sizes.items()}
        assert sum(counts.values()) == wanted
        assert all(counts[name] <= pruned_count(min(limit, 0.9), size) for name, size in sizes.items())
        assert allocation.lower_bound <= allocation.predicted_increase + 1e-12


def test_no_allocation_is_cheaper_by_the_linear_program():
    generator = np.random.default_rng(6)
    for _ in range(60):
        sizes, rows = draw(generator, int(generator.integers(2, 9)))
        sizes = {name: size * 1000 for name, size in sizes.items()}  # so that whole weights do not matter
        rows = [{**entry, "parameters": sizes[entry["layer"]]} for entry in rows]
        amount = float(generator.random()) * 0.85
        allocation = by_sensitivity(sizes, rows, amount, 0.9)
        costs, lengths, equality = [], [], []
        for name, (amounts, deltas) in curves_of(sizes, rows).items():
            hull_amounts, hull_deltas = convex_hull((amounts, deltas))
            for step in range(len(hull_amounts) - 1):
                length = hull_amounts[step + 1] - hull_amounts[step]
                costs.append((hull_deltas[step + 1] - hull_deltas[step]) / length)
                lengths.append((0.0, length))
                equality.append(sizes[name])
        total = sum(sizes.values())
        best = linprog(costs, A_eq=[equality], b_eq=[amount * total], bounds=lengths, method="highs")
        assert best.status == 0
        assert allocation.lower_bound == pytest.approx(best.fun, abs=2e-3)
        assert allocation.lower_bound >= best.fun - 2e-3


def test_no_choice_of_grid_amounts_is_cheaper_on_convex_curves():
    generator = np.random.default_rng(7)
    for _ in range(40):
        sizes = dict.fromkeys("abc", 1000)
        rows = []
        for name in sizes:
            steps = np.sort(generator.random(len(GRID)))  # rising slopes: convex
            deltas = np.cumsum(steps * np.diff([0, *GRID]))
            rows += [row(name, amount, float(delta)) for amount, delta in zip(GRID, deltas, strict=True)]
        chosen = generator.choice([0.0, *GRID], 3)
        amount = float(chosen.mean())
        allocation = by_sensitivity(sizes, rows, amount, 0.9)
        curves = curves_of(sizes, rows)
        cheapest = min(
            predicted(curves, dict(zip("abc", each, strict=True)))
            for each in itertools.product([0.0, *GRID], repeat=3)
            if abs(sum(each) / 3 - amount) < 1e-9
        )
        assert allocation.predicted_increase <= cheapest + 1e-9
        assert allocation.predicted_increase == pytest.approx(allocation.lower_bound, abs=1e-9)


def test_curves_never_fall_start_at_zero_and_keep_what_already_rises():
    amounts, deltas = monotone_curve([(0.5, 0.2, 0.1), (0.1, 0.1, 0.1), (0.9, 1.0, 0.1)])
    assert amounts.tolist() == [0.0, 0.1, 0.5, 0.9]
    assert deltas.tolist() == pytest.approx([0.0, 0.1, 0.2, 1.0])
    _, deltas = monotone_curve([(0.1, -1.0, 0.1), (0.5, 3.0, 0.1), (0.9, 1.0, 0.1)])
    assert deltas.tolist() == pytest.approx([0.0, 0.0, 2.0, 2.0])


def test_a_precise_measurement_outweighs_a_noisy_one():
    _, deltas = monotone_curve([(0.1, 2.0, 1.0), (0.5, 1.0, 0.1)])
    assert deltas.tolist() == pytest.approx([0.0, 102 / 101, 102 / 101])
    _, deltas = monotone_curve([(0.1, 2.0, 1.0), (0.5, 1.0, 0.0)])
    assert deltas.tolist() == pytest.approx(
        [0.0, 1.5, 1.5]
    )  # an error of zero says nothing: all weigh the same


def test_an_amount_measured_twice_is_averaged():
    amounts, deltas = monotone_curve([(0.5, 1.0, 0.1), (0.5, 3.0, 0.1)])
    assert amounts.tolist() == [0.0, 0.5]
    assert deltas.tolist() == pytest.approx([0.0, 2.0])


def test_hulls_lie_below_their_curves_are_convex_and_touch_the_ends():
    generator = np.random.default_rng(8)
    for _ in range(200):
        points = [
            (float(a), float(generator.random()), 0.0) for a in np.unique(generator.random(6).round(3)) if a
        ]
        curve = monotone_curve(points)
        amounts, deltas = convex_hull(curve)
        slopes = np.diff(deltas) / np.diff(amounts)
        assert (np.diff(slopes) > -1e-12).all()
        assert (np.interp(curve[0], amounts, deltas) <= curve[1] + 1e-12).all()
        assert (amounts[0], amounts[-1], deltas[-1]) == (0.0, curve[0][-1], curve[1][-1])


def test_nothing_is_taken_beyond_max_amount_or_what_was_measured():
    rows = [row("a", 0.5, 0.0), row("b", 0.5, 5.0), row("b", 0.8, 9.0)]
    allocation = by_sensitivity({"a": 1000, "b": 1000}, rows, 0.4, 0.6)
    assert allocation.amounts["a"] == 0.5
    assert allocation.amounts["b"] == pytest.approx(0.3)
    with pytest.raises(BadInput, match=r"at most 0\.5500"):
        by_sensitivity({"a": 1000, "b": 1000}, rows, 0.56, 0.6)


def test_a_max_amount_inside_the_grid_cuts_the_curve_there():
    rows = [row("a", 0.5, 1.0), row("a", 0.9, 3.0)]
    allocation = by_sensitivity({"a": 1000}, rows, 0.7, 0.7)
    assert allocation.amounts == {"a": 0.7}
    assert allocation.predicted_increase == pytest.approx(2.0)
    assert by_sensitivity({"a": 1000}, rows, 0.1, 0.1).amounts == {"a": 0.1}


def test_nothing_wanted_is_nothing_taken():
    allocation = by_sensitivity({"a": 100}, [row("a", 0.5, 1.0)], 0.0, 0.95)
    assert allocation.amounts == {"a": 0.0}
    assert allocation.predicted_increase == 0.0


def test_rows_of_other_layers_are_left_out():
    rows = [row("a", 0.5, 1.0), row("lm_head", 0.5, float("nan"))]
    assert by_sensitivity({"a": 100}, rows, 0.5, 0.95).amounts == {"a": 0.5}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([row("a", 0.5, 1.0)], "1 layers have no measured sensitivity: b"),
        ([row("a", 0.5, 1.0), row("b", 0.0, 0.0)], "allow at most 0.2500"),
        ([row("a", 0.5, 1.0), row("b", 1.5, 0.0)], "amount 1.5"),
        ([row("a", 0.5, 1.0), row("b", -0.5, None)], "amount -0.5"),
        ([row("a", 0.5, 1.0), row("b", 0.5, 1.0, parameters=7)], "b has 100 weights and had 7"),
    ],
)
def test_measurements_that_cannot_be_used_are_refused(rows, reason):
    with pytest.raises(BadInput, match="no allocation") as caught:
        by_sensitivity({"a": 100, "b": 100}, rows, 0.5, 0.95)
    assert reason in caught.value.why


def test_the_order_of_the_rows_changes_nothing():
    generator = np.random.default_rng(9)
    sizes, rows = draw(generator, 8)
    first = by_sensitivity(sizes, rows, 0.5, 0.9)
    generator.shuffle(rows)
    assert by_sensitivity(sizes, rows, 0.5, 0.9) == first


@pytest.mark.parametrize("broken", [None, float("nan"), float("inf")])
def test_a_layer_stays_below_the_amount_that_broke_the_model(broken):
    rows = [row("a", amount, 0.0) for amount in (0.2, 0.4, 0.6, 0.8)]
    rows += [row("b", 0.2, 0.1), row("b", 0.4, 0.2), row("b", 0.6, broken), row("b", 0.8, 0.3)]
    allocation = by_sensitivity({"a": 100, "b": 100}, rows, 0.6, 0.95)
    assert allocation.amounts == {"a": 0.8, "b": 0.4}
    with pytest.raises(BadInput, match="at most"):
        by_sensitivity({"a": 100, "b": 100}, rows, 0.65, 0.95)


def test_a_layer_that_breaks_the_model_at_every_amount_is_left_dense():
    rows = [row("a", 0.9, 1.0), row("b", 0.1, None), row("b", 0.9, None)]
    assert by_sensitivity({"a": 100, "b": 100}, rows, 0.4, 0.95).amounts == {"a": 0.8, "b": 0.0}
