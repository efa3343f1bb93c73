"""What the gate proves about itself, by simulation: it does not cry wolf, sees hidden harm, says when it cannot tell."""

from __future__ import annotations

import math

import gatecases
import numpy as np
import pytest
from cases.drawn_models import METRICS, verdict_of

from orchestrator.gate.bootstrap import bca_end, widened
from orchestrator.gate.decision import BLOCK, INCONCLUSIVE
from orchestrator.gate.looks import spent
from orchestrator.gate.statistics import answers_needed, drop_bounds, fewest_flips

pytestmark = pytest.mark.benchmark

SEED = 20261122
HARMLESS = (
    # slices, examples of each, models
    (1, 20, 20_000), (1, 200, 10_000), (1, 10_000, 10_000), (5, 1_000, 10_000), (20, 200, 20_000), (20, 1_000, 10_000),
    (20, 10_000, 5_000), (100, 50, 10_000), (100, 1_000, 4_000), (1_000, 20, 2_000), (1_000, 200, 2_000), (1_000, 10_000, 500),
)  # fmt: skip
CLUSTERED = ((1, 60, 10, 300), (5, 60, 10, 150), (5, 300, 5, 100))


def at_most(share, runs, limit=0.05):
    """Whether a share that was counted agrees with a chance of at most the limit (three standard errors)."""
    return share <= limit + 3 * math.sqrt(limit * (1 - limit) / runs)


def test_harmless_models_are_hardly_ever_blocked():
    """With a margin of 0, which is hardest: whatever the test rejects is blocked."""
    rng = np.random.default_rng(SEED)
    print("\n| slices x examples | models | blocked | down more than 2 points somewhere |\n|---|---|---|---|")
    total = wrong = 0
    for slices, samples, models in HARMLESS:
        worse, better = gatecases.flips(rng, models, [0.0] * slices, samples)
        naive = ((worse - better) / samples > 0.02).any(axis=1).mean()
        worse, better, sizes = gatecases.with_whole(worse, better, samples)
        share = gatecases.blocked(gatecases.codes_of(worse, better, sizes, 0.0))
        print(f"| {slices:,} x {samples:,} | {models:,} | {share:.2%} | {naive:.1%} |")
        assert at_most(share, models)
        total, wrong = total + models, wrong + share * models
    print(f"| in all | {total:,} | {wrong / total:.2%} | |")
    assert total > 100_000


def test_versions_that_share_an_error_err_no_more_often_than_one():
    """Thirty harmless versions of a model, limit 0: lines with a version that is blocked; and what harm is still seen."""
    rng = np.random.default_rng(SEED)
    lines, versions, slices, samples = 1_000, 30, 5, 1_000
    found = {"none": np.zeros(lines, bool), "by_version": np.zeros(lines, bool)}
    print("\n| after versions | blocked once, each alone | together |\n|---|---|---|")
    for look in range(1, versions + 1):
        worse, better = gatecases.flips(rng, lines, [0.0] * slices, samples)
        counts = gatecases.with_whole(worse, better, samples)
        for name, alpha in (("none", 0.05), ("by_version", spent(0.05, look))):
            found[name] |= (gatecases.codes_of(*counts, 0.0, alpha) == BLOCK).any(axis=1)
        if look in (1, 5, 10, 30):
            print(f"| {look} | {found['none'].mean():.1%} | {found['by_version'].mean():.1%} |")
    assert at_most(found["by_version"].mean(), lines)
    assert found["none"].mean() > 0.4
    print(
        "\n| look | harm of 5 points in one of 5 slices, blocked | harmless, passed at 5 points |\n|---|---|---|"
    )
    for look in (None, 1, 10, 30):
        alpha = spent(0.05, look)
        harmed, sound = (
            gatecases.codes_of(
                *gatecases.with_whole(*gatecases.flips(rng, lines, drops, samples), samples), limit, alpha
            )
            for drops, limit in (([0.05, 0, 0, 0, 0], 0.02), ([0.0] * slices, 0.05))
        )
        print(f"| {look} | {gatecases.blocked(harmed):.1%} | {gatecases.passed(sound):.1%} |")


def test_clusters_are_not_taken_for_independent_answers():
    rng = np.random.default_rng(SEED)
    print(
        "\n| slices x documents x answers | models | blocked | by McNemar over answers |\n|---|---|---|---|"
    )
    for slices, clusters, size, models in CLUSTERED:
        codes, naive = gatecases.clustered_models(rng, models, slices, clusters, size)
        told = f"{gatecases.blocked(codes):.1%} | {gatecases.blocked(naive):.1%}"
        print(f"| {slices} x {clusters} x {size} | {models} | {told} |")
        assert at_most(gatecases.blocked(codes), models)
        assert gatecases.blocked(naive) > 0.15


