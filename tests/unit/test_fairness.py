"""The order of work: brute force over all choices, shares of teams, deadlines, and the scheduler that keeps to it."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from orchestrator.domain import UnitReport, UnitStatus
from orchestrator.ports import AttemptEnded
from orchestrator.schedule.fairness import BAND_SECONDS, OTHERS, bands_of, order, saving_of, team_of, turns
from orchestrator.schedule.placement import pools_of
from orchestrator.schedule.scheduling import Start, begin, decide, observe
from orchestrator.schedule.tonight import tonight
from orchestrator.specs.teams import TeamSpec

FLEET = """
version: 1
name: demo
store: ./out
registries: {zoo: {kind: directory, path: ./zoo}, lab: {kind: directory, path: ./lab}}
datasets: {manual: {kind: text, path: manual.jsonl}}
recipes:
  little:
    prune: {criterion: magnitude, amount: 0.1}
    evaluate: {dataset: manual, metric: loss}
    gates: {max_drop: 0.1}
  much:
    prune: {criterion: magnitude, amount: 0.9}
    evaluate: {dataset: manual, metric: loss}
    gates: {max_drop: 0.1}
pools:
  cpu: {cpus: 2}
"""


def alone(works, savings, owners=None, teams=None, spend="saving"):
    """The order of chains that share nothing."""
    needed = [(str(number),) for number in range(len(works))]
    by_key = {str(number): float(work) for number, work in enumerate(works)}
    return order(needed, by_key, savings, owners or [OTHERS] * len(works), teams or {}, spend)


def worth(needed, works, savings, chosen):
    taken = {key for chain in chosen for key in needed[chain]}
    return sum(works[key] for key in taken), sum(savings[chain] for chain in chosen)


def best_choice(needed, works, savings, budget):
    """By trying all of them."""
    best = 0.0
    for size in range(len(needed) + 1):
        for chosen in itertools.combinations(range(len(needed)), size):
            work, saving = worth(needed, works, savings, chosen)
            if work <= budget:
                best = max(best, saving)
    return best


def prefix(found, budget):
    """Savings of the turns that fit, and of the first that does not."""
    fits = [turn for turn in found if turn.ends <= budget]
    following = found[len(fits)].saving if len(fits) < len(found) else 0.0
    return sum(turn.saving for turn in fits), following


def test_the_order_saves_at_least_what_the_best_of_all_choices_saves_once_its_next_chain_is_done():
    """Dantzig's bound: the chains that fit, with the first that does not, are worth any choice that fits."""
    chance = random.Random(0)
    reached = []
    for _ in range(300):
        count = chance.randrange(1, 10)
        works = [chance.randrange(1, 20) for _ in range(count)]
        savings = [float(chance.randrange(0, 50)) for _ in range(count)]
        budget = chance.randrange(0, sum(works) + 1)
        needed = [(str(number),) for number in range(count)]
        best = best_choice(needed, {str(n): float(w) for n, w in enumerate(works)}, savings, budget)
        got, following = prefix(alone(works, savings), budget)
        assert got + following >= best - 1e-9
        reached.append(got / best if best else 1.0)
    assert sum(reached) / len(reached) > 0.75


def test_of_chains_that_take_equally_long_the_order_is_the_best_choice():
    chance = random.Random(1)
    for _ in range(100):
        count = chance.randrange(1, 9)
        savings = [float(chance.randrange(50)) for _ in range(count)]
        budget = 7.0 * chance.randrange(count + 1)
        needed = [(str(number),) for number in range(count)]
        works = {str(number): 7.0 for number in range(count)}
        assert prefix(order(needed, works, savings, [OTHERS] * count, {}, "saving"), budget)[
            0
        ] == best_choice(needed, works, savings, budget)


