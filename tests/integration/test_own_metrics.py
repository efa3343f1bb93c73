"""Effects. A user's own metric: an installed package offers it, the judge applies it, and nothing else can stand in."""

from __future__ import annotations

import math
from pathlib import PurePosixPath

import numpy as np
import pytest

from orchestrator.domain import falls_with_harm
from orchestrator.errors import SpecError
from orchestrator.gate import judging
from orchestrator.gate.own_metrics import KNOWN, Metric, known_metric, metric_named
from orchestrator.spec import load_fleet
from orchestrator.tables.schemas import result_table, rows_of
from tasks.contract import BadInput

SOURCE = """
from orchestrator.gate.own_metrics import Metric
def brier(row):
    return sum((p - (k == row["label"])) ** 2 for k, p in enumerate(row["probabilities"]))
def fails(row):
    return 1 / 0
metrics = {
    "brier": Metric(score=brier, falls_with_harm=False),
    "chance": Metric(score=lambda row: row["probabilities"][row["label"]], falls_with_harm=True),
    "fails": Metric(score=fails, falls_with_harm=True),
    "nothing": Metric(score=lambda row: float("nan"), falls_with_harm=True),
    "loss": Metric(score=fails, falls_with_harm=True),
}
brier_score, chance, failing, nothing, loss = metrics.values()
wrong = 3
"""
NAMES = {"brier": "brier_score", "chance": "chance", "fails": "failing", "nothing": "nothing", "loss": "loss"}


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that offers metrics, installed for as long as a test runs."""
    (tmp_path / "their_metrics.py").write_text(SOURCE)
    info = tmp_path / "their_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-metrics\nVersion: 1.0\n")
    points = "".join(f"{name} = their_metrics:{what}\n" for name, what in {**NAMES, "odd": "wrong"}.items())
    (info / "entry_points.txt").write_text(f"[prunefleet.metrics]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "their_metrics", raising=False)


def rows(seed, samples=60):
    rng = np.random.default_rng(seed)
    found = []
    for example in range(samples):
        chances = rng.dirichlet([2, 2, 2]).astype(np.float32)
        label = example % 3
        found.append(
            {
                "example": example,
                "slices": {"third": str(label)},
                "loss": float(-np.log(chances[label])),
                "tokens": 1,
                "label": label,
                "prediction": int(chances.argmax()),
                "probabilities": chances.tolist(),
            }
        )
    return rows_of(result_table("evaluate", {"outcomes": found}), "outcomes")


def judged(dense, pruned, metric, limit=10.0):
    params = {"dataset": "d", "metric": metric, "slices": ["third"], "gates": {"max_drop": limit}}
    return judging.run(params, dense, pruned, 0)


def by_hand(found, metric):
    if metric == "chance":
        return np.mean([row["probabilities"][row["label"]] for row in found])
    return np.mean([sum((p - (k == row["label"])) ** 2 for k, p in enumerate(row["probabilities"])) for row in found])  # fmt: skip


@pytest.mark.parametrize("metric", ["brier", "chance"])
def test_a_metric_is_a_mean_over_examples_and_its_direction_decides_what_harm_is(installed, metric):
    dense, pruned = rows(1), rows(2)
    result = judged(dense, pruned, metric)
    whole = result["evaluations"][0]
    before, after = by_hand(dense, metric), by_hand(pruned, metric)
    assert (whole["slice"], whole["metric"]) == ("all", metric)
    assert (whole["dense_value"], whole["value"]) == (pytest.approx(before), pytest.approx(after))
    drop = before - after if metric == "chance" else after / before - 1
    assert result["verdicts"][0]["observed"] == pytest.approx(drop)
    assert whole["ci_low"] < whole["delta"] < whole["ci_high"]
    assert falls_with_harm(whole) is (metric == "chance")
    assert len(result["evaluations"]) == 4
    told = result["verdicts"][0]
    assert told["upper_bound"] > drop
    assert judged(dense, pruned, metric, told["upper_bound"] + 0.001)["verdicts"][0]["verdict"] == "pass"
    if drop > 0.001:
        is_harm = told["p_value"] <= 0.05
        below = judged(dense, pruned, metric, drop - 0.001)["verdicts"][0]["verdict"]
        assert below == ("block" if is_harm else "inconclusive")


def test_the_rows_of_a_metric_fit_the_tables(installed):
    result = judged(rows(1), rows(2), "chance")
    table = result_table("judge", {name: result[name] for name in ("evaluations", "verdicts")})
    assert {row["falls"] for row in rows_of(table, "evaluations")} == {True}


def test_a_metric_that_raises_is_named_with_the_example(installed):
    with pytest.raises(BadInput, match="'fails' raises ZeroDivisionError on example 0"):
        judged(rows(1), rows(2), "fails")


def test_a_metric_without_a_number_judges_nothing(installed):
    result = judged(rows(1), rows(2), "nothing")
    assert result["verdicts"][0]["verdict"] == "inconclusive"
    assert {finding["kind"] for finding in result["findings"]} == {"not_finite"}


def test_no_package_can_stand_in_for_a_metric_of_ours(installed):
    result = judged(rows(1), rows(2), "loss")
    assert result["evaluations"][0]["dense_value"] == pytest.approx(np.mean([r["loss"] for r in rows(1)]))


def test_what_is_no_metric_and_what_is_unknown_are_refused_by_name(installed):
    with pytest.raises(BadInput, match="odd of prunefleet.metrics is a int, not a Metric"):
        metric_named("odd")
    with pytest.raises(BadInput, match="'bleu' is unknown here.*accuracy, brier, chance"):
        metric_named("bleu")
    with pytest.raises(BadInput, match="'bleu' is unknown here"):
        judged(rows(1), rows(2), "bleu")


def fleet(metric):
    return f"""
version: 1
name: demo
store: ./out
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
datasets: {{d: {{kind: text, path: d.jsonl}}}}
recipes:
  half:
    prune: {{criterion: magnitude, amount: 0.5}}
    evaluate: {{dataset: d, metric: {metric}}}
"""


def test_a_fleet_may_name_a_metric_that_is_installed_and_no_other(installed):
    assert load_fleet(fleet("brier"), "f.yaml", PurePosixPath("/")).recipes["half"].evaluate.metric == "brier"
    with pytest.raises(SpecError, match="f.yaml:10: .*metric.*'brier'.*entry point of prunefleet.metrics"):
        load_fleet(fleet("bleu"), "f.yaml", PurePosixPath("/"))
    for name in KNOWN:
        assert known_metric(name) == name


def test_a_score_that_is_infinite_is_none(installed):
    from orchestrator.gate.own_metrics import scores_of

    found = scores_of("x", Metric(score=lambda row: math.inf, falls_with_harm=True), rows(1, 3))
    assert all(math.isnan(score) for score in found)