@pytest.mark.parametrize("margin", [0.02, 0.05, 0.2])
def test_a_drop_of_the_margin_hardly_ever_passes(margin):
    rng = np.random.default_rng(SEED)
    told = []
    for rate in (0.0, 0.005, 0.03):
        for samples in (20, 55, 133, 200, 1_000, 10_000):
            worse, better = gatecases.flips(rng, 20_000, [margin], samples, rate)
            share = gatecases.passed(gatecases.codes_of(worse, better, samples, margin))
            assert at_most(share, 20_000)
            told.append(f"{samples:,}: {share:.2%}")
    print(
        f"\nmargin {margin:.0%}, flips 0, 0.5 and 3 % each way, false passes by examples: {'; '.join(told)}"
    )


def test_texts_whose_losses_have_a_long_tail():
    """What the BCa bound of a mean does where the change is lognormal: too few texts do not know their tail."""
    rng = np.random.default_rng(SEED)
    told, shares = [], []
    for samples in (20, 60, 200, 1_000):
        rounds, missed = 400, 0
        for _ in range(rounds):
            lengths = rng.integers(100, 150, samples).astype(float)
            end = bca_end(lengths * rng.lognormal(0.0, 0.7, samples), lengths, widened(0.05, samples))
            missed += end is not None and end < math.exp(0.7**2 / 2)
        told.append(f"{samples:,}: {missed / rounds:.1%}")
        shares.append(missed / rounds)
    assert max(shares) <= 0.15, "twice and a half of what was asked for, with the fewest texts"
    assert shares[-1] <= 0.08
    print(f"\nbound below the truth, lognormal changes, by texts: {'; '.join(told)}")


def test_harm_in_one_of_twenty_slices_is_seen():
    rng = np.random.default_rng(SEED)
    print(
        "\n| examples a slice | harm in one of 20 | blocked | the average alone: blocked, passed |\n|---|---|---|---|"
    )
    for samples, harm in ((200, 0.1), (200, 0.2), (1_000, 0.05), (1_000, 0.1)):
        worse, better = gatecases.flips(rng, 4_000, [harm] + [0.0] * 19, samples)
        worse, better, sizes = gatecases.with_whole(worse, better, samples)
        share = gatecases.blocked(gatecases.codes_of(worse, better, sizes, 0.02))
        alone = gatecases.codes_of(worse[:, -1:], better[:, -1:], sizes[-1:], 0.02)
        told = f"{gatecases.blocked(alone):.1%}, {gatecases.passed(alone):.1%}"
        print(f"| {samples:,} | {harm:.0%} | {share:.2%} | {told} |")
    assert share >= 0.99
    assert gatecases.blocked(alone) < 0.01


def test_what_cannot_be_told_is_said_and_how_much_more_it_takes():
    rng = np.random.default_rng(SEED)
    fewest = fewest_flips(20, 0.05)
    worse, better = gatecases.flips(rng, 5_000, [0.0] * 20, 100)
    codes = gatecases.codes_of(worse, better, 100, 0.02)
    below = (worse + better < fewest) & (worse >= better)
    assert (codes[worse + better < fewest] != BLOCK).all()
    assert (codes[below] == INCONCLUSIVE).all()
    print(f"\n{int(below.sum()):,} slices of fewer than {fewest} changed answers: all inconclusive")
    for rate, margin in ((0.02, 0.01), (0.05, 0.02), (0.06, 0.05), (0.1, 0.05)):
        said = answers_needed(rate, 0.0, margin, 0.05)
        truth = next(
            n for n in range(said // 2, 2 * said, max(1, said // 100)) if _power(rng, rate, margin, n) >= 0.9
        )
        print(f"flips {rate:.0%}, margin {margin:.0%}: said {said:,}, true {truth:,}, {said / truth:.3f}")
        assert 0.9 < said / truth < 1.1


def _power(rng, rate, margin, samples):
    drawn = rng.multinomial(samples, [rate / 2, rate / 2, 1 - rate], size=8_000)
    return (drop_bounds(drawn[:, 0], drawn[:, 1], samples, 0.05) < margin).mean()


@pytest.mark.parametrize("metric", METRICS)
def test_in_every_metric_a_loss_of_the_margin_hardly_ever_passes(metric):
    """From outcome rows to verdict, alone and in documents of five; a loss of 10 points or parts in a hundred at that margin."""
    rng, told = np.random.default_rng(SEED), []
    models = 200 if metric == "f1" else 1_000
    for size in (1, 5):
        for documents in (20, 60, 250, 1_000):
            if size * documents * models > 1_500_000:
                continue
            passes = sum(verdict_of(metric, rng, documents, size, 0.1) == "pass" for _ in range(models))
            told.append(f"{documents:,} x {size}: {passes / models:.1%}")
            assert passes / models <= 0.13, "few units do not know their tail"
            if documents >= 250:
                assert at_most(passes / models, models, 0.07)
    print(f"\n{metric}, false passes by documents x examples: {'; '.join(told)}")
