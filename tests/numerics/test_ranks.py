"""The value of a rank equals that of a full sort, whatever the values look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tasks.masks.ranks
from tasks.masks.ranks import nth_lowest, nth_lowest_of_rows

DTYPES = (np.int16, np.int32, np.int64, np.float32, np.float64)


def rising(draw, rows, size):
    """As where each row goes on rising: its runs have nothing in common."""
    return np.sort(draw.standard_normal((rows, size)), axis=1)


def in_heads(draw, rows, size):
    """As behind attention heads, each of another scale."""
    return (
        np.abs(draw.standard_normal((rows, size))) * draw.uniform(0.1, 10, -(-size // 64)).repeat(64)[:size]
    )


def alike(draw, rows, size):
    return np.full((rows, size), 3.0)


def few_kinds(draw, rows, size):
    return draw.integers(0, 3, (rows, size)).astype(float)


def mostly_zero(draw, rows, size):
    return np.where(draw.random((rows, size)) < 0.6, 0.0, draw.random((rows, size)))


def far_apart(draw, rows, size):
    values = np.exp(draw.normal(0, 8, (rows, size)))
    values[:, :: max(1, size // 7)] = np.inf
    return values


LOOKS = (rising, in_heads, alike, few_kinds, mostly_zero, far_apart)


def drawn_values(look, rows, size, dtype, seed=0):
    values = look(np.random.default_rng(seed), rows, size)
    if np.issubdtype(dtype, np.integer):
        values = np.nan_to_num(values * 100, posinf=30000).clip(0, 30000)
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 255, 511, 512, 513, 1000, 4099])
def test_each_row_has_its_own_value(look, dtype, size):
    values = drawn_values(look, 5, size, dtype)
    for count in sorted(
        {1, 2, size // 10, size // 2, size // 2 + 1, size - 1, size} & set(range(1, size + 1))
    ):
        found = nth_lowest_of_rows(values, count)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, np.sort(values, axis=1)[:, count - 1 : count])


@given(
    look=st.sampled_from(LOOKS),
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 4),
    size=st.integers(1, 3000),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_whatever_is_drawn_rows_equal_a_full_sort(look, dtype, rows, size, share, seed):
    values = drawn_values(look, rows, size, dtype, seed)
    count = max(1, round(share * size))
    np.testing.assert_array_equal(
        nth_lowest_of_rows(values, count), np.sort(values, axis=1)[:, count - 1 : count]
    )


def test_rows_that_differ_by_their_scale_each_keep_it():
    values = np.random.default_rng(1).random((6, 2048)) * 10.0 ** np.arange(6)[:, np.newaxis]
    np.testing.assert_array_equal(nth_lowest_of_rows(values, 700)[:, 0], np.sort(values, axis=1)[:, 699])


@pytest.mark.parametrize("look", [in_heads, far_apart])
@pytest.mark.parametrize("count", [1, 1200, 2000])
def test_runs_that_differ_by_their_scale_still_tell_where_the_value_lies(monkeypatch, look, count):
    whole_rows = []
    by_partition = tasks.masks.ranks._nth_by_partition
    monkeypatch.setattr(
        tasks.masks.ranks, "_nth_by_partition", lambda *some: whole_rows.append(some) or by_partition(*some)
    )
    nth_lowest_of_rows(drawn_values(look, 16, 2048, np.float64)[:, 1:], count)
    assert whole_rows == []


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3000, 200_000])
def test_of_many_it_is_that_of_a_full_sort(monkeypatch, look, dtype, size):
    monkeypatch.setattr(tasks.masks.ranks, "_SAMPLE", 1 << 12)
    monkeypatch.setattr(tasks.masks.ranks, "_SLACK", 50)
    values = drawn_values(look, 1, size, dtype)[0]
    for count in {1, -(-size // 3), size}:
        assert nth_lowest(values, count) == np.sort(values)[count - 1]
