"""The examples that moved most: which they are, how many, and by what they are measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gate import judging
from orchestrator.gate.exemplars import LEAST, MOST, exemplars
from orchestrator.tables.schemas import result_table, rows_of


def classified(example, sure, **more):
    return {
        "example": example,
        "slices": {},
        "probabilities": [sure, 1 - sure],
        "prediction": int(sure < 0.5),
        **more,
    }


def test_the_farthest_come_first_with_what_both_models_say():
    dense = [classified(i, 0.9, label=0, slices={"topic": "a", "lang": "en"}) for i in range(10)]
    pruned = [classified(i, 0.9 - 0.08 * i, label=0) for i in range(10)]
    found = exemplars(dense, pruned)
    assert [row["example"] for row in found] == [9, 8, 7, 6, 5]
    assert found[0] == {
        "example": 9,
        "slices": "topic=a, lang=en",
        "measure": "taxicab",
        "distance": pytest.approx(1.44),
        "label": 0,
        "dense_prediction": 0,
        "prediction": 1,
    }


def test_what_did_not_move_is_no_exemplar_and_equal_ones_come_in_order():
    dense = [classified(i, 0.9) for i in range(10)]
    assert exemplars(dense, dense) == []
    pruned = [classified(i, 0.5 if i in (3, 7) else 0.9) for i in range(10)]
    assert [row["example"] for row in exemplars(dense, pruned[::-1])] == [3, 7]


@pytest.mark.parametrize(("samples", "listed"), [(3, 3), (100, LEAST), (2000, 20), (50_000, MOST)])
def test_one_in_a_hundred_a_handful_at_least_and_no_more_than_anyone_would_look_at(samples, listed):
    dense = [{"example": i, "slices": {}, "loss": 1.0, "tokens": 1} for i in range(samples)]
    assert len(exemplars(dense, [{**row, "loss": 1.5} for row in dense])) == listed


def test_texts_are_measured_by_divergence_or_else_by_loss_a_token():
    dense = [{"example": i, "slices": {}, "loss": 20.0, "tokens": 10} for i in range(3)]
    losses = [{**row, "loss": 20.0 - 5 * row["example"]} for row in dense]
    assert [(row["measure"], row["example"], row["distance"]) for row in exemplars(dense, losses)] == [
        ("loss", 2, 1.0),
        ("loss", 1, 0.5),
    ]
    moved = [{**row, "kl": [0.1 * (3 - row["example"])] * 10} for row in dense]
    assert [row["example"] for row in exemplars(dense, moved)] == [0, 1, 2]
    assert exemplars(dense, moved)[0]["measure"] == "kl"
    assert exemplars(dense, moved)[0]["distance"] == pytest.approx(0.3)
    turned = [{**row, "distance": 0.25} for row in dense]
    assert {row["measure"] for row in exemplars(dense, turned)} == {"embedding"}


@pytest.mark.parametrize("loss", [None, math.nan, math.inf])
def test_what_is_not_known_is_left_out(loss):
    dense = [{"example": i, "slices": None, "loss": 1.0, "tokens": 1} for i in range(3)]
    pruned = [{**row, "loss": loss if row["example"] == 1 else 2.0} for row in dense]
    assert [row["example"] for row in exemplars(dense, pruned)] == [0, 2]
    assert exemplars(dense, pruned[:1])[0]["slices"] == ""


@given(st.lists(st.tuples(*[st.floats(0.01, 1)] * 6), min_size=1, max_size=40))
def test_the_distance_is_that_of_numpy(values):
    table = np.array(values)
    before, after = (part / part.sum(axis=1, keepdims=True) for part in (table[:, :3], table[:, 3:]))

    def rows(probabilities):
        return [
            {"example": i, "slices": {}, "probabilities": p.tolist()} for i, p in enumerate(probabilities)
        ]

    expected = np.abs(before - after).sum(axis=1)
    for row in exemplars(rows(before), rows(after)):
        assert row["distance"] == pytest.approx(expected[row["example"]])
        assert 0 < row["distance"] <= 2 + 1e-9


def test_the_judge_keeps_them_among_its_rows():
    dense = [classified(i, 0.9, label=0, correct=True, loss=0.1, tokens=1) for i in range(30)]
    pruned = [classified(i, 0.9 - i / 40, label=0, correct=i <= 15, loss=0.2, tokens=1) for i in range(30)]
    params = {"dataset": "d", "metric": "accuracy", "slices": [], "gates": None}
    tables = judging.run(params, dense, pruned, seed=0)
    assert [row["example"] for row in tables["exemplars"]] == [29, 28, 27, 26, 25]
    assert rows_of(result_table("judge", tables), "exemplars") == tables["exemplars"]
