"""Drawn resamples and exchanges: of means they give what is known without drawing, in the middle and in the far tails."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cases.samples import KINDS, drawn
from scipy import stats

from orchestrator.gate.bootstrap import bca_end, bca_p, widened
from orchestrator.gate.resampling import RESAMPLES, Resamples, exchange_p


def of_mean(values, times=None, seed=1):
    """Resamples of a mean, as those of any statistic are drawn."""
    times = np.ones(len(values)) if times is None else times
    size = times.sum()
    mean = float(times @ values / size)
    return Resamples(
        statistic=lambda counts: counts @ values / size, times=times, influence=(values - mean) / (size - 1),
        observed=mean, rng=np.random.default_rng(seed),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [0.05, 1e-3, 1e-5])
def test_ends_are_those_of_the_bootstrap_without_resampling(kind, tail):
    values = drawn(kind, 80, np.random.default_rng(2))
    near = (0.08 if tail > 0.01 else 0.2) * values.std() / math.sqrt(80)
    for z in (-widened(tail, 80), widened(tail, 80)):
        assert of_mean(values).end(z) == pytest.approx(bca_end(values, np.ones(80), z), abs=near)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deviations", [0.5, 1.8, 3.0, 4.5])
def test_p_values_are_those_of_the_bootstrap_without_resampling(kind, deviations):
    values = drawn(kind, 120, np.random.default_rng(3))
    values += deviations * values.std() / math.sqrt(120) - values.mean()
    expected = math.log(bca_p(values))
    assert math.log(of_mean(values).p_value()) == pytest.approx(expected, abs=0.3 - 0.05 * expected)


def test_equal_units_are_one_that_is_there_so_many_times():
    values, times = np.array([-1.0, 0.0, 2.0]), np.array([30.0, 50.0, 20.0])
    together, apart = of_mean(values, times), of_mean(np.repeat(values, times.astype(int)))
    for z in (-4.5, -1.0, 1.0, 4.5):
        assert together.quantile(z) == pytest.approx(apart.quantile(z), abs=0.02)


@pytest.mark.parametrize("count", [8, 15, 20, 30, 40, 50, 60, 70])
def test_chances_are_binomial_however_small_they_are(count):
    """A resample of 0 and 1 has a binomial sum."""
    found = of_mean(np.array([0.0, 1.0]), np.array([70.0, 30.0])).z((count + 0.5) / 100)
    expected = stats.norm.ppf(stats.binom.cdf(count, 100, 0.3))
    if count > 30:
        expected = stats.norm.isf(stats.binom.sf(count, 100, 0.3))
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("tail", [1e-3, 1e-5, 1e-8])
def test_quantiles_are_binomial_however_far_they_lie(tail):
    draws = of_mean(np.array([0.0, 1.0]), np.array([70.0, 30.0]))
    assert draws.quantile(stats.norm.ppf(tail)) * 100 == pytest.approx(stats.binom.ppf(tail, 100, 0.3), abs=1)
    assert draws.quantile(stats.norm.isf(tail)) * 100 == pytest.approx(stats.binom.isf(tail, 100, 0.3), abs=1)


def test_of_what_no_resample_reaches_no_more_is_claimed_than_of_the_most_extreme_one():
    draws = of_mean(np.array([0.5, 1.0]), np.array([5.0, 5.0]))
    assert stats.norm.cdf(draws.z(0.4)) == pytest.approx(0.5**10, rel=0.15)
    assert stats.norm.sf(draws.z(1.1)) == pytest.approx(0.5**10, rel=0.15)
    assert draws.quantile(-30.0) == pytest.approx(0.5)
    assert 0 < draws.p_value() < 0.02


def test_a_statistic_that_never_moves_has_itself_for_every_quantile():
    draws = of_mean(np.full(20, 0.3))
    assert {round(draws.quantile(z), 12) for z in (-5.0, 0.0, 5.0)} == {0.3}


def test_a_tail_that_influence_does_not_foresee_is_still_seen_by_plain_draws():
    """A statistic that jumps where one unit is missing, though its influence says that it hardly counts."""
    times = np.ones(50)
    draws = Resamples(
        statistic=lambda counts: counts[:, 1:].sum(axis=1) - 100 * (counts[:, 0] == 0), times=times,
        influence=np.linspace(-1, 1, 50), observed=49.0, rng=np.random.default_rng(4),
    )  # fmt: skip
    assert stats.norm.cdf(draws.z(0.0)) == pytest.approx((1 - 1 / 50) ** 50, abs=0.02)


def exchanged(differences, seed=0):
    """The test of a sum of differences, whose signs turn where the two answers change places."""
    values, times = np.unique(differences, return_counts=True)
    total = float(differences.sum())
    return exchange_p(
        lambda counts: total - 2 * counts @ values, times.astype(float), 2 * values, total,
        np.random.default_rng(seed),
    )  # fmt: skip


def enumerated(differences):
    sizes = np.abs(differences)
    sums = [float(np.dot(signs, sizes)) for signs in itertools.product((1.0, -1.0), repeat=len(differences))]
    return sum(one >= differences.sum() - 1e-9 for one in sums) / len(sums)


@pytest.mark.parametrize("seed", range(8))
def test_exchanges_agree_with_all_of_them_enumerated(seed):
    rng = np.random.default_rng(seed)
    differences = rng.normal(seed / 4, 1.0, 13).round(1)
    p = enumerated(differences)
    assert exchanged(differences) == pytest.approx(p, rel=0.15, abs=3 / RESAMPLES)


@pytest.mark.parametrize(("worse", "better"), [(20, 0), (40, 2), (100, 10), (150, 0)])
def test_rare_exchanges_are_known_far_below_one_in_all_that_are_drawn(worse, better):
    p = stats.binom.sf(worse - 1, worse + better, 0.5)
    differences = np.array([1.0] * worse + [-1.0] * better)
    assert exchanged(differences) == pytest.approx(p, rel=0.15)


def test_where_less_is_lost_than_by_chance_nothing_is_shown():
    assert exchanged(np.array([-1.0] * 10 + [1.0] * 2)) > 0.9
