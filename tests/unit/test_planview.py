"""A plan in words: each unit's state and why."""

from __future__ import annotations

import json

import pytest

from orchestrator.planview import as_json, notices, recipe_rows, state_of, summary
from orchestrator.schedule.placement import place


@pytest.fixture
def look(make_pool, costs):
    def make(plan, **pool):
        pools = {"cpu": make_pool(**pool)}
        return plan, place(plan, pools, costs), pools, costs

    return make


def test_a_fresh_plan_says_what_waits_for_what(make_plan, look):
    plan, placement, *_ = look(make_plan())
    (chain,) = [chain for chain in plan.chains if chain.recipe == "half"]
    assert state_of(plan, placement, chain.units[0]) == (
        "to do",
        "no result yet for this model, data and parameters",
    )
    assert state_of(plan, placement, chain.prune) == ("to do", "no result yet; after sensitivity")
    assert state_of(plan, placement, chain.judge) == ("to do", "no result yet; after evaluate")


def test_what_is_done_is_cached(make_plan, look):
    plan, placement, *_ = look(make_plan(completed=make_plan().units))
    assert {state_of(plan, placement, key)[0] for key in plan.units} == {"cached"}


def test_what_needs_the_quarantined_is_impossible_and_says_what(make_plan, look):
    (chain,) = [chain for chain in make_plan().chains if chain.recipe == "half"]
    plan, placement, *_ = look(make_plan(quarantined={chain.prune: "bad_input: NaN"}))
    assert state_of(plan, placement, chain.prune) == ("quarantined", "bad_input: NaN")
    assert state_of(plan, placement, chain.pruned) == ("impossible", "the prune that it needs cannot be done")
    assert state_of(plan, placement, chain.judge) == (
        "impossible",
        "the evaluate that it needs cannot be done",
    )


def test_what_fits_nowhere_is_impossible(make_plan, make_model, look):
    plan, placement, *_ = look(make_plan([make_model(bytes=10**12)]), memory_bytes=2**33)
    states = {state_of(plan, placement, key)[0] for key in plan.units if plan.units[key].task != "judge"}
    assert states == {"impossible"}


def test_the_summary_counts_each_unit_once(make_plan, look):
    plan, placement, pools, _ = look(make_plan(completed=list(make_plan().units)[:2]))
    told = summary(plan, placement, pools)
    assert told["wanted"] == told["done"] + told["to_do"] == len(plan.units)
    assert told["predicted_work_seconds"] >= told["lower_bound_seconds"] > 0
    assert told["models"] == 1


def test_recipes_are_told_with_done_of_wanted(make_plan):
    plan = make_plan(completed=[make_plan().chains[0].dense])
    rows = {row["recipe"]: row for row in recipe_rows(plan)}
    assert rows["half"]["evaluate"] == (1, 2)
    assert rows["half"]["sensitivity"] == (0, 2)
    assert "sensitivity" not in rows["two-four"]


def test_json_holds_every_unit_and_every_reason(make_plan, make_model, look):
    broken = make_model("broken", digest="", problem="empty file")
    told = json.loads(json.dumps(as_json(*look(make_plan([make_model(), broken])))))
    assert {row["unit_key"] for row in told["units"]} == set(make_plan().units)
    assert told["impossible"] == [
        {"subject": "zoo/broken@1", "recipe": "half, two-four", "reason": "empty file"}
    ]
    assert all(row["why"] for row in told["units"])


def test_a_plan_says_which_recipes_cannot_be_expected_to_be_faster_and_why(make_plan, look):
    plan, placement, pools, costs = look(make_plan())
    told = notices(plan)
    assert told[0].startswith("half (unstructured): no speed-up expected, because zeros are stored")
    assert told[1].startswith("two-four (2:4): no speed-up expected in torch, because")
    assert as_json(plan, placement, pools, costs)["notices"] == list(told)


def test_a_plan_says_which_recipes_nothing_judges(make_plan, fleet_text):
    def unjudged(text):
        return [notice.partition(":")[0] for notice in notices(make_plan(text=text)) if "no gates" in notice]

    assert unjudged(fleet_text) == []
    free = [line for line in fleet_text.splitlines() if not line.strip().startswith(("gates:", "publish:"))]
    assert unjudged("\n".join(free)) == ["half, two-four"]
