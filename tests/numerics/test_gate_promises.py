"""In seconds, what tests/benchmarks/test_gate.py proves at length: no crying wolf, no hidden harm, no false comfort."""

from __future__ import annotations

import gatecases
import numpy as np
import pytest

from orchestrator.gate.decision import BLOCK, INCONCLUSIVE
from orchestrator.gate.statistics import fewest_flips


@pytest.mark.parametrize(("slices", "samples", "models"), [(1, 200, 4000), (20, 200, 2000), (100, 100, 500)])
def test_harmless_models_are_hardly_ever_blocked(slices, samples, models):
    rng = np.random.default_rng(1)
    counts = gatecases.with_whole(*gatecases.flips(rng, models, [0.0] * slices, samples), samples)
    assert gatecases.blocked(gatecases.codes_of(*counts, 0.0)) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / models)


def test_harm_in_one_of_twenty_slices_is_seen_and_the_average_alone_would_pass_it():
    rng = np.random.default_rng(2)
    counts = gatecases.with_whole(*gatecases.flips(rng, 500, [0.1] + [0.0] * 19, 1000), 1000)
    codes = gatecases.codes_of(*counts, 0.02)
    assert (codes[:, 0] == BLOCK).mean() >= 0.99
    assert gatecases.passed(codes[:, -1:]) >= 0.99


def test_a_drop_of_the_margin_hardly_ever_passes():
    rng = np.random.default_rng(3)
    worse, better = gatecases.flips(rng, 4000, [0.02], 133, rate=0.0)
    assert gatecases.passed(gatecases.codes_of(worse, better, 133, 0.02)) <= 0.05


def test_with_too_few_changes_nothing_is_ever_blocked():
    rng = np.random.default_rng(4)
    worse, better = gatecases.flips(rng, 500, [0.0] * 20, 100)
    codes = gatecases.codes_of(worse, better, 100, 0.02)
    below = worse + better < fewest_flips(20, 0.05)
    assert below.sum() > 1000
    assert (codes[below] != BLOCK).all()
    assert (codes[below & (worse >= better)] == INCONCLUSIVE).all(), (
        "only what became better by much may pass"
    )


def test_documents_that_turn_as_one_are_not_counted_as_many_answers():
    codes, naive = gatecases.clustered_models(np.random.default_rng(5), 60, 1, 40, 10)
    assert gatecases.blocked(codes) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert gatecases.blocked(naive) > 0.15
    harmed, _ = gatecases.clustered_models(np.random.default_rng(6), 10, 1, 150, 10, drop=0.2, margin=0.02)
    assert gatecases.blocked(harmed) == 1.0
