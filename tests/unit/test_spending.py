"""The versions of a model may share one error: how it is divided, and that units know of it by their keys."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.domain import ModelVersion, TaskName
from orchestrator.gate.gates import Gates
from orchestrator.gate.looks import looks_at, spent


def asking(text, spending):
    """The fleet whose first recipe says how its error is spent."""
    return text.replace("gates: {max_drop: 0.1}", f"gates: {{max_drop: 0.1, spending: {spending}}}", 1)


@pytest.fixture
def shared(fleet_text):
    return asking(fleet_text, "by_version")


def judges(plan, recipe="half"):
    """Version -> what its judge is told, of one recipe."""
    return {
        chain.model.version: plan.units[chain.judge].step.params["gates"]
        for chain in plan.chains
        if chain.recipe == recipe
    }


@given(st.floats(1e-4, 0.5), st.integers(1, 3000))
def test_all_looks_together_never_err_by_more_than_the_whole(alpha, looks):
    total = math.fsum(spent(alpha, look) for look in range(1, looks + 1))
    assert total < alpha
    assert alpha - total <= alpha * 6 / math.pi**2 / looks * (1 + 1e-9)


def test_a_verdict_that_stands_alone_spends_all():
    assert spent(0.05, None) == 0.05
    assert Gates(confidence=0.95).alpha == 0.05
    assert Gates(confidence=0.95, look=2).alpha == pytest.approx(0.05 * 6 / math.pi**2 / 4)


def test_looks_are_counted_from_one():
    with pytest.raises(ValueError, match="from 1"):
        spent(0.05, 0)


def test_versions_count_in_natural_order_each_model_for_itself(make_model):
    models = [make_model(version=version) for version in ("10", "9", "2")]
    models += [make_model("other", "7"), make_model(version="1", registry="prod")]
    assert looks_at(models) == {
        "zoo/tiny@2": 1,
        "zoo/tiny@9": 2,
        "zoo/tiny@10": 3,
        "zoo/other@7": 1,
        "prod/tiny@1": 1,
    }


def test_equal_contents_are_one_look_and_broken_versions_none(make_model):
    models = [
        make_model(version="1"),
        make_model(version="2", digest="digest of tiny 1"),
        make_model(version="3", problem="config.json is missing"),
        make_model(version="4"),
    ]
    assert looks_at(models) == {"zoo/tiny@1": 1, "zoo/tiny@2": 1, "zoo/tiny@4": 2}


@given(st.permutations(range(6)))
def test_the_order_of_the_catalog_does_not_matter(order):
    def version(number):
        return ModelVersion(
            registry="r", name="m", version=str(number), digest=str(number), uri="", format="", bytes=0,
            parameters=0, architecture="",
        )  # fmt: skip

    assert looks_at(version(n) for n in order) == {f"r/m@{n}": n + 1 for n in range(6)}


def test_a_judge_is_told_its_look_where_the_recipe_asks_for_it(make_plan, make_model, shared):
    plan = make_plan([make_model(version=str(n)) for n in (1, 2, 3)], text=shared)
    assert {version: gates["look"] for version, gates in judges(plan).items()} == {"1": 1, "2": 2, "3": 3}
    assert all("look" not in gates for gates in judges(plan, "two-four").values())
    assert all("spending" not in gates for gates in judges(plan).values())
    assert Gates(**judges(plan)["3"]).alpha == pytest.approx(0.05 * 6 / (9 * math.pi**2))


def test_spending_changes_no_unit_but_the_judges_of_its_recipe(make_plan, make_model, shared):
    models = [make_model(version=str(n)) for n in (1, 2)]
    alone, together = make_plan(models), make_plan(models, text=shared)
    changed = set(alone.units) ^ set(together.units)
    assert len(changed) == 4
    both = {**alone.units, **together.units}
    assert {both[key].task for key in changed} == {TaskName.JUDGE}


def test_by_default_no_key_knows_of_spending(make_plan, fleet_text):
    assert list(make_plan(text=asking(fleet_text, "none")).units) == list(make_plan().units)


def test_a_new_version_leaves_the_verdicts_of_older_ones(make_plan, make_model, shared):
    old = make_plan([make_model(version="1"), make_model(version="2")], text=shared)
    new = make_plan([make_model(version=str(n)) for n in (1, 2, 3)], completed=old.units, text=shared)
    assert {new.units[key].model.version for key in new.todo} == {"3"}


def test_a_version_in_between_has_those_after_it_judged_anew_and_nothing_else(make_plan, make_model, shared):
    old = make_plan([make_model(version="1"), make_model(version="3")], text=shared)
    new = make_plan([make_model(version=str(n)) for n in (1, 2, 3)], completed=old.units, text=shared)
    assert [new.units[key].task for key in new.todo if new.units[key].model.version == "3"] == [
        TaskName.JUDGE
    ]
