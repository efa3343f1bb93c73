"""Examples that belong together: how their column travels, and that they are not counted as independent."""

from __future__ import annotations

import pytest

from orchestrator.domain import TaskName
from orchestrator.gate import judging
from orchestrator.gate.inference import unchanged_bound

GATES = {"max_drop": 0.05, "max_slice_drop": None, "confidence": 0.95, "min_samples": 10}


def answer(example, correct, document):
    return {
        "example": example,
        "slices": {"document": str(document), "topic": "ab"[document % 2]},
        "loss": 0.5,
        "tokens": 1,
        "label": 1,
        "prediction": int(correct),
        "correct": correct,
    }


def documents(count, size, wrong=()):
    return [answer(d * size + i, d not in wrong, d) for d in range(count) for i in range(size)]


def judged(dense, pruned, metric="accuracy", **more):
    params = {
        "dataset": "d",
        "metric": metric,
        "slices": [],
        "gates": {**GATES, **more.pop("gates", {})},
        **more,
    }
    return judging.run(params, dense, pruned, 0)


def test_five_documents_that_turn_wrong_are_five_changes_and_not_a_hundred():
    dense, pruned = documents(60, 20), documents(60, 20, wrong=range(4))
    alone, together = judged(dense, pruned), judged(dense, pruned, cluster="document")
    assert alone["verdicts"][0]["verdict"] == "block"
    assert alone["verdicts"][0]["p_value"] < 1e-20
    row = together["verdicts"][0]
    assert row["verdict"] == "inconclusive"
    assert row["p_value"] == pytest.approx(1 / 16, abs=0.01)
    assert (row["samples"], row["worse"], row["better"]) == (1200, 80, 0)
    told = next(f["message"] for f in together["findings"] if f["kind"] == "cannot_tell")
    assert "60 clusters by document, of which 4 changed" in told
    assert f"{row['samples_needed'] - 60:,} more clusters by document" in told
    assert "it needs at least" in told


@pytest.mark.parametrize("metric", ["accuracy", "f1", "fidelity", "loss", "perplexity"])
def test_clusters_of_one_example_each_are_no_clusters(metric):
    dense, pruned = documents(300, 1), documents(300, 1, wrong=range(9))
    pruned = [{**row, "loss": 0.5 + 0.01 * (row["example"] % 7)} for row in pruned]
    together, alone = judged(dense, pruned, metric, cluster="document"), judged(dense, pruned, metric)
    assert together["verdicts"] == alone["verdicts"]
    assert together["evaluations"] == alone["evaluations"]


def test_where_nothing_changed_only_so_many_clusters_are_known():
    dense = documents(100, 50)
    (row,) = [r for r in judged(dense, dense, cluster="document")["verdicts"] if r["gate"] == "max_drop"]
    assert row["upper_bound"] == pytest.approx(unchanged_bound(100, 0.05))
    assert row["upper_bound"] > judged(dense, dense)["verdicts"][0]["upper_bound"]


def test_too_few_clusters_cannot_be_judged_however_many_examples_they_hold():
    dense = documents(5, 500)
    found = judged(dense, dense, cluster="document")
    assert found["verdicts"][0]["verdict"] == "inconclusive"
    assert any(
        "5 of 10 clusters by document that min_samples asks for" in f["message"] for f in found["findings"]
    )


def test_examples_without_the_column_are_not_judged():
    dense = documents(20, 5)
    found = judged(dense, dense, cluster="speaker")
    assert found["verdicts"][0]["verdict"] == "inconclusive"
    assert [f["kind"] for f in found["findings"]] == ["missing_cluster"]
    assert found["findings"][0]["subject"] == "speaker"


def test_harm_to_many_clusters_is_blocked():
    dense, pruned = documents(250, 6), documents(250, 6, wrong=range(40))
    assert judged(dense, pruned, cluster="document")["verdicts"][0]["verdict"] == "block"
    assert judged(dense, dense, cluster="document")["verdicts"][0]["verdict"] == "pass"


def test_the_column_travels_like_slices_and_only_where_it_is_asked_for(make_plan, fleet_text):
    def steps(text):
        plan = make_plan(text=text)
        chain = plan.chains[0]
        return plan, plan.units[chain.dense].step, plan.units[chain.judge].step

    column = "slice_by: topic"
    plan, evaluate, judge = steps(fleet_text)
    assert "cluster" not in judge.params
    again, with_cluster, judge_clusters = steps(fleet_text.replace(column, f"{column}, cluster_by: document"))
    assert evaluate.data.slices == ("topic",)
    assert with_cluster.data.slices == ("topic", "document")
    assert judge_clusters.params["cluster"] == "document"
    assert judge_clusters.params["slices"] == judge.params["slices"] == ["topic"]
    assert {u.key for u in plan.units.values() if u.task is TaskName.PRUNE} == {
        u.key for u in again.units.values() if u.task is TaskName.PRUNE
    }


def test_what_becomes_of_the_inconclusive_makes_no_other_unit(make_plan, fleet_text):
    assert "max_drop" in fleet_text
    lenient = fleet_text.replace("max_drop", "inconclusive: publish, max_drop")
    assert set(make_plan(text=lenient).units) == set(make_plan(text=fleet_text).units)
