"""Outlooks: one for all units that are alike, with the pools' rooms and the cells that shards are made of."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from orchestrator.domain import TaskName
from orchestrator.schedule.costs import Costs, Fit
from orchestrator.schedule.forecast import Forecast, has_room
from orchestrator.schedule.placement import place


@pytest.fixture
def pools(make_pool):
    return {"cpu": make_pool(), "gpu": make_pool("gpu", gpus=1.0, memory_bytes=2**31)}


@pytest.fixture
def forecast(pools, costs):
    return Forecast(pools, costs)


def test_an_outlook_is_what_the_cost_model_says(forecast, pools, costs, make_plan):
    for unit in make_plan().units.values():
        outlook = forecast.of(unit)
        for name, pool in pools.items():
            estimate = costs.estimate(unit, pool)
            assert outlook.seconds[name] == estimate.seconds
            assert outlook.memory_bytes == estimate.memory_bytes
        assert outlook.fastest == min(outlook.seconds.values())


def test_units_that_are_alike_share_one_outlook(forecast, make_plan, make_model):
    plan = make_plan([make_model("a"), make_model("b")])
    outlooks = {key: forecast.of(unit) for key, unit in plan.units.items()}
    parts = [key for key, unit in plan.units.items() if unit.parts == 2 and unit.model.name == "a"]
    assert outlooks[parts[0]] is outlooks[parts[1]]
    (chain, *_) = plan.chains
    assert outlooks[chain.dense] is outlooks[chain.pruned]
    assert len({id(outlook) for outlook in outlooks.values()}) < len(outlooks)


def test_more_memory_leaves_fewer_rooms(forecast, make_plan, make_model):
    unit = next(iter(make_plan([make_model(bytes=3 * 10**8)]).units.values()))
    assert forecast.of(unit).rooms == {"cpu", "gpu"}
    tight = forecast.of(unit, 2.0)
    assert tight.rooms == {"cpu"}
    assert tight.memory_bytes == 2 * forecast.of(unit).memory_bytes
    assert tight.cell.steps[1] == math.inf
    assert tight.fastest == tight.seconds["cpu"]


def test_where_it_fits_nowhere_the_fastest_is_that_of_all_pools(make_plan, make_model, make_pool, costs):
    unit = next(iter(make_plan([make_model(bytes=10**12)]).units.values()))
    outlook = Forecast({"cpu": make_pool(memory_bytes=2**30)}, costs).of(unit)
    assert outlook.rooms == frozenset()
    assert outlook.fastest == outlook.seconds["cpu"]


def test_a_pool_without_slots_has_no_room(make_pool):
    assert not has_room(make_pool(cpus=0.0), 1)
    assert has_room(make_pool(), 10**15)
    assert not has_room(make_pool(memory_bytes=10), 11)


def test_a_cell_holds_one_task_one_memory_class_and_like_proportions(forecast, make_plan, make_model):
    sizes = (10**5, 1.1 * 10**5, 10**9)
    plan = make_plan([make_model(str(size), bytes=int(size), parameters=int(size / 4)) for size in sizes])
    cells = {}
    for unit in plan.units.values():
        outlook = forecast.of(unit)
        cells.setdefault(outlook.cell, []).append((unit, outlook))
    for members in cells.values():
        assert len({unit.task for unit, _ in members}) == 1
        ratios = [outlook.seconds["cpu"] / outlook.seconds["gpu"] for _, outlook in members]
        assert max(ratios) / min(ratios) < math.exp(0.11)
        memory = [outlook.memory_bytes for _, outlook in members]
        assert max(memory) <= 2 * min(memory) + 2
    assert {cell.task for cell in cells} == set(TaskName) - {TaskName.LATENCY}, (
        "which this fleet does not ask for"
    )
    assert max(len(members) for members in cells.values()) > 1


@pytest.mark.parametrize("seed", range(15))
def test_the_bound_of_a_plan_is_beaten_by_no_assignment(make_plan, make_model, make_pool, data, seed):
    """Units of one size whose tasks suit the pools in quite different proportions."""
    rng = random.Random(seed)
    pools = {"cpu": make_pool(cpus=1.0), "gpu": make_pool("gpu", cpus=1.0, gpus=1.0)}
    fits = {
        (task.value, name): Fit(units=1e9, mean_log_ratio=rng.uniform(-3, 3))
        for task in TaskName
        for name in pools
    }
    costs = Costs(fits=fits)
    plan = make_plan([make_model("a"), make_model("b")])
    free = [key for key in plan.todo if not plan.units[key].needs][:8]
    rest = make_plan([make_model("a"), make_model("b")], completed=set(plan.units) - set(free))
    bound = place(rest, pools, costs).lower_bound_seconds
    forecast = Forecast(pools, costs)
    best = math.inf
    for choice in itertools.product(pools, repeat=len(rest.todo)):
        loads = dict.fromkeys(pools, 0.0)
        for key, name in zip(rest.todo, choice, strict=True):
            loads[name] += forecast.of(plan.units[key]).seconds[name]
        best = min(best, max(loads.values()))
    assert bound <= best * (1 + 1e-9)
    assert bound > 0.3 * best
