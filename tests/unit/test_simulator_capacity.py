"""Capacity planning: makespans by hand, what another slot buys, losses, and the picture of it."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import pytest

from orchestrator.schedule.placement import place
from orchestrator.simulation.capacity import Assumptions, nodes_of, simulate, with_another_slot
from orchestrator.simulation.drawing import shares, utilization
from orchestrator.simulation.whatif import as_json, nothing_cached, scenarios


@pytest.fixture
def many(make_plan, make_model):
    return make_plan([make_model(str(number), bytes=10**9, parameters=10**9) for number in range(12)])


@pytest.fixture
def run(costs):
    def run(plan, pools, **assumptions):
        pools = {pool.name: pool for pool in pools}
        misfits = place(plan, pools, costs).misfits
        return simulate(plan, pools, costs, misfits, Assumptions(**assumptions))

    return run


def test_one_slot_takes_as_long_as_all_its_work(many, make_pool, costs, run):
    pool = make_pool(cpus=1.0)
    total = sum(costs.estimate(many.units[key], pool).seconds for key in many.todo)
    outcome = run(many, [pool])
    assert outcome.makespan_seconds == pytest.approx(total)
    assert outcome.utilization("cpu") == pytest.approx(1.0)
    assert outcome.units["done"] == len(many.todo)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_no_run_beats_the_bound_nor_is_far_from_it(many, make_pool, costs, run, slots):
    pool = make_pool(cpus=float(slots))
    bound = place(many, {"cpu": pool}, costs).lower_bound_seconds
    assert bound <= run(many, [pool]).makespan_seconds * (1 + 1e-9) <= 1.5 * bound


def test_a_plan_without_work_takes_no_time(make_plan, make_pool, run):
    outcome = run(make_plan(completed=make_plan().units), [make_pool(price_per_hour=5.0)])
    assert (outcome.makespan_seconds, outcome.attempts, outcome.dollars) == (0.0, 0, 0.0)
    assert outcome.utilization("cpu") == 0.0


def test_the_pools_are_paid_for_from_the_first_start_to_the_last_end(many, make_pool, run):
    outcome = run(many, [make_pool(price_per_hour=7.0)])
    assert outcome.dollars == pytest.approx(outcome.makespan_seconds / 3600 * 7.0)


def test_the_same_seed_gives_the_same_run_and_noise_changes_it(many, make_pool, run):
    pools = [make_pool(cpus=3.0)]
    noisy = [run(many, pools, noise=0.3, seed=seed).makespan_seconds for seed in (1, 1, 2)]
    assert noisy[0] == noisy[1] != noisy[2]


def test_losing_nodes_costs_time_and_no_unit(make_plan, make_model, make_pool, run):
    plan = make_plan([make_model(str(number), bytes=10**9, parameters=10**7) for number in range(12)])
    pools = [make_pool(cpus=4.0)]
    calm, stormy = run(plan, pools), run(plan, pools, losses_per_hour=10.0, seed=3)
    assert stormy.units["done"] == calm.units["done"] == len(plan.todo)
    taken = [sum(until - since for since, until in outcome.spans["cpu"]) for outcome in (calm, stormy)]
    assert taken[1] > taken[0], "what was lost is computed again"
    assert stormy.makespan_seconds > calm.makespan_seconds


def test_another_slot_has_its_share_of_everything(make_pool):
    gpu = make_pool("gpu", cpus=4.0, gpus=4.0, memory_bytes=4_000, price_per_hour=8.0)
    wider = with_another_slot(gpu)
    assert (wider.slots, wider.gpus, wider.cpus) == (5, 5.0, 5.0)
    assert (wider.memory_bytes, wider.price_per_hour) == (5_000, 10.0)
    assert with_another_slot(make_pool()).memory_bytes is None


@pytest.mark.parametrize(
    ("slots", "per_node", "sizes"), [(4, 1, [1, 1, 1, 1]), (5, 2, [2, 2, 1]), (3, 8, [3])]
)
def test_nodes_add_up_to_their_pool(make_pool, slots, per_node, sizes):
    nodes = nodes_of(make_pool(cpus=float(slots)), per_node)
    assert [node.slots for node in nodes] == sizes
    assert len({node.name for node in nodes}) == len(nodes)


def test_another_slot_of_the_busy_pool_saves_time(many, make_pool, costs):
    pools = {"cpu": make_pool(price_per_hour=1.0), "gpu": make_pool("gpu", gpus=1.0, price_per_hour=9.0)}
    told = as_json(scenarios(many, pools, costs, Assumptions()))
    assert set(told["one_slot_more"]) == {"cpu", "gpu"}
    assert told["one_slot_more"]["gpu"]["saves_seconds"] > 0
    assert told["makespan_seconds"] >= told["lower_bound_seconds"]
    assert told["pools"]["gpu"]["slots"] == 1
    assert 0.9 < told["pools"]["gpu"]["utilization"] <= 1.0
    assert told["units"]["done"] == len(many.todo)


def test_a_pool_without_slots_is_not_widened(many, make_pool, costs):
    pools = {"cpu": make_pool(), "off": make_pool("off", cpus=0.0, cpus_per_shard=1.0)}
    assert set(as_json(scenarios(many, pools, costs, Assumptions()))["one_slot_more"]) == {"cpu"}


def test_a_first_night_can_be_simulated_on_any_later_one(make_plan):
    plan = make_plan()
    later = make_plan(completed=list(plan.units)[:5], quarantined={list(plan.units)[7]: "bad"})
    assert nothing_cached(later).todo == plan.todo
    assert not nothing_cached(later).quarantined


@pytest.mark.parametrize("seed", range(10))
def test_the_shares_of_time_steps_add_up_to_the_taken_seconds(seed):
    rng = random.Random(seed)
    starts = [rng.uniform(0, 90) for _ in range(40)]
    spans = [(start, min(100.0, start + rng.choice((0.0, 0.01, 5.0, 60.0)))) for start in starts]
    found = shares(spans, slots=40, end=100.0, steps=37)
    assert sum(found) * 40 * 100 / 37 == pytest.approx(sum(stop - start for start, stop in spans))
    assert all(-1e-9 <= share <= 1 + 1e-9 for share in found)


def test_a_step_is_as_busy_as_its_spans_say():
    assert shares([(0.0, 5.0), (5.0, 10.0), (0.0, 2.5)], slots=2, end=10.0, steps=4) == pytest.approx(
        [1, 0.5, 0.5, 0.5]
    )


def test_the_plot_is_one_whole_svg_file(many, make_pool, run):
    outcome = run(many, [make_pool(cpus=3.0), make_pool("gpu", gpus=1.0)])
    root = ET.fromstring(str(utilization(outcome, "a <fleet> & more")))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    texts = "".join(root.itertext())
    assert "a <fleet> & more" in texts
    assert "gpu" in texts
    assert len(root.findall("{http://www.w3.org/2000/svg}polygon")) == 2


def test_the_plot_of_nothing_is_a_picture_too(make_plan, make_pool, run):
    outcome = run(make_plan(completed=make_plan().units), [make_pool()])
    assert ET.fromstring(str(utilization(outcome, "nothing"))) is not None
