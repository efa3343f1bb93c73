"""Why a unit is as it is: found by key or model, held against what came nearest, never guessed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from orchestrator.domain import TaskName
from orchestrator.errors import UsageError
from orchestrator.explaining import differences, explain, find_units, made_of, nearest
from orchestrator.planning import VERSIONS, unit_key
from orchestrator.schedule.placement import place


def only(plan, task, recipe):
    """The units of one task that a recipe was the first to want."""
    return [unit for unit in plan.units.values() if unit.task is task and unit.recipe == recipe]


def row_of(unit, *, unit_key="0" * 64, day=1, **changes):
    """A row of `units` as this unit would have left it."""
    return {
        "unit_key": unit_key,
        "run_id": f"run{day}",
        "registry": unit.model.registry,
        "model": unit.model.name,
        "version": unit.model.version,
        "model_digest": unit.model.digest,
        "task": unit.task.value,
        "params": json.dumps(unit.step.params),
        "seed": unit.step.seed,
        "code_version": f"{unit.task.value}/{VERSIONS[unit.task.value]}",
        "finished_at": datetime(2026, 3, day, tzinfo=UTC),
        **changes,
    }


@pytest.fixture
def explained(make_pool, costs):
    def make(plan, key, units=(), attempts=(), findings=()):
        pools = {"cpu": make_pool()}
        placement = place(plan, pools, costs)
        return explain(plan, placement, pools, costs, key, units=units, attempts=attempts, findings=findings)

    return make


def test_a_key_and_every_beginning_of_it_find_the_unit(make_plan):
    plan = make_plan()
    for key in plan.units:
        assert find_units(plan, key) == (key,)
        assert key in find_units(plan, key[:4])


def test_a_model_is_found_by_each_of_its_names(make_plan, make_model):
    plan = make_plan([make_model("tiny", "1"), make_model("tiny", "2"), make_model("other", "1")])
    of_tiny = [key for key, unit in plan.units.items() if unit.model.name == "tiny"]
    first = [key for key in of_tiny if plan.units[key].model.version == "1"]
    assert list(find_units(plan, "tiny")) == list(find_units(plan, "zoo/tiny")) == of_tiny
    assert list(find_units(plan, "tiny@1")) == list(find_units(plan, "zoo/tiny@1")) == first


@pytest.mark.parametrize("asked", ["tinny", "zoo/tinny@1", "", "abc", "0" * 64])
def test_what_is_not_there_is_said_with_the_next_step(make_plan, asked):
    with pytest.raises(UsageError, match="no unit and no model") as refusal:
        find_units(make_plan(), asked)
    assert "--units" in str(refusal.value)
    assert ("did you mean" in str(refusal.value)) == ("tinn" in asked)


def test_too_short_a_beginning_finds_nothing(make_plan):
    plan = make_plan()
    with pytest.raises(UsageError, match="at least 4 characters"):
        find_units(plan, next(iter(plan.units))[:3])


def test_a_cached_unit_shows_its_result_and_no_other_one(make_plan, explained):
    whole = make_plan()
    key = next(iter(whole.units))
    plan = make_plan(completed=[key])
    mine = row_of(plan.units[key], unit_key=key)
    older = row_of(plan.units[key], unit_key="1" * 64, seed=7)
    found = explained(plan, key, units=[older, mine])
    assert found.unit["state"] == "cached"
    assert found.result is mine
    assert found.nearest is None


def test_units_around_it_are_told_with_their_states(make_plan, explained):
    whole = make_plan()
    [prune] = only(whole, TaskName.PRUNE, "half")
    plan = make_plan(completed=[prune.needs[0]])
    found = explained(plan, prune.key)
    assert [(need["unit_key"], need["state"]) for need in found.needs] == [
        (prune.needs[0], "cached"),
        (prune.needs[1], "to do"),
    ]
    assert {reader["task"] for reader in found.readers} == {"evaluate"}
    assert found.unit["why"] == "no result yet; after sensitivity"


def test_a_shared_unit_names_every_recipe_that_wants_it(make_plan, explained):
    plan = make_plan()
    [dense] = [unit for unit in plan.units.values() if unit.task is TaskName.EVALUATE and not unit.needs]
    assert explained(plan, dense.key).recipes == ("half", "two-four")


def test_only_its_own_tries_and_findings_are_shown(make_plan, explained):
    plan = make_plan()
    key, other = list(plan.units)[:2]
    mine, theirs = {"unit_key": key, "error": "no"}, {"unit_key": other, "error": "other"}
    found = explained(plan, key, attempts=[theirs, mine], findings=[mine, theirs])
    assert found.attempts == found.findings == (mine,)


def test_a_quarantined_unit_gives_its_reason(make_plan, explained):
    key = next(iter(make_plan().units))
    plan = make_plan(quarantined={key: "poison: it crashed twice"})
    assert explained(plan, key).unit["why"] == "poison: it crashed twice"


def test_what_a_key_is_made_of_makes_that_key(make_plan):
    """The explanation is complete: units with equal parts have equal keys, and others have other ones."""
    plan = make_plan()
    seen = {json.dumps(made_of(unit), sort_keys=True): unit.key for unit in plan.units.values()}
    assert len(seen) == len(plan.units)
    for unit in plan.units.values():
        again = unit_key(unit.step, unit.model.digest, unit.needs, unit.part, unit.parts)
        assert seen[json.dumps(made_of(unit), sort_keys=True)] == again


def test_a_changed_parameter_is_named_with_both_values(make_plan):
    [prune] = only(make_plan(), TaskName.PRUNE, "two-four")
    params = {**prune.step.params, "pattern": "4:8", "gone": 1}
    del params["amount"]
    told = differences(prune, row_of(prune, params=json.dumps(params)))
    assert told == (
        f"amount: nothing, now {json.dumps(prune.step.params['amount'])}",
        "gone: 1, now nothing",
        'pattern: "4:8", now "2:4"',
    )


def test_other_bytes_another_task_and_another_seed_are_named(make_plan):
    [prune] = only(make_plan(), TaskName.PRUNE, "two-four")
    told = differences(
        prune, row_of(prune, model_digest="other", version="0", seed=9, code_version="prune/0")
    )
    assert told == (
        "the model's bytes: those of version 0, now of 1",
        f"the version of the task: prune/0, now prune/{VERSIONS['prune']}",
        f"seed: 9, now {prune.step.seed}",
    )


def test_the_nearest_is_the_one_with_fewest_differences_and_of_these_the_newest(make_plan):
    [prune] = only(make_plan(), TaskName.PRUNE, "two-four")
    far = row_of(prune, unit_key="a" * 64, day=9, seed=3, model_digest="x", version="0")
    old = row_of(prune, unit_key="b" * 64, day=2, seed=3)
    new = row_of(prune, unit_key="c" * 64, day=5, seed=4)
    foreign = row_of(prune, unit_key="d" * 64, day=9, model="another")
    another_task = row_of(prune, unit_key="e" * 64, day=9, task="evaluate")
    itself = row_of(prune, unit_key=prune.key, day=9)
    found = nearest(prune, [far, old, new, foreign, another_task, itself])
    assert found is not None
    assert found.unit_key == "c" * 64
    assert found.differences == (f"seed: 4, now {prune.step.seed}",)


def test_where_nothing_shown_differs_it_says_what_else_may(make_plan):
    [prune] = only(make_plan(), TaskName.PRUNE, "two-four")
    found = nearest(
        prune,
        [
            row_of(
                prune,
                finished_at=None,
                params=None if not prune.step.params else json.dumps(prune.step.params),
            )
        ],
    )
    assert found is not None
    assert "its data" in found.differences[0]


def test_without_an_older_result_there_is_none(make_plan, explained):
    plan = make_plan()
    key = next(iter(plan.units))
    assert explained(plan, key).nearest is None
