"""How long planning and scheduling take at the sizes that are promised, and how good the schedules are."""

from __future__ import annotations

import random
import resource
import time
from pathlib import PurePosixPath

import pytest

from orchestrator.domain import Catalog, ModelVersion
from orchestrator.planning import DataFile, build_plan
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.placement import place, pools_of
from orchestrator.simulation.capacity import Assumptions, simulate
from orchestrator.spec import load_fleet

pytestmark = pytest.mark.benchmark

GIB = 2**30
RECIPE = """
  {name}:
    match: {{architecture: "*ForCausalLM"}}
    sensitivity: {{dataset: {data}, split: calibration, units: {units}}}
    seed: {number}
    prune: {{criterion: wanda, amount: 0.5, allocation: sensitivity}}
    evaluate: {{dataset: {data}, split: test, metric: perplexity}}
    gates: {{max_drop: 0.1}}
"""
FLEET = """
version: 1
name: large
store: ./out
registries: {{zoo: {{kind: directory, path: ./zoo}}}}
datasets:
  short: {{kind: text, path: short.jsonl}}
  long: {{kind: text, path: long.jsonl}}
recipes: {recipes}
pools:
  cpu: {{cpus: {cpus}, cpus_per_shard: 8, price_per_hour: 100.0}}
  gpu: {{gpus: {gpus}, cpus: {gpus}, price_per_hour: 2000.0}}
"""
DATA = {
    "short": DataFile(path="/home/short.jsonl", digest="a" * 64, bytes=2_000),
    "long": DataFile(path="/home/long.jsonl", digest="b" * 64, bytes=200_000),
}


def fleet_of(recipes, cpu_slots, gpu_slots):
    text = "".join(
        RECIPE.format(name=f"r{number}", number=number, data=data, units=units)
        for number, (data, units) in enumerate(recipes)
    )
    text = FLEET.format(recipes=text, cpus=8 * cpu_slots, gpus=gpu_slots)
    return load_fleet(text, "fleet.yaml", PurePosixPath("/home"))


def catalog_of(count, seed):
    rng = random.Random(seed)

    def version(number):
        parameters = int(10 ** rng.uniform(7, 10.3))
        return ModelVersion(
            registry="zoo", name=f"m{number}", version="1", digest=f"{number:064x}", uri=f"/zoo/m{number}",
            format="safetensors", bytes=2 * parameters, parameters=parameters, architecture="LlamaForCausalLM",
        )  # fmt: skip

    return Catalog(versions=tuple(version(number) for number in range(count)))


@pytest.fixture
def measure(capsys, record_property):
    """Runs a step, and tells its seconds and the process's peak memory."""

    def measured(name, step):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        record_property(name, wall)
        with capsys.disabled():
            print(
                f"\n  {name}: {wall:.1f} s, {cpu:.1f} s of the processor, peak {peak / GIB:.2f} GiB", end=""
            )
        return answer, wall, peak

    return measured


@pytest.mark.timeout(1200)
def test_a_million_units_are_planned_and_scheduled_on_a_thousand_nodes(measure):
    fleet = fleet_of([("long", 50), ("short", 47)], cpu_slots=2400, gpu_slots=800)
    catalog = catalog_of(10_000, seed=0)
    pools = pools_of(fleet)
    plan, planned, _ = measure("plan", lambda: build_plan(fleet, catalog, frozenset(), DATA, {}))
    assert len(plan.todo) > 1_000_000
    placement, placed, peak = measure("bounds", lambda: place(plan, pools, Costs()))
    assert planned + placed < 60
    assert peak < 2 * GIB
    cpu, gpu = (pools[name].slots for name in ("cpu", "gpu"))
    assert (cpu // 4) + (gpu // 2) == 1_000
    outcome, seconds, _ = measure(
        "schedule", lambda: simulate(plan, pools, Costs(), placement.misfits, Assumptions(slots_per_node=3))
    )
    ratio = outcome.makespan_seconds / placement.lower_bound_seconds
    print(f"  {outcome.attempts} attempts, makespan {ratio:.3f} of the bound")
    assert outcome.units["done"] == len(plan.todo)
    assert seconds < 300
    assert ratio < 1.15


@pytest.mark.parametrize("seed", range(12))
def test_mixed_fleets_end_within_fifteen_percent_of_the_bound(seed, capsys):
    rng = random.Random(seed)
    recipes = [(rng.choice(tuple(DATA)), rng.randint(1, 16)) for _ in range(rng.randint(1, 3))]
    slots = rng.randint(2, 60), rng.randint(1, 30)
    fleet, catalog = fleet_of(recipes, *slots), catalog_of(rng.randint(100, 300), seed)
    pools = pools_of(fleet)
    plan = build_plan(fleet, catalog, frozenset(), DATA, {})
    placement = place(plan, pools, Costs())
    outcome = simulate(plan, pools, Costs(), placement.misfits, Assumptions(seed=seed))
    ratio = outcome.makespan_seconds / placement.lower_bound_seconds
    shares = ", ".join(f"{name} {outcome.utilization(name):.0%} of {outcome.slots[name]}" for name in pools)
    with capsys.disabled():
        print(f"\n  {len(plan.todo)} units, {shares} slots: {ratio:.3f} of the bound", end="")
    assert outcome.units["done"] == len(plan.todo)
    assert 1.0 - 1e-9 <= ratio < 1.15


def test_a_night_without_news_is_planned_within_five_seconds(measure):
    recipes = [("long", 4), ("short", 4), ("short", 4)]
    fleet, catalog = fleet_of(recipes, cpu_slots=8, gpu_slots=1), catalog_of(10_000, seed=0)
    done = frozenset(build_plan(fleet, catalog, frozenset(), DATA, {}).units)

    def again():
        plan = build_plan(fleet, catalog, done, DATA, {})
        return plan, place(plan, pools_of(fleet), Costs())

    (plan, _), seconds, _ = measure(f"{len(done)} units, all done", again)
    assert plan.todo == ()
    assert len(plan.done) == len(done)
    assert seconds < 5
