"""The Pareto front against its definition, pair by pair."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.reports.front import front, staircase

VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf])
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=12)
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=12)


def beats(one, other):
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(
        a < b for a, b in zip(one, other, strict=True)
    )


@given(ROWS)
def test_the_front_is_what_no_row_beats(rows):
    assert front(rows) == {i for i, row in enumerate(rows) if not any(beats(other, row) for other in rows)}


def test_equal_rows_stand_together():
    assert front([(1, 2), (1, 2), (2, 2)]) == {0, 1}


def test_what_is_not_known_wins_nothing_and_loses_only_to_what_is_as_good_elsewhere():
    assert front([(1.0, math.inf), (1.0, 0.9)]) == {1}
    assert front([(0.5, math.inf), (1.0, 0.9)]) == {0, 1}


@given(POINTS)
def test_a_staircase_goes_right_and_down_through_exactly_the_front(points):
    corners = staircase(points)
    for (x1, y1), (x2, y2) in pairwise(corners):
        assert x1 <= x2
        assert y1 >= y2
        assert (x1 == x2) != (y1 == y2)
    assert {points[place] for place in front(points)} <= set(corners)
    assert not set(corners[::2]) - set(points)


def test_a_staircase_by_hand():
    assert staircase([(1, 3), (2, 3), (2, 1), (0, 5)]) == [(0, 5), (1, 5), (1, 3), (2, 3), (2, 1)]
    assert staircase([]) == []
