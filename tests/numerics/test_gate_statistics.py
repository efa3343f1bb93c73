"""The statistics of the gate against published values, exact enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.gate.statistics import (
    answers_needed,
    drop_bounds,
    examples_needed,
    fewest_flips,
    holm,
    mcnemar_p,
    share_bound,
    share_p,
    sign_flip_p,
    tango_bounds,
    tango_interval,
)

GOLDEN = [
    # worse, better, samples, McNemar p, bound at 95 %, bound at 99.75 %
    (0, 0, 100, 1.0, 0.02634, 0.07304),
    (5, 0, 100, 0.03125, 0.09916, 0.15032),
    (6, 6, 200, 0.61279, 0.03112, 0.06021),
    (12, 3, 200, 0.01758, 0.08099, 0.11342),
    (15, 9, 500, 0.15373, 0.02937, 0.04429),
    (30, 30, 1000, 0.55129, 0.01299, 0.02295),
    (40, 20, 1000, 0.00674, 0.03328, 0.04374),
    (60, 40, 2000, 0.02844, 0.01842, 0.02480),
]

flips = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 400)).filter(lambda t: sum(t) > 0)


@pytest.mark.parametrize(("worse", "better", "samples", "p", "at_95", "at_9975"), GOLDEN)
def test_mcnemar_and_tango_give_the_golden_values(worse, better, samples, p, at_95, at_9975):
    assert mcnemar_p(worse, better) == pytest.approx(p, abs=5e-6)
    assert tango_bounds(worse, better, samples, 0.05) == pytest.approx(at_95, abs=5e-6)
    assert tango_bounds(worse, better, samples, 0.0025) == pytest.approx(at_9975, abs=2e-5)


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (0, 7), (7, 0), (3, 1), (9, 9), (8, 12)])
def test_mcnemar_is_the_share_of_all_ways_to_turn(worse, better):
    """By listing every way in which so many flips can go, each as likely as the other where nothing changed."""
    ways = [sum(way) for way in itertools.product((0, 1), repeat=worse + better)]
    assert mcnemar_p(worse, better) == pytest.approx(np.mean([turned >= worse for turned in ways]), rel=1e-12)


def test_mcnemar_of_many_is_the_binomial_test_of_each():
    worse, better = np.array([[0, 40], [300, 5000]]), np.array([[0, 12], [310, 4800]])
    for b, c, p in zip(worse.flat, better.flat, mcnemar_p(worse, better).flat, strict=True):
        expected = stats.binomtest(int(b), int(b + c), 0.5, alternative="greater").pvalue if b + c else 1.0
        assert p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("samples", "alpha"), [(1, 0.05), (50, 0.1), (1000, 0.001)])
def test_tango_without_flips_is_its_closed_form(samples, alpha):
    z = stats.norm.isf(alpha)
    assert tango_bounds(0, 0, samples, alpha) == pytest.approx(z**2 / (samples + z**2), rel=1e-9)


@pytest.mark.parametrize("counts", [(12, 3, 200), (0, 0, 100), (5, 0, 60), (30, 30, 1000)])
def test_tango_is_the_maximum_likelihood_score_test(counts):
    """The fitted nuisance rate maximizes the likelihood of the three counts under the supposed drop, found on a grid."""
    worse, better, samples = counts
    drop = float(tango_bounds(worse, better, samples, 0.05))
    grid = np.linspace(0, (1 - drop) / 2, 2_000_001)[:-1]
    same = samples - worse - better
    with np.errstate(divide="ignore", invalid="ignore"):
        turned = np.where(better == 0, 0.0, better * np.log(grid))
        likelihood = worse * np.log(grid + drop) + turned + same * np.log(1 - drop - 2 * grid)
    rate = grid[likelihood.argmax()]
    z = (worse - better - samples * drop) / math.sqrt(samples * (2 * rate + drop * (1 - drop)))
    assert z == pytest.approx(-stats.norm.ppf(0.95), abs=2e-4)


@given(flips)
def test_tango_interval_holds_the_estimate_and_stays_within_one_point_each_way(counts):
    worse, better, same = counts
    samples = worse + better + same
    low, high = tango_interval(worse, better, samples, 0.95)
    assert -1 <= low <= (worse - better) / samples <= high <= 1


@given(flips)
def test_tango_interval_mirrors_when_worse_and_better_change_places(counts):
    worse, better, same = counts
    samples = worse + better + same
    low, high = tango_interval(worse, better, samples, 0.9)
    assert tango_interval(better, worse, samples, 0.9) == pytest.approx((-high, -low), abs=1e-12)


@given(flips, st.floats(0.01, 0.45), st.floats(0.001, 0.009))
def test_bounds_grow_with_confidence_and_the_corrected_one_is_above(counts, alpha, less):
    worse, better, same = counts
    samples = worse + better + same
    for bounds in (tango_bounds, drop_bounds):
        assert bounds(worse, better, samples, alpha - less) >= bounds(worse, better, samples, alpha)
    assert drop_bounds(worse, better, samples, alpha) >= tango_bounds(worse, better, samples, alpha)


@given(st.integers(1, 300))
def test_bounds_exist_when_every_example_flips(samples):
    assert tango_bounds(samples, 0, samples, 0.05) == drop_bounds(samples, 0, samples, 0.05) == 1.0
    assert -1 < tango_bounds(0, samples, samples, 0.05) < drop_bounds(0, samples, samples, 0.05) < 1


def chance_of_passing(bounds, samples, margin, rate, alpha):
    """Exact: a drop of just the margin, wrong-to-right flips at `rate`, summed over all counts."""
    better = np.arange(int(stats.binom.isf(1e-10, samples, rate)) + 1)
    worse = np.arange(int(stats.binom.isf(1e-10, samples, rate + margin)) + 2)
    passes = bounds(worse[:, None], better[None, :], samples, alpha) < margin
    chance = stats.binom.pmf(worse[:, None], samples - better[None, :], (rate + margin) / (1 - rate))
    return float((passes * chance * stats.binom.pmf(better, samples, rate)).sum())


@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.05 * 6 / math.pi**2, 0.001])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05, 0.2])
def test_the_corrected_bound_never_passes_a_drop_of_the_margin_too_often(alpha, margin):
    for samples in (20, 55, 87, 133, 160, 400, 1000):
        for rate in (0.0, 0.001, 0.01, 0.05, 0.2):
            assert chance_of_passing(drop_bounds, samples, margin, rate, alpha) <= alpha


def test_tangos_own_bound_would_where_flips_are_few():
    assert (
        chance_of_passing(tango_bounds, 133, 0.02, 0.0, 0.05)
        == pytest.approx(0.98**133)
        == pytest.approx(0.068, abs=1e-3)
    )


@pytest.mark.parametrize(("count", "samples"), [(0, 20), (3, 50), (49, 50), (50, 50)])
def test_the_bound_of_a_share_is_the_inverse_of_the_binomial_test(count, samples):
    bound = share_bound(count, samples, 0.05)
    assert bound == 1.0 or stats.binom.cdf(count, samples, bound) == pytest.approx(0.05)
    assert share_p(count, samples, 0.1) == pytest.approx(stats.binom.sf(count - 1, samples, 0.1))


def by_hand_holm(p_values, alpha):
    """Straight from the definition: the smallest p of those left is rejected while it is small enough for them all."""
    left, rejected = dict(enumerate(p_values)), set()
    while left:
        best = min(left, key=left.get)
        if not left[best] <= alpha / len(left):
            break
        rejected.add(best)
        del left[best]
    return [index in rejected for index in range(len(p_values))]


def test_holm_rejects_step_by_step_and_stops_at_the_first_failure():
    assert holm([0.04, 0.01, 0.03], 0.05).tolist() == [False, True, False]
    assert holm([0.01, 0.02, 0.04], 0.05).tolist() == [True, True, True]
    assert holm([0.02, 0.02, 0.02], 0.05).tolist() == [False, False, False]
    assert holm([math.nan, 0.01], 0.05).tolist() == [False, True]
    assert holm([], 0.05).tolist() == []


@given(
    st.lists(st.lists(st.floats(0, 1) | st.floats(0, 0.01), min_size=4, max_size=4), min_size=1, max_size=9),
    st.floats(0.001, 0.2),
)
def test_holm_of_many_models_at_once_is_its_definition_for_each(families, alpha):
    assert holm(families, alpha).tolist() == [by_hand_holm(family, alpha) for family in families]


def test_holm_keeps_the_family_wise_error():
    wrong = holm(np.random.default_rng(3).random((20_000, 20)), 0.05).any(axis=1).mean()
    assert 0.045 < wrong < 0.055


@pytest.mark.parametrize(("slices", "fewest"), [(1, 5), (10, 8), (20, 9), (100, 11), (1000, 15)])
def test_fewer_flips_than_the_fewest_never_reject(slices, fewest):
    assert fewest_flips(slices, 0.05) == fewest
    assert mcnemar_p(fewest, 0) <= 0.05 / slices < mcnemar_p(fewest - 1, 0)


def test_sign_flips_agree_with_all_of_them_enumerated():
    differences = np.array([0.9, -0.2, 0.4, 0.35, -0.1, 0.6, 0.05, -0.3])
    total = differences.sum()
    signed = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(signed) >= total - 1e-12)
    assert sign_flip_p(differences, np.random.default_rng(0)) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("samples", [12, 16])
def test_rare_sign_flips_are_known_far_below_one_in_all_that_are_drawn(samples):
    rng = np.random.default_rng(samples)
    for differences in (np.abs(rng.normal(3, 1, samples)), rng.integers(1, 4, samples).astype(float)):
        differences[differences.argmin()] *= -1
        ways = np.array(list(itertools.product((-1, 1), repeat=samples))) @ differences
        exact = float((ways >= differences.sum() - 1e-9).mean())
        assert exact < 2e-3
        assert sign_flip_p(differences, np.random.default_rng(0)) == pytest.approx(exact, rel=0.1)


def test_a_hundred_that_all_became_worse_are_no_chance():
    rng = np.random.default_rng(0)
    assert sign_flip_p(rng.random(100) + 0.1, rng) == pytest.approx(0.5**100)


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip_p(np.zeros(5), np.random.default_rng(0)) == 1.0
    assert sign_flip_p(np.zeros(500), np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize("samples", [30, 150])
def test_sign_flips_of_pure_noise_are_uniform(samples):
    rng = np.random.default_rng(11)
    p_values = [sign_flip_p(rng.normal(size=samples), rng) for _ in range(150)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("rate", "margin", "planned"), [(0.05, 0.02, 1071), (0.10, 0.05, 343), (0.02, 0.01, 1713)]
)
def test_planned_examples_are_those_of_the_planning_formula(rate, margin, planned):
    assert examples_needed(rate, margin, 0.05) == planned


@pytest.mark.parametrize(
    ("rate", "margin"), [(0.02, 0.01), (0.05, 0.02), (0.06, 0.05), (0.1, 0.05), (0.06, 0.15)]
)
def test_as_many_answers_as_are_said_to_be_needed_pass_nine_times_in_ten(rate, margin):
    rng = np.random.default_rng(5)

    def power(samples):
        drawn = rng.multinomial(samples, [rate / 2, rate / 2, 1 - rate], size=20_000)
        return (drop_bounds(drawn[:, 0], drawn[:, 1], samples, 0.05) < margin).mean()

    needed = answers_needed(rate, 0.0, margin, 0.05)
    assert power(round(0.9 * needed)) < 0.9 < power(round(1.1 * needed))


@pytest.mark.parametrize(("margin", "needed"), [(0.01, 361), (0.02, 180), (0.05, 70)])
def test_without_any_flip_a_slice_needs_as_many_as_the_bound_asks(margin, needed):
    assert answers_needed(0.0, 0.0, margin, 0.05) == needed
    assert drop_bounds(0, 0, needed + 3, 0.05) < margin < drop_bounds(0, 0, needed - 3, 0.05)


def test_no_number_of_examples_shows_a_margin_of_nothing():
    assert examples_needed(0.1, 0.0, 0.05) is None
    assert answers_needed(0.0, 0.0, 0.0, 0.05) is None
    assert answers_needed(0.1, 0.05, 0.05, 0.05) is None
    assert answers_needed(0.1, 0.0, 1.0, 0.05) == 1
