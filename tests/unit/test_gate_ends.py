"""What the gate says at its ends: ruined models at late looks, counts of few examples, slices of few clusters."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from cases.verdicts import answer, judged, kinds, overall, text

from orchestrator.errors import SpecError
from orchestrator.gate.gates import Gates, judge
from orchestrator.spec import load_fleet


@pytest.mark.parametrize("look", [1, 6, 50])
def test_a_ruined_model_is_blocked_at_every_look(look):
    dense = [text(i, 1.0 + i % 7 / 10, topic=str(i % 10)) for i in range(1000)]
    pruned = [{**row, "loss": 20 * row["loss"]} for row in dense]
    gates = Gates(max_drop=0.05, max_slice_drop=0.05, look=look)
    found = judged(dense, pruned, metric="loss", slices=["topic"], gates=gates)
    assert {row["verdict"] for row in found.verdicts} == {"block"}


def scored(example, score):
    return {"example": example, "slices": {}, "score": float(score), "score_falls": True}


def test_ten_of_a_users_own_answers_without_a_change_do_not_pass():
    dense = [scored(i, i % 2) for i in range(10)]
    gates = Gates(max_drop=0.01)
    own = overall(judged(dense, dense, metric="exact_match", gates=gates))
    known = [answer(i, i % 2) for i in range(10)]
    accuracy = overall(judged(known, known, gates=gates))
    assert own["verdict"] == "inconclusive"
    assert own == accuracy


def test_ten_scores_between_0_and_1_without_a_change_do_not_pass():
    dense = [scored(i, i / 10) for i in range(10)]
    assert (
        overall(judged(dense, dense, metric="rouge", gates=Gates(max_drop=0.01)))["verdict"] == "inconclusive"
    )


def test_every_default_slice_has_clusters_enough():
    dense = [{**answer(i, True), "length": i, "slices": {"document": str(i // 10)}} for i in range(600)]
    found = judge(
        dense, dense, dataset="d", metric="accuracy", slices=(), gates=Gates(max_drop=0.2, max_slice_drop=0.4),
        seed=0, default_slices=("length",), cluster="document",
    )  # fmt: skip
    assert len(found.evaluations) == 7, "the whole, and six slices of ten documents"
    assert overall(found)["verdict"] == "pass", kinds(found)


def test_a_slice_column_with_an_equals_sign_is_refused(fleet_text):
    column = "slice_by: topic"
    assert column in fleet_text
    with pytest.raises(SpecError, match="'a=b' has a '='"):
        load_fleet(fleet_text.replace(column, 'slice_by: "a=b"'), "fleet.yaml", PurePosixPath("."))
