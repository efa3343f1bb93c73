"""Pure. The paired difference of two mean losses against formulas written out by hand and against resampling."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from tasks.measuring.differences import difference, mean_loss


def test_a_mean_loss_counts_each_token_the_same():
    assert mean_loss(np.array([2.0, 12.0]), np.array([1.0, 6.0])) == 2.0


def test_with_one_token_each_the_error_is_that_of_a_mean_of_paired_differences():
    draw = np.random.default_rng(0)
    dense, pruned = draw.normal(size=(2, 50))
    found = difference(pruned, dense, np.ones(50))
    changes = (pruned - dense).tolist()
    assert found.delta == pytest.approx(statistics.fmean(changes), rel=1e-12)
    assert found.stderr == pytest.approx(statistics.stdev(changes) / math.sqrt(50), rel=1e-12)


def test_a_change_in_proportion_to_the_tokens_has_no_error():
    tokens = np.array([1.0, 5.0, 20.0])
    found = difference(tokens * 3, tokens * 1, tokens)
    assert found.delta == 2.0
    assert found.stderr == 0.0


def test_two_texts_by_hand():
    # changes 1 and 5 over 1 and 2 tokens: ratio 2, residuals -1 and 1, variance 2/1 * 2 / 9
    found = difference(np.array([1.0, 5.0]), np.zeros(2), np.array([1.0, 2.0]))
    assert found.delta == 2.0
    assert found.stderr == pytest.approx(math.sqrt(4 / 9))


def test_one_example_has_no_error():
    found = difference(np.array([3.0]), np.array([1.0]), np.array([4.0]))
    assert found.delta == 0.5
    assert found.stderr is None


def test_the_order_of_the_examples_does_not_matter():
    draw = np.random.default_rng(1)
    dense, pruned = draw.normal(size=(2, 30))
    tokens = draw.integers(1, 50, 30).astype(float)
    order = draw.permutation(30)
    one, other = difference(pruned, dense, tokens), difference(pruned[order], dense[order], tokens[order])
    assert one.delta == pytest.approx(other.delta, rel=1e-12)
    assert one.stderr == pytest.approx(other.stderr, rel=1e-12)


def test_the_error_is_that_which_drawing_other_examples_shows():
    draw = np.random.default_rng(2)

    def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = draw.integers(5, 60, 200).astype(float)
        dense = tokens * draw.normal(3, 0.3, 200)
        return dense + tokens * draw.normal(0.1, 0.2, 200), dense, tokens

    found = [difference(*sample()) for _ in range(2000)]
    spread = statistics.stdev(one.delta for one in found)
    claimed = statistics.fmean(one.stderr for one in found if one.stderr is not None)
    assert claimed == pytest.approx(spread, rel=0.06)
