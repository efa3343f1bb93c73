"""What the quality gate measures: each metric with its interval, slices, and numbers that stay where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases.verdicts import answer, answers, judged, kinds, overall, text

from orchestrator.gate.gates import Gates
from orchestrator.gate.statistics import drop_bounds, share_bound


def test_accuracy_counts_points_flips_and_the_tango_interval_of_the_change():
    dense = [answer(i, i < 90) for i in range(200)]
    pruned = [answer(i, 12 <= i < 93) for i in range(200)]
    (row,) = judged(dense, pruned).evaluations
    assert (row["dense_value"], row["value"]) == (0.45, 0.405)
    assert row["delta"] == pytest.approx(-0.045)
    assert row["flips"] == 15
    assert row["ci_low"] < -0.045 < row["ci_high"] < 0
    assert overall(judged(dense, pruned))["p_value"] == pytest.approx(0.01758, abs=5e-6)


def test_perplexity_is_the_exponential_of_the_loss_a_token():
    dense = [text(0, 20.0), text(1, 10.0), text(2, 30.0, tokens=20)]
    pruned = [text(0, 22.0), text(1, 14.0), text(2, 32.0, tokens=20)]
    (row,) = judged(dense, pruned, metric="perplexity").evaluations
    assert row["dense_value"] == pytest.approx(math.exp(60 / 40))
    assert row["value"] == pytest.approx(math.exp(68 / 40))
    assert row["delta"] == pytest.approx(row["value"] - row["dense_value"])
    assert row["flips"] is None
    assert overall(judged(dense, pruned, metric="perplexity"))["observed"] == pytest.approx(math.exp(0.2) - 1)


def test_loss_is_a_mean_over_tokens_and_over_examples_where_there_are_none():
    dense = [text(i, 20.0) for i in range(4)]
    pruned = [text(i, 21.0) for i in range(4)]
    (row,) = judged(dense, pruned, metric="loss").evaluations
    assert (row["dense_value"], row["value"]) == (2.0, 2.1)
    dense = [text(i, 2.0, tokens=None) for i in range(4)]
    pruned = [text(i, 2.1, tokens=None) for i in range(4)]
    (row,) = judged(dense, pruned, metric="loss").evaluations
    assert (row["dense_value"], row["value"]) == (2.0, 2.1)


def test_the_interval_of_a_perplexity_holds_its_change_and_shrinks_with_examples():
    rng = np.random.default_rng(4)

    def width(samples):
        losses = rng.normal(20, 2, samples)
        dense = [text(i, loss) for i, loss in enumerate(losses)]
        pruned = [
            text(i, loss + change)
            for i, (loss, change) in enumerate(zip(losses, rng.normal(0.5, 1, samples), strict=True))
        ]
        (row,) = judged(dense, pruned, metric="perplexity").evaluations
        assert row["ci_low"] < row["delta"] < row["ci_high"]
        return row["ci_high"] - row["ci_low"]

    assert width(500) < 0.5 * width(25)


def test_a_single_example_has_a_change_and_no_interval():
    (row,) = judged([text(0, 20.0)], [text(0, 21.0)], metric="loss").evaluations
    assert row["delta"] == pytest.approx(0.1)
    assert (row["ci_low"], row["ci_high"]) == (None, None)


def moved(example, flips, *, kl=None, tokens=10, **slices):
    """A row of a text whose every token was compared with the dense model's."""
    divergences = [0.1] * tokens if kl is None else kl
    return {**text(example, 20.0, tokens=tokens, **slices), "flips": flips, "kl": divergences}


def test_fidelity_is_the_share_of_predictions_that_stayed():
    dense = [text(i, 20.0) for i in range(40)]
    pruned = [moved(i, i % 4) for i in range(40)]
    (row,) = judged(dense, pruned, metric="fidelity").evaluations
    assert (row["dense_value"], row["value"], row["agreement"]) == (1.0, 0.85, 0.85)
    assert row["flips"] == 60
    assert row["ci_low"] < -0.15 < row["ci_high"] < 0
    assert overall(judged(dense, pruned, metric="fidelity"))["verdict"] == "block"
    assert overall(judged(dense, pruned, metric="fidelity", gates=Gates(max_drop=0.2)))["verdict"] == "pass"


def test_one_prediction_an_example_has_an_exact_interval():
    def labelled(example, prediction):
        return {"example": example, "slices": {}, "loss": None, "tokens": 1, "prediction": prediction}

    dense = [labelled(i, 0) for i in range(100)]
    (row,) = judged(dense, [labelled(i, int(i < 5)) for i in range(100)], metric="fidelity").evaluations
    assert (row["agreement"], row["flips"]) == (0.95, 5)
    assert -row["ci_low"] == pytest.approx(share_bound(5, 100, 0.025))
    (same,) = judged(dense, dense, metric="fidelity").evaluations
    assert same["value"] == 1.0
    assert same["ci_high"] == 0.0
    assert -0.04 < same["ci_low"] < 0, "a hundred alike do not prove that all are"


def test_texts_without_any_change_still_have_an_interval():
    dense = [text(i, 20.0) for i in range(50)]
    (row,) = judged(dense, [moved(i, 0) for i in range(50)], metric="fidelity").evaluations
    assert row["delta"] == 0.0
    assert -row["ci_low"] == pytest.approx(drop_bounds(0, 0, 50, 0.025))


