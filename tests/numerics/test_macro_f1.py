"""Macro F1: exactly scikit-learn's, its resamples those of the examples, and its verdicts those of a metric that falls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from orchestrator.gate import judging
from orchestrator.gate.f1 import f1_evidence, macro_f1, resampled, tallied
from orchestrator.gate.inference import Asked
from orchestrator.gate.resampling import RESAMPLES


def drawn(rng, samples, classes, mistaken):
    """Labels of unequal classes, and predictions of which a share is any class."""
    labels = rng.choice(classes, size=samples, p=rng.dirichlet(np.ones(classes)))
    predictions = np.where(rng.random(samples) < mistaken, rng.integers(0, classes, samples), labels)
    return labels.astype(float), predictions.astype(float)


@pytest.mark.parametrize("seed", range(30))
def test_it_is_what_scikit_learn_computes(seed):
    rng = np.random.default_rng(seed)
    labels, predictions = drawn(rng, int(rng.integers(1, 300)), int(rng.integers(2, 12)), rng.random())
    expected = f1_score(labels, predictions, average="macro", zero_division=0)
    assert macro_f1(labels, predictions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ([0, 0, 1, 1], [0, 0, 1, 1], 1.0),
        ([0, 0, 1, 1], [1, 1, 0, 0], 0.0),
        ([0, 0, 1, 1], [0, 0, 0, 0], (2 / 3 + 0) / 2),
        ([5], [5], 1.0),
        ([0, 0], [0, 7], (2 / 3 + 0) / 2),
    ],
)
def test_by_hand(labels, predictions, expected):
    assert macro_f1(np.array(labels, float), np.array(predictions, float)) == pytest.approx(expected)


def f1_drops(labels, dense, pruned, rng):
    """The draws on which bound and interval rest; ascending."""
    return np.sort(resampled(tallied(labels, dense, pruned, None), rng).plain)


def evidence(labels, dense, pruned, alpha):
    asked = Asked(confidence=0.95, alpha=alpha, margin=None, rng=np.random.default_rng(0))
    return f1_evidence(labels, dense, pruned, asked)


def test_a_bound_is_known_for_errors_far_below_one_in_all_resamples():
    rng = np.random.default_rng(4)
    labels, dense = drawn(rng, 300, 3, 0.2)
    pruned = np.where(rng.random(300) < 0.1, 0.0, dense)
    bounds = [evidence(labels, dense, pruned, alpha).bound for alpha in (0.05, 1e-3, 1e-5, 1e-8)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < 0.5


@pytest.mark.parametrize("samples", [60, 150, 300, 2000])
def test_a_ruined_model_is_no_chance_however_many_looks_share_the_error(samples):
    rng = np.random.default_rng(5)
    labels, dense = drawn(rng, samples, 3, 0.1)
    found = evidence(labels, dense, np.zeros(samples), 1e-9)
    assert found.p_value < max(1e-9, 0.5 ** (found.changed - 2)), (
        "hardly more than if all had to stay as they are"
    )


def test_a_far_tail_is_that_of_very_many_resamples():
    rng = np.random.default_rng(6)
    labels, dense = drawn(rng, 250, 4, 0.15)
    pruned = np.where(rng.random(250) < 0.08, 0.0, dense)
    tallies = tallied(labels, dense, pruned, None)
    many = np.concatenate([f1_drops(labels, dense, pruned, np.random.default_rng(s)) for s in range(60)])
    found = resampled(tallies, np.random.default_rng(99))
    for level in (1e-4, 3e-4, 1 - 3e-4, 1 - 1e-4):
        z = stats.norm.ppf(level)
        far = np.quantile(many, level)
        assert found.quantile(z) == pytest.approx(far, abs=0.15 * many.std())
        assert found.z(far) == pytest.approx(z, abs=0.15)


def test_a_resample_is_one_of_the_examples_and_the_whole_spread_is_theirs():
    """The same distribution as drawing examples one by one and asking scikit-learn."""
    rng = np.random.default_rng(3)
    labels, dense = drawn(rng, 80, 4, 0.2)
    pruned = np.where(rng.random(80) < 0.3, 0.0, dense)
    fast = f1_drops(labels, dense, pruned, np.random.default_rng(0))
    assert len(fast) == RESAMPLES
    assert (np.diff(fast) >= 0).all()
    slow = []
    for _ in range(400):
        chosen = rng.integers(0, 80, 80)
        before, after = (
            f1_score(labels[chosen], found[chosen], average="macro", zero_division=0)
            for found in (dense, pruned)
        )
        slow.append(before - after)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=4 * np.std(slow) / 20)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.2)
    for level in (0.1, 0.5, 0.9):
        assert np.quantile(fast, level) == pytest.approx(np.quantile(slow, level), abs=0.25 * np.std(slow))


def test_the_interval_holds_the_true_drop_about_as_often_as_it_says():
    inside, rounds = 0, 100
    rng = np.random.default_rng(11)

    def examples(samples):
        labels = rng.integers(0, 3, samples).astype(float)
        dense = np.where(rng.random(samples) < 0.1, (labels + 1) % 3, labels)
        return labels, dense, np.where(rng.random(samples) < 0.1, (dense + 1) % 3, dense)

    labels, dense, pruned = examples(400_000)
    truth = macro_f1(labels, dense) - macro_f1(labels, pruned)
    for _ in range(rounds):
        draws = f1_drops(*examples(150), rng)
        inside += np.quantile(draws, 0.025) <= truth <= np.quantile(draws, 0.975)
    assert 0.89 <= inside / rounds <= 0.99


def rows(labels, predictions, groups):
    return [
        {"example": i, "slices": {"group": str(g)}, "loss": 0.5, "tokens": 1, "label": int(y), "prediction": int(p), "correct": bool(y == p)}
        for i, (y, p, g) in enumerate(zip(labels, predictions, groups, strict=True))
    ]  # fmt: skip


def params(**gates):
    limits = {"max_drop": 0.02, "max_slice_drop": None, "confidence": 0.95, "min_samples": 10, **gates}
    return {"dataset": "d", "metric": "f1", "slices": ["group"], "gates": limits}


def test_the_judge_tells_f1_of_the_whole_and_of_each_slice():
    rng = np.random.default_rng(1)
    labels, dense = drawn(rng, 200, 3, 0.1)
    pruned = np.where(rng.random(200) < 0.3, 0.0, dense)
    groups = rng.integers(0, 2, 200)
    judged = judging.run(params(), rows(labels, dense, groups), rows(labels, pruned, groups), 0)
    told = {row["slice"]: row for row in judged["evaluations"]}
    assert set(told) == {"all", "group=0", "group=1"}
    for name, row in told.items():
        chosen = np.ones(200, bool) if name == "all" else groups == int(name[-1])
        for column, found in (("dense_value", dense), ("value", pruned)):
            expected = f1_score(labels[chosen], found[chosen], average="macro", zero_division=0)
            assert row[column] == pytest.approx(expected)
        assert row["ci_low"] < row["delta"] < row["ci_high"]
    assert judged["verdicts"][0]["verdict"] == "block"


def test_a_rare_class_that_is_lost_shows_although_accuracy_hardly_moves():
    labels = np.array([0.0] * 190 + [1.0] * 10)
    dense, pruned = labels, np.zeros(200)
    groups = np.zeros(200, int)
    (overall, *_) = judging.run(params(), rows(labels, dense, groups), rows(labels, pruned, groups), 0)[
        "verdicts"
    ]
    assert overall["observed"] > 0.5
    accuracy = {**params(max_drop=0.1), "metric": "accuracy"}
    (overall, *_) = judging.run(accuracy, rows(labels, dense, groups), rows(labels, pruned, groups), 0)[
        "verdicts"
    ]
    assert overall["verdict"] == "pass"


def test_without_labels_it_cannot_be_told():
    given = [{**row, "label": None} for row in rows([0, 1] * 10, [0, 1] * 10, [0] * 20)]
    judged = judging.run(params(), given, given, 0)
    assert judged["verdicts"][0]["verdict"] == "inconclusive"
    assert any("F1 needs both" in row["message"] for row in judged["findings"])
