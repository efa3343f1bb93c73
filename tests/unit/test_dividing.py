"""Plans cut into blocks, and blocks divided between clusters, against every division there is."""

from __future__ import annotations

import itertools
import random
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.clusters import dividing
from orchestrator.clusters.dividing import Block, cut, divide, makespan
from orchestrator.errors import SpecError
from orchestrator.schedule.costs import Costs
from orchestrator.schedule.forecast import Forecast
from orchestrator.schedule.placement import pools_of
from orchestrator.spec import load_fleet

NAMES = ("a", "b", "c")
CLUSTERS = """
clusters:
  one: {address: "http://127.0.0.1:8265", pools: [cpu]}
  two: {address: "https://ray.example:8265", pools: [small], token_env: TOKEN}
"""
POOLS = "pools:\n  cpu: {cpus: 2}\n"


def block(name, **seconds):
    return Block(id=name, units=(name,), seconds=seconds)


seconds = st.floats(0.1, 100.0)
problems = st.lists(st.dictionaries(st.sampled_from(NAMES), seconds, min_size=1), min_size=1, max_size=6)


@given(problems, st.fixed_dictionaries({name: st.floats(0.0, 50.0) for name in NAMES}))
def test_no_division_ends_much_sooner(given_seconds, loads):
    blocks = [block(str(number), **each) for number, each in enumerate(given_seconds)]
    best = min(
        makespan(
            {name: [b for b, at in zip(blocks, choice, strict=True) if at == name] for name in NAMES}, loads
        )
        for choice in itertools.product(NAMES, repeat=len(blocks))
        if all(at in b.seconds for b, at in zip(blocks, choice, strict=True))
    )
    division = divide(blocks, loads)
    assert sorted(b.id for some in division.values() for b in some) == sorted(b.id for b in blocks)
    assert all(b.seconds[name] for name, some in division.items() for b in some)
    assert makespan(division, loads) <= 1.34 * best + 1e-9


def test_many_blocks_are_divided_as_well_as_if_they_could_be_split():
    draw = random.Random(3)
    blocks = [
        block(str(number), a=(base := draw.uniform(1, 10)), b=base * draw.uniform(0.1, 10))
        for number in range(1500)
    ]
    order = sorted(blocks, key=lambda b: b.seconds["a"] / b.seconds["b"])
    there = sum(b.seconds["b"] for b in blocks)
    here, fluid = 0.0, there
    for (
        b
    ) in order:  # what suits a best goes to a, up to some point: nothing ends sooner by more than one block
        here, there = here + b.seconds["a"], there - b.seconds["b"]
        fluid = min(fluid, max(here, there))
    loads = {"a": 0.0, "b": 0.0}
    assert makespan(divide(blocks, loads), loads) <= 1.01 * fluid


def test_an_idle_cluster_gets_what_a_busy_one_would_do_later():
    blocks = [block(str(number), a=1.0, b=2.0) for number in range(6)]
    division = divide(blocks, {"a": 100.0, "b": 0.0})
    assert len(division["b"]) == 6


def test_what_fits_one_cluster_alone_stays_there_and_what_fits_none_is_nobodys():
    division = divide([block("x", a=50.0), block("y", c=1.0), block("z", a=1.0, b=1.0)], {"a": 0.0, "b": 0.0})
    assert {name: [b.id for b in some] for name, some in division.items()} == {"a": ["x"], "b": ["z"]}


def test_no_cluster_no_division():
    assert divide([block("x", a=1.0)], {}) == {}


def test_every_unit_to_do_is_in_one_block_and_blocks_name_the_same_units_whatever_is_done(make_plan_parts):
    plan, later, forecast, pools = make_plan_parts()
    blocks = cut(plan, forecast, pools)
    assert sorted(key for b in blocks for key in b.units) == sorted(plan.todo)
    before = {b.id: set(b.units) for b in blocks}
    for b in cut(later, forecast, pools):
        assert set(b.units) <= before[b.id]


def test_of_few_chains_each_is_a_block_and_so_is_what_they_share(make_plan_parts):
    plan, _, forecast, pools = make_plan_parts()
    blocks = cut(plan, forecast, pools)
    tasks = [sorted(plan.units[key].task.value for key in b.units) for b in blocks]
    assert tasks.count(["evaluate", "judge", "prune"]) == len(plan.chains)
    assert all(each in (["evaluate", "judge", "prune"], ["evaluate"], ["sensitivity"]) for each in tasks)
    assert all(len({plan.units[key].model.id for key in b.units}) == 1 for b in blocks)


def test_of_many_chains_each_model_is_a_block_and_large_analyses_are_pieces(make_plan_parts, monkeypatch):
    monkeypatch.setattr(dividing, "FINE_CHAINS", 0)
    plan, later, forecast, pools = make_plan_parts()
    blocks = cut(plan, forecast, pools)
    assert {b.id for b in blocks} >= {unit.model.digest for unit in plan.units.values()}
    before = {b.id: set(b.units) for b in blocks}
    assert all(set(b.units) <= before[b.id] for b in cut(later, forecast, pools))


@pytest.fixture
def make_plan_parts(fleet_text, make_model):
    from orchestrator.domain import Catalog
    from orchestrator.planning import DataFile, build_plan

    def make():
        text = fleet_text.replace(POOLS, POOLS + "  small: {cpus: 4, memory: 1GiB}\n") + CLUSTERS
        fleet = load_fleet(text, "fleet.yaml", PurePosixPath("/home"))
        models = tuple(make_model(name=f"m{number}", digest=f"{number:064x}") for number in range(3))
        data = {"manual": DataFile(path="/home/manual.jsonl", digest="d" * 64, bytes=1000)}
        plan = build_plan(fleet, Catalog(versions=models), frozenset(), data, {})
        later = build_plan(fleet, Catalog(versions=models), frozenset(plan.todo[:4]), data, {})
        forecast = Forecast(pools_of(fleet), Costs())
        return plan, later, forecast, {name: spec.pools for name, spec in fleet.clusters.items()}

    return make


def spec_error(fleet_text, clusters, pools=POOLS + "  small: {cpus: 4}\n"):
    with pytest.raises(SpecError) as caught:
        load_fleet(fleet_text.replace(POOLS, pools) + clusters, "fleet.yaml", PurePosixPath("/home"))
    return str(caught.value)


def test_each_pool_lies_in_one_cluster(fleet_text):
    assert "pools.small: it lies in one and in two" in spec_error(
        fleet_text, CLUSTERS.replace("[cpu]", "[cpu, small]")
    )
    only = 'clusters:\n  one: {address: "http://127.0.0.1:8265", pools: [cpu]}\n'
    assert "pools.small: it lies in no cluster" in spec_error(fleet_text, only)
    assert "there is no pool 'cpi'; did you mean 'cpu'?" in spec_error(
        fleet_text, CLUSTERS.replace("[cpu]", "[cpi]")
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ray.example", "user:secret@ray.example"),
        ("https://ray.example:8265", "ray.example:10001"),
        ("token_env: TOKEN", "token_env: TOKEN, token_file: /t"),
        ("token_env: TOKEN", "token: abc"),
        ('"http://127.0.0.1:8265", pools: [cpu]', '"http://127.0.0.1:8265", pools: [cpu], ca_file: /ca.pem'),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(fleet_text, change, told):
    assert "clusters." in spec_error(fleet_text, CLUSTERS.replace(change, told))
