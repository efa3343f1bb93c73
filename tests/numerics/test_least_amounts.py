"""Pure. Measured allocations with a least amount for each layer, against every choice there is."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.amounts.allocation import (
    Goal,
    by_sensitivity,
    convex_hull,
    curves_of,
    for_goal,
    for_quality,
    monotone_curve,
)
from tasks.amounts.knapsack import choose_for_goal, choose_for_quality
from tasks.contract import BadInput
from tasks.masks.patterns import pruned_count

GRID = (0.25, 0.5, 0.75)
LEAST = st.sampled_from([0.125, 0.25, 0.375, 0.5])


def rows_of(losses):
    return [
        {"layer": name, "amount": amount, "delta": delta, "stderr": 0.0, "dense_value": 1.0}
        for name, deltas in losses.items()
        for amount, delta in zip(GRID, deltas, strict=True)
    ]


@st.composite
def instances(draw):
    """Up to three layers of 8 or 16 weights, so that every eighth of one is a whole number of them, on convex curves."""
    layers = {f"l{index}": draw(st.sampled_from([8, 16])) for index in range(draw(st.integers(1, 3)))}
    losses = {}
    for name in layers:
        drawn = [draw(st.integers(0, 100)) / 100 for _ in GRID]
        rising = monotone_curve([(amount, loss, 0.0) for amount, loss in zip(GRID, drawn, strict=True)])
        losses[name] = np.interp(GRID, *convex_hull(rising)).tolist()
    return layers, rows_of(losses)


def every_count(layers, rows, least):
    """(counts, loss) of all ways to take from each layer at least so much and at most what was measured."""
    curves = curves_of(layers, rows)
    options = [range(pruned_count(least, size), size * 3 // 4 + 1) for size in layers.values()]
    for counts in itertools.product(*options):
        chosen = dict(zip(layers, counts, strict=True))
        yield chosen, math.fsum(np.interp(chosen[name] / layers[name], *curves[name]) for name in layers)


def every_choice(layers, rows, least):
    """The same of amounts that were measured."""
    measured = {name: [size * quarter // 4 for quarter in range(4)] for name, size in layers.items()}
    for counts, loss in every_count(layers, rows, least):
        if all(counts[name] in measured[name] for name in layers):
            yield counts, loss


def removed(found, layers):
    return {name: pruned_count(found.amounts[name], size) for name, size in layers.items()}


@given(instances(), LEAST, st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_no_way_to_meet_the_amount_with_so_much_of_each_layer_is_cheaper(instance, least, share):
    layers, rows = instance
    wanted = pruned_count(share, sum(layers.values()))
    allowed = [loss for counts, loss in every_count(layers, rows, least) if sum(counts.values()) == wanted]
    if not allowed:
        with pytest.raises(BadInput, match="min_amount|max_amount"):
            by_sensitivity(layers, rows, share, 1.0, least)
        return
    found = by_sensitivity(layers, rows, share, 1.0, least)
    assert sum(removed(found, layers).values()) == wanted
    assert min(found.amounts.values()) >= least
    assert found.predicted_increase == pytest.approx(min(allowed), abs=1e-9)
    assert found.lower_bound == pytest.approx(min(allowed), abs=1e-9)


@given(instances(), LEAST, st.floats(-0.2, 1.0))
@settings(max_examples=60, deadline=None)
def test_no_combination_of_measured_amounts_with_so_much_of_each_layer_is_cheaper(instance, least, share):
    layers, rows = instance
    of = sum(layers.values())
    goal = Goal(worth=dict.fromkeys(layers, 1), wanted=math.floor(share * of), of=of)
    allowed = [
        loss for counts, loss in every_choice(layers, rows, least) if sum(counts.values()) >= goal.wanted
    ]
    if not allowed:
        with pytest.raises(BadInput):
            choose_for_goal(layers, rows, goal, 1.0, min_amount=least)
        return
    found = choose_for_goal(layers, rows, goal, 1.0, min_amount=least)
    assert sum(removed(found, layers).values()) >= goal.wanted
    assert min(found.amounts.values()) >= least
    assert found.predicted_increase == pytest.approx(min(allowed), abs=1e-9)
    assert found.lower_bound <= min(allowed) + 1e-9


@given(instances(), LEAST, st.integers(1, 200).map(lambda cents: cents / 100 + 0.00317))
@settings(max_examples=60, deadline=None)
def test_most_goes_within_a_quality_with_so_much_of_each_layer(instance, least, increase):
    layers, rows = instance
    within = [sum(counts.values()) for counts, loss in every_choice(layers, rows, least) if loss <= increase]
    if not within:
        with pytest.raises(BadInput):
            choose_for_quality(layers, rows, increase, 1.0, min_amount=least)
    else:
        found = choose_for_quality(layers, rows, increase, 1.0, min_amount=least)
        assert sum(removed(found, layers).values()) == max(within)
        assert min(found.amounts.values()) >= least
    smooth = [sum(counts.values()) for counts, loss in every_count(layers, rows, least) if loss <= increase]
    if not smooth:
        with pytest.raises(BadInput, match="min_amount"):
            for_quality(layers, rows, increase, 1.0, least)
        return
    walked = for_quality(layers, rows, increase, 1.0, least)
    assert sum(removed(walked, layers).values()) == max(smooth)
    assert min(walked.amounts.values()) >= least
    assert walked.predicted_increase <= increase + 1e-9


def test_a_budget_that_is_met_anyway_still_takes_the_least_of_each_layer():
    layers, rows = {"a": 8, "b": 8}, rows_of({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.3, 0.6]})
    goal = Goal(worth={"a": 1, "b": 1}, wanted=0, of=16)
    for found in (
        for_goal(layers, rows, goal, 1.0, 0.25),
        choose_for_goal(layers, rows, goal, 1.0, min_amount=0.25),
    ):
        assert found.amounts == {"a": 0.25, "b": 0.25}
        assert found.predicted_increase == pytest.approx(0.2)
        assert found.lower_bound == pytest.approx(0.2)


def test_a_layer_that_was_not_measured_so_far_is_named():
    rows = rows_of({"a": [0.1, 0.2, 0.3], "b": [0.1, float("nan"), 0.6]})
    for choose in (
        lambda: by_sensitivity({"a": 8, "b": 8}, rows, 0.5, 1.0, 0.5),
        lambda: choose_for_quality({"a": 8, "b": 8}, rows, 0.9, 1.0, min_amount=0.5),
    ):
        with pytest.raises(BadInput, match="b .*min_amount|min_amount.* b"):
            choose()


def test_a_least_amount_that_is_more_than_all_that_should_go_is_refused():
    rows = rows_of({"a": [0.1, 0.2, 0.3]})
    with pytest.raises(BadInput, match=r"min_amount 0.5 of every layer is more than the 0.25"):
        by_sensitivity({"a": 8}, rows, 0.25, 1.0, 0.5)
