"""Pure. Budgets: the exact choice against every combination, the greedy walk against it, and the bound below both."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.amounts import knapsack
from tasks.amounts.allocation import (
    Goal,
    by_sensitivity,
    curves_of,
    for_goal,
    for_quality,
    remaining,
    share_of_weights,
)
from tasks.amounts.knapsack import choices_of, choose_for_goal, choose_for_quality
from tasks.contract import BadInput
from tasks.masks.patterns import pruned_count

GRID = (0.25, 0.5, 0.75)


def rows_of(losses, grid=GRID, dense=1.0):
    return [
        {"layer": name, "amount": amount, "delta": delta, "stderr": 0.0, "dense_value": dense}
        for name, deltas in losses.items()
        for amount, delta in zip(grid, deltas, strict=True)
    ]


@st.composite
def instances(draw):
    count = draw(st.integers(1, 4))
    layers = {f"l{i}": draw(st.integers(1, 40)) for i in range(count)}
    numbers = st.floats(-0.05, 1.0).map(lambda value: round(value, 4))
    losses = {name: [draw(numbers) for _ in GRID] for name in layers}
    worth = {name: draw(st.integers(1, 9)) for name in layers}
    return layers, rows_of(losses), worth


def combinations(layers, rows, max_amount):
    """(amounts, counts, loss) of every way to choose one measured amount, or none, for each layer."""
    curves = curves_of(layers, rows)
    options = [
        [(amount, loss) for amount, loss in zip(*curves[name], strict=True) if amount <= max_amount]
        for name in layers
    ]
    for chosen in itertools.product(*options):
        amounts = dict(zip(layers, (float(amount) for amount, _ in chosen), strict=True))
        counts = {name: pruned_count(amount, layers[name]) for name, amount in amounts.items()}
        yield amounts, counts, math.fsum(loss for _, loss in chosen)


def total_worth(counts, worth):
    return sum(worth[name] * count for name, count in counts.items())


@pytest.mark.parametrize(("wanted", "least"), [(10, 25), (30, 50), (60, 75)])
def test_of_amounts_that_cost_the_same_no_more_goes_than_must(wanted, least):
    layers = {"free": 100, "dear": 100}
    rows = rows_of({"free": [-0.2, 0.0, -0.1], "dear": [0.1, 0.2, 0.3]})
    goal = Goal(worth=dict.fromkeys(layers, 1), wanted=wanted, of=200)
    found = choose_for_goal(layers, rows, goal, 1.0)
    assert found.amounts == {"free": least / 100, "dear": 0.0}


@given(instances(), st.floats(0, 1), st.sampled_from([0.5, 0.75, 1.0]))
@settings(max_examples=80, deadline=None)
def test_no_layer_of_a_choice_could_lose_less_for_as_little(instance, share, max_amount):
    layers, rows, worth = instance
    of = sum(worth[name] * size for name, size in layers.items())
    goal = Goal(worth=worth, wanted=math.floor(share * of), of=of)
    try:
        found = choose_for_goal(layers, rows, goal, max_amount)
    except BadInput:
        return
    curves = curves_of(layers, rows)
    for name, amount in found.amounts.items():
        losses = dict(zip(*(map(float, axis) for axis in curves[name]), strict=True))
        for less in (other for other in losses if other < amount and losses[other] == losses[amount]):
            counts = {n: pruned_count(a, layers[n]) for n, a in (found.amounts | {name: less}).items()}
            assert total_worth(counts, worth) < goal.wanted


@given(instances(), st.floats(0, 1), st.sampled_from([0.5, 0.75, 1.0]))
@settings(max_examples=80, deadline=None)
def test_the_choice_is_the_best_of_all_combinations(instance, share, max_amount):
    layers, rows, worth = instance
    of = sum(worth[name] * size for name, size in layers.items())
    goal = Goal(worth=worth, wanted=math.floor(share * of), of=of)
    allowed = [
        loss
        for _, counts, loss in combinations(layers, rows, max_amount)
        if total_worth(counts, worth) >= goal.wanted
    ]
    if not allowed:
        with pytest.raises(BadInput):
            choose_for_goal(layers, rows, goal, max_amount)
        return
    found = choose_for_goal(layers, rows, goal, max_amount)
    counts = {name: pruned_count(found.amounts[name], size) for name, size in layers.items()}
    assert total_worth(counts, worth) >= goal.wanted
    assert max(found.amounts.values()) <= max_amount
    assert found.predicted_increase == pytest.approx(min(allowed), abs=1e-9)
    assert found.lower_bound <= min(allowed) + 1e-9
    assert found.findings == ()


@given(instances(), st.floats(0, 0.75))
@settings(max_examples=80, deadline=None)
def test_the_relaxation_is_below_every_combination_and_the_greedy_walk_reaches_the_goal(instance, share):
    layers, rows, worth = instance
    of = sum(worth[name] * size for name, size in layers.items())
    goal = Goal(worth=worth, wanted=math.floor(share * of), of=of)
    try:
        found = for_goal(layers, rows, goal, 1.0)
    except BadInput:
        return
    counts = {name: pruned_count(found.amounts[name], size) for name, size in layers.items()}
    reached = total_worth(counts, worth)
    assert reached >= goal.wanted
    assert reached - goal.wanted < max(worth.values())
    assert found.lower_bound <= found.predicted_increase + 1e-9
    curves = curves_of(layers, rows)
    by_hand = math.fsum(float(np.interp(found.amounts[name], *curves[name])) for name in layers)
    assert found.predicted_increase == pytest.approx(by_hand)


@given(instances(), st.floats(0.01, 2.0))
@settings(max_examples=80, deadline=None)
def test_most_weights_within_a_loss_are_the_most_of_all_combinations(instance, increase):
    layers, rows, _ = instance
    most = max(
        sum(counts.values()) for _, counts, loss in combinations(layers, rows, 1.0) if loss <= increase
    )
    found = choose_for_quality(layers, rows, increase, 1.0)
    assert found.predicted_increase <= increase
    removed = sum(pruned_count(found.amounts[name], size) for name, size in layers.items())
    assert removed == most
    assert found.lower_bound <= found.predicted_increase + 1e-9


@given(instances(), st.floats(0.01, 2.0))
@settings(max_examples=80, deadline=None)
def test_the_greedy_walk_stays_within_the_loss_and_one_weight_more_would_not(instance, increase):
    layers, rows, _ = instance
    found = for_quality(layers, rows, increase, 1.0)
    assert found.predicted_increase <= increase + 1e-12
    curves = curves_of(layers, rows)
    ends = {name: pruned_count(float(curves[name][0][-1]), size) for name, size in layers.items()}
    counts = {name: round(found.amounts[name] * size) for name, size in layers.items()}
    if counts != ends:
        assert sum(counts.values()) < sum(ends.values())


def test_the_limit_of_quality_is_relative_to_the_dense_loss():
    layers = {"a": 100}
    rows = rows_of({"a": [0.5, 1.0, 2.0]}, dense=10.0)
    assert for_quality(layers, rows, 0.1, 1.0).amounts == {"a": 0.5}
    assert choose_for_quality(layers, rows, 0.1, 1.0).amounts == {"a": 0.5}
    assert for_quality(layers, rows, 0.15, 1.0).amounts == {"a": 0.62}
    assert choose_for_quality(layers, rows, 0.15, 1.0).amounts == {"a": 0.5}


def test_weights_that_count_more_go_first_at_the_same_price():
    layers = {"cheap": 100, "dear": 100}
    rows = rows_of({"cheap": [0.1, 0.2, 0.3], "dear": [0.1, 0.2, 0.3]})
    goal = Goal(worth={"cheap": 1, "dear": 9}, wanted=675, of=1000)
    for found in (for_goal(layers, rows, goal, 1.0), choose_for_goal(layers, rows, goal, 1.0)):
        assert found.amounts == {"cheap": 0.0, "dear": 0.75}


@pytest.mark.parametrize("less", [0, 1])
def test_a_goal_of_the_whole_room_is_met_to_the_weight_although_the_solver_sees_no_such_fine_steps(less):
    layers = {"a": 8_000_000, "b": 8_000_000, "c": 7}
    rows = rows_of({"a": [0.1, 0.2, 0.3], "b": [0.1, 0.2, 0.3], "c": [0.1, 0.2, 5.0]})
    room = 6_000_000 + 6_000_000 + 5
    goal = Goal(worth=dict.fromkeys(layers, 1), wanted=room - less, of=16_000_007)
    found = choose_for_goal(layers, rows, goal, 1.0)
    assert found.amounts == {"a": 0.75, "b": 0.75, "c": 0.75}
    assert [finding.kind for finding in found.findings] == ["not_optimal"]


def test_a_goal_of_whole_weights_is_what_an_amount_always_meant():
    layers = {"a": 40, "b": 60}
    rows = rows_of({"a": [0.1, 0.2, 0.9], "b": [0.05, 0.3, 0.35]})
    assert by_sensitivity(layers, rows, 0.43, 0.9) == for_goal(
        layers, rows, share_of_weights(layers, 0.43), 0.9
    )


def test_a_layer_that_is_pruned_by_rows_counts_what_its_rows_lose():
    rows = rows_of({"a": [0.1, 0.2, 0.3]})
    assert choices_of({"a": 30}, rows, 1.0).count == (0, 8, 15, 23)
    assert choices_of({"a": 30}, rows, 1.0, {"a": (10, 3)}).count == (0, 10, 20, 20)


def test_nothing_to_remove_removes_nothing():
    layers = {"a": 10}
    rows = rows_of({"a": [-1.0, 0.0, 0.0]})
    goal = Goal(worth={"a": 1}, wanted=0, of=10)
    assert choose_for_goal(layers, rows, goal, 1.0).amounts == {"a": 0.0}
    assert for_goal(layers, rows, goal, 1.0).amounts == {"a": 0.0}


@pytest.mark.parametrize("choose", [for_goal, choose_for_goal])
def test_a_goal_beyond_what_may_go_is_refused_with_the_most_that_can(choose):
    goal = Goal(worth={"a": 1}, wanted=80, of=100)
    with pytest.raises(BadInput, match="0.8000 cannot go.*at most 0.5000"):
        choose({"a": 100}, rows_of({"a": [0.1, 0.2, 0.3]}), goal, 0.5)


@pytest.mark.parametrize("choose", [for_quality, choose_for_quality])
def test_without_a_dense_loss_there_is_nothing_to_be_relative_to(choose):
    with pytest.raises(BadInput, match="dense loss is not known"):
        choose({"a": 100}, rows_of({"a": [0.1, 0.2, 0.3]}, dense=None), 0.1, 1.0)


def test_a_search_that_is_cut_short_says_so(monkeypatch):
    rng = np.random.default_rng(0)
    layers = {f"l{i}": int(rng.integers(1000, 9999)) for i in range(40)}
    rows = rows_of({name: np.sort(rng.random(3)).tolist() for name in layers})
    goal = Goal(worth=dict.fromkeys(layers, 1), wanted=sum(layers.values()) // 2, of=sum(layers.values()))
    whole = choose_for_goal(layers, rows, goal, 1.0)
    monkeypatch.setattr(knapsack, "NODES", 0)
    try:
        cut = choose_for_goal(layers, rows, goal, 1.0)
    except BadInput:
        return
    assert cut.predicted_increase >= whole.predicted_increase - 1e-12


def test_the_gap_to_the_relaxation_is_small_where_there_are_many_layers():
    rng = np.random.default_rng(1)
    grid = tuple(round(0.1 * step, 1) for step in range(1, 10))
    layers = {f"l{i}": int(rng.integers(1000, 90_000)) for i in range(100)}
    losses = {name: np.cumsum(np.sort(rng.random(9)) ** 2).tolist() for name in layers}
    goal = share_of_weights(layers, 0.5)
    found = choose_for_goal(layers, rows_of(losses, grid), goal, 0.9)
    assert found.lower_bound <= found.predicted_increase <= 1.01 * found.lower_bound


@pytest.mark.parametrize(("share", "of", "most"), [(0.3, 10, 3), (0.29, 100, 29), (1.0, 7, 7), (0.0, 7, 0)])
def test_what_may_remain_is_exact_in_decimal(share, of, most):
    assert remaining(share, of) == most
