"""Predictions: a prior from sizes, corrected by experience; and what no schedule can beat."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from orchestrator.schedule.costs import Costs, memory_bytes, money, prior_seconds
from orchestrator.schedule.forecast import has_room
from orchestrator.schedule.placement import _fractional_makespan, place, pools_of, pools_on


@pytest.fixture
def units(make_plan):
    return list(make_plan().units.values())


def test_without_experience_the_prior_holds(units, make_pool, costs):
    assert costs.estimate(units[0], make_pool()).seconds == prior_seconds(units[0], make_pool())


def test_experience_moves_the_estimate_to_what_was_measured(units, make_pool, costs):
    pool, unit = make_pool(), units[0]
    learnt = costs.learnt([(unit, pool, 7.0)] * 200)
    assert learnt.estimate(unit, pool).seconds == pytest.approx(7.0, rel=0.05)


def test_one_measurement_moves_it_only_part_of_the_way(units, make_pool, costs):
    pool, unit = make_pool(), units[0]
    prior = costs.estimate(unit, pool).seconds
    once = costs.learnt([(unit, pool, prior * 100)]).estimate(unit, pool).seconds
    assert prior < once < prior * 100


def test_experience_is_kept_apart_by_task_and_pool(units, make_pool, costs):
    sensitivity = next(unit for unit in units if unit.task.value == "sensitivity")
    prune = next(unit for unit in units if unit.task.value == "prune")
    learnt = costs.learnt([(sensitivity, make_pool(), 50.0)] * 50)
    assert learnt.estimate(prune, make_pool()).seconds == costs.estimate(prune, make_pool()).seconds
    other = make_pool("other")
    assert learnt.estimate(sensitivity, other).seconds == costs.estimate(sensitivity, other).seconds


def test_experience_survives_the_store(units, make_pool, costs):
    learnt = costs.learnt([(unit, make_pool(), 3.0) for unit in units])
    assert Costs.from_json(learnt.to_json()) == learnt


@pytest.mark.parametrize(
    "value",
    [
        {"x": 1},
        {"a|b": [1]},
        {"a|b": ["x", "y"]},
        {"a|": [1, 2]},
        {},
        {"a|b": [1.0, 1e9]},
        {"a|b": [1.0, math.nan]},
        {"a|b": [math.inf, 1.0]},
        {"a|b": [-1.0, 1.0]},
        {"a|b": [True, 1.0]},
        {"a|b": [1, 2, 3]},
    ],
)
def test_damaged_experience_is_no_experience(value):
    assert Costs.from_json(value) == Costs()


def test_a_measurement_of_nothing_teaches_nothing(units, make_pool, costs):
    assert costs.learnt([(units[0], make_pool(), 0.0)]) == costs


def test_a_bigger_model_needs_more_memory(make_plan, make_model):
    small, big = (make_plan([make_model(bytes=size)]).units.values() for size in (10**6, 10**9))
    assert max(map(memory_bytes, big)) > max(map(memory_bytes, small)) + 10**9


def test_sparsegpt_needs_room_for_hessians(make_plan, make_model, fleet_text):
    model = make_model(bytes=2 * 10**9, parameters=10**9)
    plans = [
        make_plan([model], text=fleet_text.replace("criterion: wanda", f"criterion: {criterion}"))
        for criterion in ("wanda", "sparsegpt")
    ]
    wanda, sparsegpt = (
        {unit.task: memory_bytes(unit) for unit in plan.units.values() if unit.recipe == "half"}
        for plan in plans
    )
    more = {task.value: sparsegpt[task] - wanda[task] for task in wanda}
    assert more["prune"] == more["sensitivity"] > 2**30 + 10**9
    assert more["evaluate"] == more["judge"] == 0


@pytest.mark.parametrize(("criterion", "held"), [("taylor", 4 * 10**8), ("fisher", 8 * 10**8)])
def test_gradients_need_room_and_time(make_plan, make_model, make_pool, fleet_text, criterion, held):
    model = make_model(bytes=2 * 10**8, parameters=10**8)
    memory, seconds = [], []
    for name in ("wanda", criterion):
        plan = make_plan([model], text=fleet_text.replace("criterion: wanda", f"criterion: {name}"))
        units = [unit for unit in plan.units.values() if unit.recipe == "half"]
        memory.append({unit.task: memory_bytes(unit) for unit in units})
        seconds.append({unit.task: prior_seconds(unit, make_pool()) for unit in units})
    more = {task.value: memory[1][task] - memory[0][task] for task in memory[0]}
    assert more["prune"] == more["sensitivity"] == held + 2 * 10**8
    assert more["evaluate"] == more["judge"] == 0
    assert {task.value for task in seconds[0] if seconds[1][task] > seconds[0][task]} == {
        "prune",
        "sensitivity",
    }


def test_an_hour_of_a_whole_pool_costs_its_price(make_pool):
    pool = make_pool(cpus=4.0, price_per_hour=8.0)
    assert money(3600, pool) == pytest.approx(2.0)
    assert money(3600, make_pool(cpus=0.0)) == 0.0


def test_pools_come_from_the_fleet(make_fleet, fleet_text):
    text = fleet_text.replace(
        "cpu: {cpus: 2}", "cpu: {cpus: 2, memory: 8GiB}\n  gpu: {gpus: 4, cpus: 8, cpus_per_shard: 2}"
    )
    pools = pools_of(make_fleet(text))
    assert pools["cpu"].slots == 2
    assert pools["cpu"].memory_bytes == 8 * 2**30
    assert not pools["cpu"].has_gpus
    assert pools["gpu"].slots == 4
    assert pools["gpu"].has_gpus


def test_what_is_larger_than_every_pool_is_named_before_anything_runs(
    make_plan, make_model, make_pool, costs
):
    plan = make_plan([make_model("huge", bytes=10**12), make_model("tiny")])
    found = place(plan, {"cpu": make_pool(memory_bytes=2**33)}, costs)
    assert {plan.units[key].model.name for key in found.misfits} == {"huge"}
    assert "largest pool 'cpu' has 8.0 GiB" in next(iter(found.misfits.values()))
    pool, fitting = (
        make_pool(memory_bytes=2**33),
        [plan.units[key] for key in plan.todo if key not in found.misfits],
    )
    assert all(has_room(pool, memory_bytes(unit)) for unit in fitting)


def test_what_is_larger_than_every_node_is_named_though_the_pool_has_the_memory_in_all(
    make_plan, make_model, make_pool, costs
):
    plan = make_plan([make_model("large", bytes=10**10), make_model("tiny")])
    total = {"cpu": make_pool(memory_bytes=2**40), "small": make_pool("small", memory_bytes=2**33)}
    assert place(plan, total, costs).misfits == {}
    assert pools_on(total, {}) == total, "a pool without nodes yet may get any"
    found = place(plan, pools_on(total, {"cpu": 12 * 2**30, "small": 2**33}), costs)
    assert {plan.units[key].model.name for key in found.misfits} == {"large"}
    told = next(iter(found.misfits.values()))
    assert "of zoo/large@1 needs about" in told
    assert "on one node; the largest node of pool 'cpu' has 12.0 GiB" in told


def test_what_the_fleet_says_of_nodes_holds_and_memory_that_is_not_counted_is_not_asked_for(
    make_fleet, fleet_text
):
    pools = "cpu: {cpus: 2, memory: 64GiB, memory_per_node: 32GiB}\n  any: {cpus: 1}"
    declared = pools_of(make_fleet(fleet_text.replace("cpu: {cpus: 2}", pools)))
    assert declared["cpu"].node_memory_bytes == 32 * 2**30
    assert pools_on(declared, {"cpu": 1, "any": 1}) == declared


def test_one_pools_bound_is_its_work_over_its_slots(make_plan, make_model, make_pool, costs):
    plan = make_plan([make_model(str(n)) for n in range(10)])
    pool = make_pool(cpus=4.0)
    total = sum(costs.estimate(plan.units[key], pool).seconds for key in plan.todo)
    found = place(plan, {"cpu": pool}, costs)
    assert found.lower_bound_seconds == pytest.approx(total / 4)
    assert found.work_seconds == {"cpu": pytest.approx(total)}


def test_the_longest_chain_bounds_a_wide_cluster(make_plan, make_pool, costs):
    plan, pool = make_plan(), make_pool(cpus=1000.0)
    chain = max(
        sum(costs.estimate(plan.units[key], pool).seconds for key in (one, two, three, four))
        for one in plan.todo
        for two, three, four in [_followers(plan, one)]
    )
    assert place(plan, {"cpu": pool}, costs).lower_bound_seconds == pytest.approx(chain)


def _followers(plan, key):
    (found,) = {chain.recipe: chain for chain in plan.chains if chain.recipe == "half"}.values()
    return found.prune, found.pruned, found.judge


def test_the_bound_of_nothing_is_nothing(make_plan, make_pool, costs):
    plan = make_plan(completed=make_plan().units)
    assert place(plan, {"cpu": make_pool()}, costs).lower_bound_seconds == 0.0


@pytest.mark.parametrize("seed", range(12))
def test_no_schedule_beats_the_bound_of_mixed_pools(seed):
    rng = random.Random(seed)
    slots = {"cpu": rng.randint(1, 2), "gpu": 1}
    cells = [{"cpu": rng.uniform(1, 10), "gpu": rng.uniform(0.5, 10)} for _ in range(5)]
    bound = _fractional_makespan(cells, slots)
    best = math.inf
    for choice in itertools.product(slots, repeat=len(cells)):
        loads = {name: [0.0] * count for name, count in slots.items()}
        for work, name in sorted(zip(cells, choice, strict=True), key=lambda pair: -pair[0][pair[1]]):
            least = min(range(slots[name]), key=lambda slot, name=name: loads[name][slot])
            loads[name][least] += work[name]
        best = min(best, max(max(each) for each in loads.values()))
    assert bound <= best + 1e-9


def test_work_that_one_pool_cannot_do_goes_to_the_other_in_the_bound():
    assert _fractional_makespan([{"cpu": math.inf, "gpu": 6.0}], {"cpu": 10, "gpu": 2}) == pytest.approx(3.0)
