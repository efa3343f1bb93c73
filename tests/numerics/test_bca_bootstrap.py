"""The bootstrap without resampling: it is what resampling gives, and scipy's BCa, and it keeps its promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases.samples import KINDS, drawn
from scipy import stats

from orchestrator.gate.bootstrap import (
    bca_end,
    bca_p,
    bootstrap_z,
    from_normal,
    widened,
)

RESAMPLES = 20_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [12, 60, 300])
def test_the_chance_is_that_of_resamples(kind, samples):
    rng = np.random.default_rng(samples)
    values = drawn(kind, samples, rng)
    sums = values[rng.integers(0, samples, (RESAMPLES, samples))].sum(axis=1)
    for shift in (0.0, 0.4, -0.4):
        moved = values - values.mean() + shift * values.std() / math.sqrt(samples)
        totals = sums - values.sum() + moved.sum()
        expected = ((totals < -1e-9).mean() + (totals <= 1e-9).mean()) / 2  # half of those that are equal
        near = 0.05 if kind == "few values" else 0.02
        assert stats.norm.cdf(bootstrap_z(moved)) == pytest.approx(expected, abs=near)


def test_the_far_tail_is_that_of_the_binomial_distribution():
    """A resample of 0 and 1 has a binomial sum; between two whole numbers its chance is known however small."""
    values = np.array([1.0] * 30 + [0.0] * 70)
    for count in (2.5, 8.5, 15.5, 30.5, 50.5, 60.5):
        exact = stats.norm.isf(stats.binom.sf(math.floor(count), 100, 0.3))
        assert bootstrap_z(values - count / 100) == pytest.approx(exact, abs=0.06)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [25, 120])
def test_the_ends_are_those_of_scipy(kind, samples):
    rng = np.random.default_rng(samples + len(kind))
    lengths = rng.integers(20, 200, samples).astype(float)
    change = drawn(kind, samples, rng) * lengths
    reference = stats.bootstrap(
        (change, lengths), lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis), paired=True, vectorized=True,
        n_resamples=RESAMPLES, confidence_level=0.95, method="BCa", rng=np.random.default_rng(1),
    )  # fmt: skip
    near = (0.2 if samples == 25 else 0.08) * reference.standard_error
    assert bca_end(change, lengths, -1.959964) == pytest.approx(reference.confidence_interval.low, abs=near)
    assert bca_end(change, lengths, 1.959964) == pytest.approx(reference.confidence_interval.high, abs=near)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001, 1e-7])
def test_the_test_and_the_bound_are_one(alpha):
    """The lower bound at the level p is just 0."""
    values = drawn("right", 400, np.random.default_rng(4))
    low = bca_end(values, np.ones(400), -widened(alpha, 400))
    assert bca_p(values - low) == pytest.approx(alpha, rel=1e-4)
    assert from_normal(-widened(alpha, 400), 400) == pytest.approx(alpha)


def test_values_that_cannot_be_drawn_to_the_other_side():
    assert bca_p(np.full(300, 0.1)) == 0.0
    assert bca_p(np.full(300, -0.1)) == 1.0
    assert bca_p(np.zeros(300)) == 1.0
    assert bootstrap_z(np.array([0.0, 0.0, 1.0, 2.0])) == pytest.approx(stats.norm.ppf(0.5**4))
    assert bca_end(np.full(20, 0.3), np.ones(20), 1.6) == pytest.approx(0.3)


def test_a_value_alone_that_outweighs_all_has_no_end_that_is_known_or_a_wide_one():
    values = np.zeros(40)
    values[0] = 1e6
    end = bca_end(values, np.ones(40), widened(0.05, 40))
    assert end is None or end > 2 * values.mean()


@pytest.mark.parametrize(("samples", "most"), [(20, 0.13), (60, 0.13), (250, 0.09)])
def test_the_upper_bound_of_a_skewed_mean_lies_below_the_truth_about_as_often_as_it_says(samples, most):
    """Loss change of texts of unequal length under lognormal noise, nominal 5 %; few examples do not know their tail."""
    rng = np.random.default_rng(17)
    missed = 0
    truth = math.exp(0.7**2 / 2)
    for _ in range(300):
        lengths = rng.integers(20, 200, samples).astype(float)
        end = bca_end(lengths * rng.lognormal(0.0, 0.7, samples), lengths, widened(0.05, samples))
        missed += end is not None and end < truth
    assert missed / 300 < most
