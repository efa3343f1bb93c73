"""The statistics of the gate against published values, exact enumeration and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.statistics import (
    NORMAL_FROM,
    RESAMPLES,
    bootstrap_bounds,
    bootstrap_ratios,
    holm,
    mcnemar_p,
    samples_needed,
    samples_needed_without_flips,
    sign_flip_p,
    tango_bound,
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
    assert tango_bound(worse, better, samples, 0.95) == pytest.approx(at_95, abs=5e-6)
    assert tango_bound(worse, better, samples, 0.9975) == pytest.approx(at_9975, abs=5e-6)


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (0, 7), (3, 1), (9, 9), (40, 12)])
def test_mcnemar_is_the_binomial_test(worse, better):
    if worse + better:
        expected = stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue
        assert mcnemar_p(worse, better) == pytest.approx(expected, rel=1e-12)
    else:
        assert mcnemar_p(worse, better) == 1.0


@pytest.mark.parametrize(("samples", "confidence"), [(1, 0.95), (50, 0.9), (1000, 0.999)])
def test_tango_without_flips_is_its_closed_form(samples, confidence):
    z = stats.norm.ppf(confidence)
    assert tango_bound(0, 0, samples, confidence) == pytest.approx(z**2 / (samples + z**2), rel=1e-9)


def test_tango_is_the_maximum_likelihood_score_test():
    """The fitted nuisance rate maximizes the likelihood of the three counts under the supposed drop."""
    worse, better, samples, drop = 12, 3, 200, 0.08098946
    grid = np.linspace(1e-6, (1 - drop) / 2 - 1e-6, 2_000_001)
    same = samples - worse - better
    likelihood = worse * np.log(grid + drop) + better * np.log(grid) + same * np.log(1 - drop - 2 * grid)
    rate = grid[likelihood.argmax()]
    z = (worse - better - samples * drop) / math.sqrt(samples * (2 * rate + drop * (1 - drop)))
    assert z == pytest.approx(-stats.norm.ppf(0.95), abs=2e-4)
    assert tango_bound(worse, better, samples, 0.95) == pytest.approx(drop, abs=1e-5)


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


@given(flips, st.floats(0.55, 0.99), st.floats(0.001, 0.009))
def test_tango_bound_grows_with_confidence(counts, confidence, more):
    worse, better, same = counts
    samples = worse + better + same
    lower = tango_bound(worse, better, samples, confidence)
    assert tango_bound(worse, better, samples, confidence + more) >= lower


@given(st.integers(1, 300))
def test_tango_bound_exists_when_every_example_flips(samples):
    assert tango_bound(samples, 0, samples, 0.95) == 1.0
    assert -1 < tango_bound(0, samples, samples, 0.95) < 1


def test_tango_bound_keeps_its_error_rate():
    """True drop 5 points, n = 200: the 95 % bound lies below the truth in about 5 % of the draws."""
    rng = np.random.default_rng(7)
    draws = rng.multinomial(200, [0.08, 0.03, 0.89], size=4000)
    missed = np.mean([tango_bound(int(b), int(c), 200, 0.95) < 0.05 for b, c, _ in draws])
    assert 0.035 < missed < 0.065


def test_holm_rejects_step_by_step_and_stops_at_the_first_failure():
    assert holm([0.04, 0.01, 0.03], 0.05) == (False, True, False)
    assert holm([0.01, 0.02, 0.04], 0.05) == (True, True, True)
    assert holm([0.02, 0.02, 0.02], 0.05) == (False, False, False)
    assert holm([], 0.05) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.2))
def test_holm_lies_between_bonferroni_and_no_correction(p_values, alpha):
    for p, rejected in zip(p_values, holm(p_values, alpha), strict=True):
        if p <= alpha / len(p_values):
            assert rejected
        if rejected:
            assert p <= alpha


def test_holm_keeps_the_family_wise_error():
    rng = np.random.default_rng(3)
    wrong = np.mean([any(holm(list(rng.random(20)), 0.05)) for _ in range(4000)])
    assert 0.035 < wrong < 0.065


def test_sign_flips_agree_with_all_of_them_enumerated():
    differences = np.array([0.9, -0.2, 0.4, 0.35, -0.1, 0.6, 0.05, -0.3])
    total = differences.sum()
    signed = [np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=8)]
    exact = np.mean(np.array(signed) >= total - 1e-12)
    assert sign_flip_p(differences, np.random.default_rng(0)) == pytest.approx(exact, abs=0.01)


def test_sign_flips_and_their_normal_limit_agree_where_they_meet():
    differences = np.random.default_rng(1).normal(0.08, 1.0, NORMAL_FROM)
    limit = sign_flip_p(differences, np.random.default_rng(0))
    drawn = sign_flip_p(differences[:-1], np.random.default_rng(0))
    assert drawn == pytest.approx(limit, abs=0.05)


def test_no_difference_at_all_is_no_evidence():
    assert sign_flip_p(np.zeros(5), np.random.default_rng(0)) == 1.0
    assert sign_flip_p(np.zeros(500), np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize("samples", [30, 400])
def test_sign_flips_of_pure_noise_are_uniform(samples):
    rng = np.random.default_rng(11)
    p_values = [sign_flip_p(rng.normal(size=samples), rng) for _ in range(150)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_bootstrap_draws_are_sorted_seeded_and_as_many_as_said():
    losses, tokens = np.random.default_rng(2).normal(size=(2, 50)) + 10
    draws = bootstrap_ratios(losses, tokens, np.random.default_rng(5))
    assert len(draws) == RESAMPLES
    assert (np.diff(draws) >= 0).all()
    assert (draws == bootstrap_ratios(losses, tokens, np.random.default_rng(5))).all()


@pytest.mark.parametrize(("samples", "least"), [(15, 0.87), (60, 0.91), (250, 0.92)])
def test_bootstrap_intervals_cover_a_skewed_truth_about_as_often_as_they_say(samples, least):
    """Loss change of texts of unequal length under lognormal noise, nominal 95 %; 15 examples only reach 90 %."""
    rng = np.random.default_rng(17)
    tokens = rng.integers(20, 200, size=(400, samples)).astype(float)
    noise = rng.lognormal(0.0, 0.7, size=tokens.shape)
    truth = 0.1 * math.exp(0.7**2 / 2)
    covered = 0
    for lengths, factor in zip(tokens, noise, strict=True):
        draws = bootstrap_ratios(0.1 * factor * lengths, lengths, rng)
        low, high = bootstrap_bounds(draws, samples, 0.025)
        covered += low <= truth <= high
    assert least < covered / 400 < 0.99


def test_bootstrap_bounds_are_wider_for_few_examples():
    draws = np.linspace(0, 1, 2001)
    few, many = bootstrap_bounds(draws, 5, 0.025), bootstrap_bounds(draws, 5000, 0.025)
    assert few[0] < many[0] < 0.03
    assert 0.97 < many[1] < few[1]


@pytest.mark.parametrize(
    ("rate", "margin", "alone", "of_twenty"),
    [(0.02, 0.01, 1713, 3563), (0.05, 0.02, 1071, 2227), (0.10, 0.05, 343, 713), (0.02, 0.05, 69, 143)],
)
def test_planned_samples_are_those_of_the_planning_table(rate, margin, alone, of_twenty):
    assert samples_needed(rate, margin, 0.95) == alone
    assert samples_needed(rate, margin, 0.95, power=1 - 0.1 / 20) == of_twenty


@pytest.mark.parametrize(("margin", "needed"), [(0.01, 268), (0.02, 133), (0.05, 52)])
def test_without_any_flip_a_slice_needs_as_many_as_tango_asks(margin, needed):
    assert samples_needed_without_flips(margin, 0.95) == needed
    assert tango_bound(0, 0, needed, 0.95) < margin < tango_bound(0, 0, needed - 1, 0.95)


def test_no_number_of_examples_shows_a_margin_of_nothing():
    assert samples_needed(0.1, 0.0, 0.95) is None
    assert samples_needed_without_flips(0.0, 0.95) is None
