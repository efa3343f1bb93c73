"""Combinations of what is cut: counted and chosen as if every one of them were looked at by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.amounts import combinations
from tasks.amounts.combinations import combinations_of, counted, for_budget, for_quality

SHARES = st.floats(0.0, 1.0).map(lambda share: round(share, 2))


@st.composite
def models(draw):
    """What each of some weights counts, and what is left of it at each level of each kind; the first level is the dense one."""
    levels = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    names = [f"w{i}" for i in range(draw(st.integers(1, 5)))]
    amounts = {name: draw(st.integers(1, 1000)) for name in names}
    stays = [{name: [1.0, *(draw(SHARES) for _ in range(count - 1))] for name in names} for count in levels]
    return levels, amounts, stays


@given(models())
@settings(deadline=None)
def test_what_is_left_is_the_sum_over_weights_of_their_shares(model):
    levels, amounts, stays = model
    found = counted(amounts, stays)
    every = combinations_of(levels)
    assert [tuple(line) for line in every.tolist()] == list(itertools.product(*(range(n) for n in levels)))
    for line, left in zip(every, found.left(every), strict=True):
        by_hand = sum(
            amount * math.prod(of_kind[name][level] for of_kind, level in zip(stays, line, strict=True))
            for name, amount in amounts.items()
        )
        assert left == pytest.approx(by_hand)
    assert len(found.amounts) <= len(amounts)
    assert found.left(every)[0] == sum(amounts.values())


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 9)), min_size=1, max_size=30), st.integers(0, 20)
)
def test_the_choices_are_those_of_a_search_through_all(points, most):
    left, increase = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    chosen = for_budget(left, increase, most)
    fitting = [(loss, -size) for size, loss in points if size <= most]
    if fitting:
        assert (increase[chosen], -left[chosen]) == min(fitting)
    else:
        assert (left[chosen], increase[chosen]) == min(points)
    increase[0] = 0.0
    best = min((size, loss) for size, loss in zip(left, increase, strict=True) if loss <= most)
    chosen = for_quality(left, increase, most)
    assert (left[chosen], increase[chosen]) == best


def test_too_many_combinations_are_thinned_and_keep_their_ends(monkeypatch):
    monkeypatch.setattr(combinations, "MOST_COMBINATIONS", 40)
    found = combinations_of([10, 7, 2])
    assert len(found) <= 40
    for kind, count in enumerate((10, 7, 2)):
        assert {0, count - 1} <= set(found[:, kind].tolist())


def test_one_kind_of_one_level_leaves_the_dense_model():
    assert combinations_of([1]).tolist() == [[0]]
    assert counted({"w": 5}, [{"w": [1.0]}]).left(combinations_of([1])).tolist() == [5.0]