def test_fidelity_of_each_slice_is_gated():
    dense = [text(i, 20.0, topic="ab"[i % 2]) for i in range(40)]
    pruned = [moved(i, 5 * (i % 2), topic="ab"[i % 2]) for i in range(40)]
    gates = Gates(max_drop=0.3, max_slice_drop=0.4, min_samples=3)
    result = judged(dense, pruned, metric="fidelity", slices=["topic"], gates=gates)
    assert overall(result)["slice"] == "topic=b"
    assert overall(result)["verdict"] == "block"
    assert {row["slice"]: row["agreement"] for row in result.evaluations} == {
        "all": 0.75,
        "topic=b": 0.5,
        "topic=a": 1.0,
    }


def test_without_predictions_of_both_models_fidelity_cannot_be_told():
    dense = [text(i, 20.0) for i in range(5)]
    result = judged(dense, dense, metric="fidelity")
    assert overall(result)["verdict"] == "inconclusive"
    assert "not_computable" in kinds(result)


def test_the_99th_percentile_is_a_value_that_was_seen():
    dense = [text(0, 20.0, tokens=200), text(1, 20.0, tokens=100)]
    values = [float(np.float32(i / 300)) for i in range(300)]
    pruned = [moved(0, 0, kl=values[:200], tokens=200), moved(1, 0, kl=values[200:])]
    pruned[1]["tokens"] = 100
    (row,) = judged(dense, pruned, metric="fidelity").evaluations
    assert row["kl_p99"] == values[296]
    assert row["kl_divergence"] == pytest.approx(sum(values) / 300)


def test_predictions_that_are_listed_give_agreement_under_every_metric():
    dense = [answer(i, True, probabilities=[0.4, 0.6]) for i in range(10)]
    pruned = [answer(i, i >= 2, probabilities=[0.4, 0.6]) for i in range(10)]
    (row,) = judged(dense, pruned).evaluations
    assert (row["agreement"], row["kl_p99"]) == (0.8, 0.0)
    (row,) = judged([text(0, 20.0)], [text(0, 21.0)], metric="loss").evaluations
    assert row["agreement"] is row["kl_p99"] is None


def test_kl_divergence_is_the_mean_from_dense_to_pruned():
    dense = [answer(0, True, probabilities=[0.5, 0.5]), answer(1, True, probabilities=[1.0, 0.0])]
    pruned = [answer(0, True, probabilities=[0.25, 0.75]), answer(1, True, probabilities=[1.0, 0.0])]
    (row,) = judged(dense, pruned).evaluations
    assert row["kl_divergence"] == pytest.approx((0.5 * math.log(2) + 0.5 * math.log(2 / 3)) / 2)


def test_a_probability_that_fell_to_zero_gives_a_large_and_finite_divergence():
    dense = [answer(i, True, probabilities=[0.5, 0.5]) for i in range(3)]
    pruned = [answer(i, True, probabilities=[1.0, 0.0]) for i in range(3)]
    (row,) = judged(dense, pruned).evaluations
    assert 40 < row["kl_divergence"] < 50


@pytest.mark.parametrize("probabilities", [None, [], [0.5, 0.25, 0.25], [math.nan, 0.5], [-0.1, 1.1]])
def test_divergence_is_null_where_a_distribution_is_missing_or_none(probabilities):
    dense = [answer(0, True, probabilities=[0.5, 0.5])]
    pruned = [answer(0, True, probabilities=probabilities)]
    (row,) = judged(dense, pruned).evaluations
    assert row["kl_divergence"] is None


def test_every_value_of_every_slice_column_is_a_slice_and_no_example_is_left_out():
    dense = [
        *answers(5, 5, topic="a", lang="en"),
        *answers(3, 3, 5, topic="b"),
        *answers(4, 4, 8, topic=None),
    ]
    rows = judged(dense, dense, slices=["topic", "lang"]).evaluations
    assert {row["slice"]: row["samples"] for row in rows} == {
        "all": 12,
        "topic=a": 5,
        "topic=b": 3,
        "topic=(none)": 4,
        "lang=en": 5,
        "lang=(none)": 7,
    }


def test_the_whole_stands_first_and_then_the_worst_slice():
    dense = [*answers(10, 10, topic="a"), *answers(10, 10, 10, topic="b"), *answers(10, 10, 20, topic="c")]
    pruned = [*answers(9, 10, topic="a"), *answers(4, 10, 10, topic="b"), *answers(10, 10, 20, topic="c")]
    rows = judged(dense, pruned, slices=["topic"]).evaluations
    assert [row["slice"] for row in rows] == ["all", "topic=b", "topic=a", "topic=c"]


def test_a_slice_keeps_its_numbers_when_other_slices_come_and_go():
    rng = np.random.default_rng(8)
    dense = [text(i, 10 + rng.random(), topic="ab"[i % 2], lang="xyz"[i % 3]) for i in range(60)]
    pruned = [{**row, "loss": row["loss"] + rng.random()} for row in dense]
    one = judged(dense, pruned, metric="perplexity", slices=["topic"])
    two = judged(dense, pruned, metric="perplexity", slices=["lang", "topic"])
    assert [row for row in two.evaluations if "lang" not in row["slice"]] == list(one.evaluations)


def test_the_bootstrap_draws_nothing_so_no_seed_moves_an_interval():
    rng = np.random.default_rng(8)
    dense = [text(i, 10 + rng.random()) for i in range(60)]
    pruned = [text(i, 10.5 + rng.random()) for i in range(60)]
    first, again, other = (judged(dense, pruned, metric="loss", seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.evaluations == other.evaluations
