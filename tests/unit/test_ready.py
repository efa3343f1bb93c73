"""Ready units by load: the most urgent first, shards of one model, nothing lost."""

from __future__ import annotations

import random

import pytest

from orchestrator.schedule.forecast import Forecast
from orchestrator.schedule.ready import Ready, load_of


@pytest.fixture
def cell_of(make_pool, costs):
    forecast = Forecast({"cpu": make_pool(), "gpu": make_pool("gpu", gpus=1.0)}, costs)
    return lambda unit: forecast.of(unit).cell


@pytest.fixture
def units(make_plan, make_model):
    plan = make_plan([make_model(str(n), bytes=10 ** (3 + n % 3)) for n in range(6)])
    return [plan.units[key] for key in plan.todo]


def heads(ready):
    return {cell: head for cell in list(ready.heaps) if (head := ready.head(cell))}


def drained(ready, seconds=10.0, joins=lambda key: True):
    taken = []
    while ready.size:
        there = heads(ready)
        cell = max(there, key=lambda cell: there[cell][1])
        taken.append(list(ready.take(cell, seconds, lambda key: 1.0, joins)))
    return taken


@pytest.mark.parametrize("seed", range(20))
def test_everything_that_goes_in_comes_out_once(units, seed, cell_of):
    rng, ready = random.Random(seed), Ready()
    for unit in rng.sample(units, len(units)):
        ready.add(unit, cell_of(unit), rng.random())
    shards = drained(ready, seconds=rng.choice([1.0, 2.0, 100.0]))
    assert sorted(key for shard in shards for key in shard) == sorted(unit.key for unit in units)
    assert heads(ready) == {}


def test_a_shard_holds_one_load(units, cell_of):
    ready = Ready()
    for unit in units:
        ready.add(unit, cell_of(unit), 1.0)
    by_key = {unit.key: unit for unit in units}
    for shard in drained(ready):
        assert len({load_of(by_key[key]) for key in shard}) == 1
        assert len({cell_of(by_key[key]) for key in shard}) == 1


def test_a_shard_is_not_longer_than_asked_unless_it_is_one_unit(units, cell_of):
    ready = Ready()
    for unit in units:
        ready.add(unit, cell_of(unit), 1.0)
    assert max(map(len, drained(ready, seconds=1.0))) == 1


def test_what_must_be_alone_is_alone(units, cell_of):
    sensitivity = [unit for unit in units if unit.task.value == "sensitivity"][:2]
    lonely, ready = sensitivity[0].key, Ready()
    for unit in sensitivity:
        ready.add(unit, cell_of(unit), 1.0)
    assert [lonely] in drained(ready, joins=lambda key: key != lonely)


def test_the_highest_rank_comes_first_within_a_cell(make_plan, make_model, cell_of):
    plan = make_plan([make_model(str(n)) for n in range(5)])
    dense = {plan.units[chain.dense].model.name: plan.units[chain.dense] for chain in plan.chains}
    ready = Ready()
    for name, unit in dense.items():
        ready.add(unit, cell_of(unit), rank=float(name))
    names = [unit.model.name for shard in drained(ready) for unit in dense.values() if unit.key in shard]
    assert names == ["4", "3", "2", "1", "0"]


def test_adding_twice_is_adding_once(units, cell_of):
    ready = Ready()
    ready.add(units[0], cell_of(units[0]), 1.0)
    ready.add(units[0], cell_of(units[0]), 2.0)
    assert ready.size == 1


def test_what_times_an_artifact_shares_a_load_with_what_evaluates_it(make_plan, fleet_text):
    text = fleet_text.replace("metric: perplexity}", "metric: perplexity, latency: true}", 1)
    plan = make_plan(text=text)
    (chain,) = [chain for chain in plan.chains if chain.latency]
    assert load_of(plan.units[chain.latency]) == load_of(plan.units[chain.pruned]) == chain.prune


def test_an_artifact_is_another_load_than_its_model(make_plan):
    plan = make_plan()
    (chain, *_) = plan.chains
    assert load_of(plan.units[chain.dense]) == plan.units[chain.dense].model.digest
    assert load_of(plan.units[chain.pruned]) == chain.prune
