"""The slices of a recipe that names none: by hand, by property, and through the gate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gate import judging
from orchestrator.gate.default_slices import default_groups

KINDS = ("label", "confidence", "length")


def groups_of(least=1, **values):
    found = default_groups({kind: np.array(v, float) for kind, v in values.items()}, tuple(values), least)
    return {name: members.tolist() for name, members in found.items()}


def test_ten_tenths_of_a_hundred_hold_ten_each_the_least_first():
    found = groups_of(confidence=[i / 100 for i in range(100)])
    assert list(found) == [f"default confidence={k} of 10" for k in range(1, 11)]
    assert found["default confidence=1 of 10"] == list(range(10))
    assert found["default confidence=10 of 10"] == list(range(90, 100))


def test_few_examples_make_fewer_and_larger_slices():
    found = groups_of(least=10, length=list(range(35)))
    assert [len(members) for members in found.values()] == [12, 12, 11]
    assert groups_of(least=10, length=list(range(19))) == {}


def test_equal_values_are_never_parted_and_no_slice_is_small():
    found = groups_of(least=5, length=[7] * 19 + [8] + [9] * 30)
    assert found == {"default length=1 of 2": list(range(19)), "default length=2 of 2": list(range(19, 50))}


def test_what_is_the_same_everywhere_says_nothing():
    assert groups_of(length=[5] * 50, label=[1] * 50) == {}


def test_what_not_every_example_has_is_left_out():
    assert groups_of(label=[0, 1, math.nan, 1], length=[1, 2, 3, math.nan]) == {}
    assert groups_of(label=[], length=[]) == {}


def test_rare_classes_are_one_slice_together():
    found = groups_of(least=3, label=[4] * 5 + [1, 1, 2, 2] + [0] * 3)
    assert found == {
        "default label=0": [9, 10, 11],
        "default label=4": [0, 1, 2, 3, 4],
        "default label=(rare)": [5, 6, 7, 8],
    }


@given(
    values=st.lists(st.integers(0, 12), max_size=120) | st.lists(st.floats(0, 1), max_size=120),
    least=st.integers(1, 30),
)
def test_tenths_part_all_examples_in_order_and_none_is_smaller_than_asked(values, least):
    found = list(groups_of(least=least, length=values).values())
    if not found:
        return
    assert 2 <= len(found) <= 10
    assert sorted(position for members in found for position in members) == list(range(len(values)))
    assert min(len(members) for members in found) >= least
    for one, other in itertools.pairwise(found):
        assert max(values[i] for i in one) < min(values[i] for i in other)


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=60), least=st.integers(1, 20))
def test_every_example_is_in_the_slice_of_its_label_or_a_rare_one(labels, least):
    found = groups_of(least=least, label=labels)
    assert not found or sorted(i for members in found.values() for i in members) == list(range(len(labels)))
    for name, members in found.items():
        if "rare" not in name:
            assert {str(labels[i]) for i in members} == {name.removeprefix("default label=")}
            assert len(members) >= least


# --- through the judge -----------------------------------------------------------------------------------------


def classified(example, label, correct, sure=0.9):
    return {
        "example": example,
        "slices": {},
        "loss": 0.1,
        "tokens": 1,
        "label": label,
        "prediction": label if correct else 1 - label,
        "correct": correct,
        "probabilities": [sure, 1 - sure],
        "length": 10 + example % 4,
    }


def judged(dense, pruned, metric="accuracy", max_slice_drop=0.1, **more):
    gates = {"max_drop": 0.1, "max_slice_drop": max_slice_drop, "confidence": 0.95, "min_samples": 10}
    params = {"dataset": "d", "metric": metric, "slices": [], "gates": gates, **more}
    return judging.run(params, dense, pruned, 0)


def test_harm_to_one_class_is_found_without_any_column():
    dense = [classified(i, int(i < 40), True) for i in range(400)]
    pruned = [classified(i, int(i < 40), not 0 <= i < 20) for i in range(400)]
    found = judged(dense, pruned, default_slices=["label"])
    overall = found["verdicts"][0]
    assert (overall["verdict"], overall["slice"], overall["observed"]) == ("block", "default label=1", 0.5)
    told = {row["slice"]: (row["samples"], row["flips"]) for row in found["evaluations"]}
    assert told == {"all": (400, 20), "default label=1": (40, 20), "default label=0": (360, 0)}


def test_the_unsure_examples_of_the_dense_model_are_a_slice_whatever_the_pruned_one_says():
    dense = [classified(i, 0, True, sure=0.5 + i / 400) for i in range(200)]
    pruned = [classified(i, 0, i >= 15, sure=0.99) for i in range(200)]
    found = judged(dense, pruned, default_slices=list(KINDS))
    overall = found["verdicts"][0]
    assert (overall["slice"], overall["observed"]) == ("default confidence=1 of 10", 0.75)
    kinds = {row["slice"].split("=")[0] for row in found["evaluations"]}
    assert kinds == {"all", "default confidence", "default length"}


def test_texts_are_sliced_by_length_and_by_how_likely_the_dense_model_finds_them():
    dense = [
        {"example": i, "slices": {}, "loss": 0.01 * i * 9, "tokens": 9 + i % 3, "length": 10 + i % 3}
        for i in range(60)
    ]
    pruned = [{**row, "loss": row["loss"] * (1.5 if row["length"] == 12 else 1.0) + 0.001} for row in dense]
    found = judged(dense, pruned, metric="loss", default_slices=list(KINDS), max_slice_drop=9.0)
    names = [row["slice"] for row in found["evaluations"]]
    assert "default length=3 of 3" in names
    assert "default confidence=1 of 5" in names
    assert not any("label" in name for name in names)
    worst = next(row for row in found["evaluations"] if row["slice"].startswith("default length"))
    assert worst["slice"] == "default length=3 of 3"


@pytest.mark.parametrize("more", [{}, {"default_slices": []}])
def test_without_being_asked_nothing_is_sliced(more):
    dense = [classified(i, i % 2, True) for i in range(100)]
    found = judged(dense, dense, max_slice_drop=None, **more)
    assert [row["slice"] for row in found["evaluations"]] == ["all"]