def test_what_is_shared_is_paid_once_and_makes_its_other_users_cheap():
    needed = [("dense", "a"), ("dense", "b"), ("other",)]
    works = {"dense": 10.0, "a": 1.0, "b": 1.0, "other": 8.0}
    found = order(needed, works, [11.0, 9.0, 7.0], [OTHERS] * 3, {}, "saving")
    assert [(turn.chain, turn.work) for turn in found] == [(0, 11.0), (1, 1.0), (2, 8.0)]
    chance = random.Random(2)
    reached = []
    for _ in range(200):
        names = [f"s{n}" for n in range(3)] + [f"u{n}" for n in range(7)]
        works = {name: float(chance.randrange(1, 10)) for name in names}
        needed = [(chance.choice(names[:3]), f"u{n}") for n in range(7)]
        savings = [float(chance.randrange(1, 30)) for _ in range(7)]
        budget = sum(works.values()) * chance.uniform(0.3, 0.9)
        found = order(needed, works, savings, [OTHERS] * 7, {}, "saving")
        work, _ = worth(needed, works, savings, [turn.chain for turn in found])
        assert found[-1].ends == pytest.approx(work)
        best = best_choice(needed, works, savings, budget)
        reached.append(prefix(found, budget)[0] / best if best else 1.0)
    assert sum(reached) / len(reached) > 0.8


def test_every_chain_with_work_has_one_turn_and_none_without():
    found = order(
        [("a",), (), ("a", "b")], {"a": 1.0, "b": 2.0}, [1.0, 1.0, 1.0], [OTHERS] * 3, {}, "longest"
    )
    assert sorted(turn.chain for turn in found) == [0, 2]


def test_teams_get_time_by_their_weights_at_every_moment_within_one_chain():
    chance = random.Random(3)
    for _ in range(15):
        weights = {"a": chance.uniform(0.5, 5), "b": chance.uniform(0.5, 5), "c": chance.uniform(0.5, 5)}
        teams = {name: TeamSpec(weight=weight) for name, weight in weights.items()}
        owners = [name for name in "abc" for _ in range(200)]
        works = [chance.uniform(1, 10) for _ in owners]
        found = alone(works, [1.0] * len(owners), owners, teams)
        served = dict.fromkeys(teams, 0.0)
        left = dict.fromkeys(teams, 200)
        for turn in found:
            served[turn.team] += turn.work
            left[turn.team] -= 1
            if not all(left.values()):
                break
            shares = [served[name] / weights[name] for name in teams]
            assert max(shares) - min(shares) <= max(10 / weight for weight in weights.values()) + 1e-9


def test_priority_comes_first_then_the_earlier_deadline_then_the_share():
    teams = {
        "late": TeamSpec(deadline="4h"), "soon": TeamSpec(deadline="1h"), "plain": TeamSpec(weight=100), "top": TeamSpec(priority=1),
        "low": TeamSpec(priority=-1, deadline="1s"),
    }  # fmt: skip
    owners = ["low", "plain", "late", "soon", "top", OTHERS] * 2
    found = alone([1.0] * 12, [1.0] * 12, owners, teams)
    names = [turn.team for turn in found]
    assert names[:6] == ["top", "top", "soon", "soon", "late", "late"]
    assert names[-2:] == ["low", "low"]


def test_a_team_is_told_by_recipe_and_registry_and_the_first_one_claims(make_plan, make_model):
    models = [make_model("a"), make_model("b", registry="lab")]
    plan = make_plan(models, text=FLEET)
    teams = {"lab": TeamSpec(registries=("la*",)), "big": TeamSpec(recipes=("much",))}
    found = {(c.model.name, c.recipe): team_of(c, teams) for c in plan.chains}
    assert found == {
        ("a", "little"): OTHERS,
        ("b", "little"): "lab",
        ("a", "much"): "big",
        ("b", "much"): "lab",
    }


def test_savings_are_the_parameters_that_are_expected_to_go(make_plan, make_model):
    plan = make_plan([make_model(parameters=1000)], text=FLEET)
    assert {chain.recipe: saving_of(plan, chain) for chain in plan.chains} == {"little": 100.0, "much": 900.0}
    for params, share in (
        ({"cut": {"width": 0.2, "heads": 0.4}}, 0.3), ({"cut": {"width": 0.2}, "budget": {"latency": 0.1}}, 0.2), ({"cut": {"width": 0.9}, "budget": {"bytes": 0.6}}, 0.4), ({"budget": {"flops": 0.25}}, 0.75), ({"quality": {"x": 1}}, 0.5), ({}, 0.0),
    ):  # fmt: skip
        chain = plan.chains[0]
        unit = plan.units[chain.prune]
        changed = replace(plan, units={chain.prune: replace(unit, step=replace(unit.step, params=params))})
        assert saving_of(changed, chain) == pytest.approx(1000 * share)
    assert saving_of(plan, replace(plan.chains[0], prune="")) == 0.0


