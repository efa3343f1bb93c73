"""A plan beside the last one: each unit to do has one reason, and it is the right one."""

from __future__ import annotations

import pytest

from orchestrator.plandiff import COLUMNS, Why, chain_rows, changes


def told(before, now):
    return [(change.why.value, change.subject, change.detail) for change in changes(chain_rows(before), now)]


def all_of(plan):
    return set(plan.units)


def test_a_plan_like_the_last_one_with_everything_done_has_no_changes(make_plan):
    before = make_plan()
    assert told(before, make_plan(completed=all_of(before))) == []


def test_work_that_was_planned_and_not_done_is_left_over(make_plan):
    before = make_plan()
    (change,) = changes(chain_rows(before), make_plan())
    assert (change.why, change.subject, change.units) == (Why.LEFT, "zoo/tiny@1", len(before.units))


def test_models_and_versions_that_came_are_told_apart(make_plan, make_model):
    before = make_plan([make_model()])
    models = [make_model(), make_model(version="2", digest="2" * 64), make_model(name="big", digest="3" * 64)]
    assert told(before, make_plan(models, completed=all_of(before))) == [
        ("new model", "zoo/big@1", "half, two-four"),
        ("new version", "zoo/tiny@2", "half, two-four"),
    ]


def test_other_bytes_under_the_same_version_are_told(make_plan, make_model):
    before = make_plan([make_model()])
    now = make_plan([make_model(digest="9" * 64)], completed=all_of(before))
    assert told(before, now) == [("changed bytes", "zoo/tiny@1", "half, two-four")]


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("amount: 0.5", "amount: 0.6", "prune"),
        ("max_drop: 0.1}\n    publish", "max_drop: 0.2}\n    publish", "judge"),
        ("units: 2", "units: 1", "sensitivity"),
    ],
)
def test_a_changed_recipe_says_from_which_task_on_there_is_work(make_plan, fleet_text, old, new, first):
    assert fleet_text.count(old) == 1
    before = make_plan()
    (change,) = changes(
        chain_rows(before), make_plan(text=fleet_text.replace(old, new), completed=all_of(before))
    )
    assert (change.why, change.subject) == (Why.CHANGED, "half")
    assert change.detail == f"from {first} on: its parameters, data or code are others; zoo/tiny@1"
    assert 0 < change.units < len(before.units)


def test_other_data_changes_every_recipe_that_reads_it(make_plan, data):
    from dataclasses import replace

    before = make_plan()
    now = make_plan(completed=all_of(before), data_files={"manual": replace(data["manual"], digest="e" * 64)})
    assert [(why, subject) for why, subject, _ in told(before, now)] == [
        ("changed recipe", "half"),
        ("changed recipe", "two-four"),
    ]


def test_a_new_recipe_names_its_models_and_what_is_gone_comes_last(make_plan, make_model, fleet_text):
    models = [make_model(), make_model(name="old", digest="5" * 64)]
    before = make_plan(models)
    now = make_plan([make_model()], text=fleet_text.replace("two-four:", "other:"))
    found = told(before, now)
    assert found[0] == ("new recipe", "other", "zoo/tiny@1")
    assert found[1][:2] == ("left over", "zoo/tiny@1")
    assert found[2:] == [("gone", "zoo/old@1", "half, two-four"), ("gone", "zoo/tiny@1", "two-four")]


def test_many_names_are_counted(make_plan, make_model, fleet_text):
    models = [make_model(name=f"m{i}", digest=f"{i:064x}") for i in range(9)]
    text = fleet_text.replace("two-four:", "other:")
    before = make_plan(models)
    detail = next(line for line in told(before, make_plan(models, text=text)) if line[0] == "new recipe")[2]
    assert detail == "zoo/m0@1, zoo/m1@1, zoo/m2@1, zoo/m3@1, zoo/m4@1, zoo/m5@1 and 3 more"


def test_every_unit_to_do_has_a_reason(make_plan, make_model):
    before = make_plan([make_model()])
    half_done = sorted(all_of(before))[::2]
    now = make_plan([make_model(), make_model(name="big", digest="3" * 64)], completed=half_done)
    assert sum(change.units for change in changes(chain_rows(before), now)) >= len(now.todo)


def test_what_a_run_leaves_has_the_columns_that_are_read_back(make_plan):
    assert {tuple(sorted(row)) for row in chain_rows(make_plan())} == {tuple(sorted(COLUMNS))}
