"""Pure. A goal divided over layers that lose as many weights in every row: rounded up, and never past what a layer may lose."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.amounts.allocation import Allocation
from tasks.amounts.dividing import whole_rows


def rounded(amount, outputs, inputs, most):
    allocation = Allocation(amounts={"a": amount}, predicted_increase=0.0, lower_bound=0.0)
    return whole_rows(allocation, {"a": (outputs, inputs)}, most).amounts["a"]


@pytest.mark.parametrize(
    ("amount", "inputs", "most", "lost"),
    [(0.5, 7, 0.5, 3), (0.5, 7, 0.9, 4), (0.9, 7, 0.9, 6), (0.3, 10, 0.3, 3)],
)
def test_a_row_loses_no_more_than_the_most_of_its_layer(amount, inputs, most, lost):
    assert rounded(amount, 4, inputs, most) == lost / inputs


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 9), st.integers(1, 40))
def test_less_than_asked_goes_only_where_one_more_of_each_row_would_be_too_many(
    percent, more, outputs, inputs
):
    amount, most = percent / 100, min(100, percent + more) / 100
    lost = round(rounded(amount, outputs, inputs, most) * inputs)
    limit = Fraction(repr(most)) * inputs
    assert lost <= limit
    asked = Fraction(repr(amount)) * inputs * outputs - Fraction(1, 2)
    assert lost * outputs >= asked or lost + 1 > limit


def test_layers_of_other_scopes_are_as_they_were():
    allocation = Allocation(amounts={"a": 0.31, "b": 0.31}, predicted_increase=0.0, lower_bound=0.0)
    found = whole_rows(allocation, {"a": (2, 10)}, 1.0)
    assert found.amounts == {"a": 0.3, "b": 0.31}