def run_in_order(plan, pools, costs):
    """The keys in the order in which the scheduler starts them, each attempt ending before the next look."""
    progress = begin(plan, pools, costs, {})
    started, at = [], 0.0
    while not progress.is_over:
        starts = [one for one in decide(progress, {"cpu": 2}, at) if isinstance(one, Start)]
        at += 1
        for start in starts:
            started.extend(start.shard.units)
            reports = tuple(UnitReport(key=key, status=UnitStatus.DONE) for key in start.shard.units)
            observe(progress, AttemptEnded(attempt_id=start.attempt_id, reports=reports), at)
    return started


def test_the_scheduler_keeps_to_the_order_and_finishes_all(make_plan, make_model, make_fleet, costs):
    models = [
        make_model(f"m{number}", parameters=1000 * 4**number, bytes=4000 * 4**number) for number in range(8)
    ]
    fleet = make_fleet(FLEET)
    plan, pools = make_plan(models, text=FLEET), pools_of(fleet)
    found = turns(plan, pools, costs, {}, "saving")
    ordered = replace(plan, bands=bands_of(plan, found, 2))
    assert set(ordered.bands) == set(plan.units)
    started = run_in_order(ordered, pools, costs)
    assert sorted(started) == sorted(run_in_order(plan, pools, costs)) == sorted(plan.todo)
    prunes = [key for key in started if plan.units[key].task.value == "prune"]
    bands = [ordered.bands[key] for key in prunes]
    assert bands == sorted(bands), "prune units wait for nothing, so they start in their order"
    much = [chain.prune for chain in plan.chains if chain.recipe == "much"]
    big = max(much, key=lambda key: plan.units[key].model.parameters)
    assert prunes.index(big) < 3, "the largest model's large saving is among the first"


def test_bands_are_minutes_of_the_cluster_or_fractions_of_all_of_it(make_plan, make_model, make_fleet, costs):
    plan = make_plan([make_model(f"m{n}") for n in range(30)], text=FLEET)
    found = turns(plan, pools_of(make_fleet(FLEET)), costs, {}, "saving")
    assert max(bands_of(plan, found, 2).values()) >= 40
    long = [replace(turn, ends=turn.ends * 1e5, work=turn.work * 1e5) for turn in found]
    widths = bands_of(plan, long, 2)
    first = plan.chains[long[-1].chain].judge
    assert widths[first] == int((long[-1].ends - long[-1].work) / (2 * BAND_SECONDS))
    assert bands_of(plan, [], 2) == {}


SCHEDULE = 'schedule: {at: "01:00", window: 10s}\n'


def test_a_night_too_short_says_what_is_carried_over_and_why(make_plan, make_model, make_fleet, costs):
    text = FLEET + SCHEDULE + "spend: saving\n"
    plan = make_plan([make_model(f"m{n}") for n in range(30)], text=text)
    fleet = make_fleet(text)
    found = tonight(plan, turns(plan, pools_of(fleet), costs, fleet.teams, fleet.spend), 2, fleet)
    assert found.seconds == 10.0
    assert sum(found.done.values()) + sum(found.carried_over.values()) == 60
    assert found.done["much"] > found.done.get("little", 0)
    assert found.carried_over["little"] > 0
    (sentence,) = found.sentences
    assert "do not suffice" in sentence
    assert "what saves most parameters an hour comes first" in sentence


def test_hours_that_suffice_say_nothing_and_late_deadlines_do(make_plan, make_model, make_fleet, costs):
    text = FLEET + SCHEDULE.replace("10s", "5h")
    plan, fleet = make_plan([make_model()], text=text), make_fleet(text)
    assert tonight(plan, turns(plan, pools_of(fleet), costs, {}, "longest"), 2, fleet).sentences == ()
    text += 'teams: {lab: {registries: ["zoo"], deadline: 0.1s}}\n'
    fleet = make_fleet(text)
    found = tonight(plan, turns(plan, pools_of(fleet), costs, fleet.teams, "longest"), 2, fleet)
    assert found.sentences[0].startswith("team lab: its work ends after about")


def test_a_fleet_that_asks_for_no_order_is_scheduled_as_ever(make_plan, make_model):
    assert make_plan([make_model()], text=FLEET).bands == {}
