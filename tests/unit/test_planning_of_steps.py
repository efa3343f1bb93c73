"""What each optional step of a recipe adds to a plan: its units, its keys, its memory, and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from cases.plans import tasks_of

from orchestrator.planview import notices


def timed(text, recipe="half", how="true"):
    head, tail = text.split(f"  {recipe}:", 1)
    return (
        f"{head}  {recipe}:{tail.replace('metric: perplexity}', f'metric: perplexity, latency: {how}}}', 1)}"
    )


def test_timing_adds_one_unit_a_chain_and_changes_no_other_key(make_plan, fleet_text):
    old, new = make_plan(), make_plan(text=timed(fleet_text))
    (key,) = set(new.units) - set(old.units)
    assert set(old.units) < set(new.units)
    unit = new.units[key]
    (chain,) = [chain for chain in new.chains if chain.latency]
    assert (chain.recipe, chain.latency) == ("half", key)
    assert unit.task == "latency"
    assert unit.needs == (chain.prune,)
    assert unit.step.params == {"batch": 8, "sequence": 128, "repetitions": 20}


def test_another_way_of_timing_times_again_and_nothing_else(make_plan, fleet_text):
    old = make_plan(text=timed(fleet_text))
    new = make_plan(text=timed(fleet_text, how="{repetitions: 50}"), completed=old.units)
    assert tasks_of(new, new.todo) == {"latency": 1}
    assert make_plan(text=timed(fleet_text, how="false")).units.keys() == make_plan().units.keys()


def test_slices_do_not_matter_to_the_clock(make_plan, fleet_text):
    old = make_plan(text=timed(fleet_text))
    new = make_plan(text=timed(fleet_text).replace(", slice_by: topic", ""))
    assert {chain.latency for chain in old.chains} == {chain.latency for chain in new.chains}


def test_fidelity_is_measured_by_units_of_its_own_that_see_both_models(make_plan, fleet_text):
    old = make_plan()
    new = make_plan(
        text=fleet_text.replace("metric: perplexity}\n    gates", "metric: fidelity}\n    gates", 1)
    )
    (chain, other) = new.chains
    assert new.units[chain.dense].step.params == new.units[chain.pruned].step.params == {"fidelity": True}
    assert [new.units[key].reads_both for key in (chain.dense, chain.pruned)] == [False, True]
    assert not any(unit.reads_both for unit in old.units.values())
    assert set(other.units) < set(old.units)


def test_what_reads_both_models_is_expected_to_take_both_memories(make_plan, fleet_text, costs, make_pool):
    text = timed(fleet_text).replace("metric: perplexity, latency", "metric: fidelity, latency")
    plan = make_plan(text=text)
    chain = plan.chains[0]
    alone, both, clock = (
        costs.estimate(plan.units[key], make_pool()) for key in (chain.dense, chain.pruned, chain.latency)
    )
    size = plan.units[chain.dense].model.bytes
    assert both.memory_bytes - alone.memory_bytes == 2 * size
    assert clock.memory_bytes == both.memory_bytes
    assert both.seconds > alone.seconds


def test_a_recipe_without_slices_has_default_ones_in_its_keys(make_plan, fleet_text):
    named, unnamed = make_plan(), make_plan(text=fleet_text.replace(", slice_by: topic", ""))
    for chain, other in zip(named.chains, unnamed.chains, strict=True):
        assert "default_slices" not in named.units[chain.judge].step.params
        assert named.units[chain.dense].step.params == {}
        assert unnamed.units[other.judge].step.params["default_slices"] == ["label", "confidence", "length"]
        assert unnamed.units[other.dense].step.params == {"lengths": True}
        assert chain.prune == other.prune


def test_who_asks_for_no_slices_gets_none(make_plan, fleet_text):
    plan = make_plan(text=fleet_text.replace("metric: perplexity}", "metric: perplexity, slices: []}"))
    for chain in plan.chains:
        assert "default_slices" not in plan.units[chain.judge].step.params
        assert plan.units[chain.dense].step.params == {}


@pytest.mark.parametrize(
    "target",
    ["budget: {parameters: 0.5}", "quality: {max_increase: 0.1}", "amount: 0.5, allocation: knapsack"],
)
def test_a_budget_is_part_of_the_prune_unit_alone_and_gives_it_data(make_plan, fleet_text, target):
    more = target if "knapsack" in target else f"{target}, allocation: sensitivity"
    text = fleet_text.replace("amount: 0.5, allocation: sensitivity", more)
    assert text != fleet_text
    before, after = make_plan(), make_plan(text=text)
    chains = [next(chain for chain in plan.chains if chain.recipe == "half") for plan in (before, after)]
    unit = after.units[chains[1].prune]
    assert unit.step.data is not None
    assert [after.units[need].task for need in unit.needs] == ["sensitivity", "sensitivity"]
    same = set(before.units) & set(after.units)
    assert chains[0].prune not in same
    assert Counter(before.units[key].task.value for key in same) == {"sensitivity": 2, "prune": 1, "evaluate": 2, "judge": 1}  # fmt: skip


def test_a_recipe_without_a_budget_does_not_mention_one(make_plan):
    for unit in make_plan().units.values():
        assert not {"budget", "quality", "recover", "verify"} & set(unit.step.params)


def test_recovery_is_part_of_the_prune_unit_and_gives_it_data(make_plan, fleet_text):
    text = fleet_text.replace("pattern: 2:4}", "pattern: 2:4, dataset: manual, recover: {distill: true}}")
    before, after = make_plan(), make_plan(text=text)
    chains = [next(c for c in plan.chains if c.recipe == "two-four") for plan in (before, after)]
    assert (chains[0].dense, chains[0].prune) != (chains[0].dense, chains[1].prune)
    assert chains[0].dense == chains[1].dense
    unit = after.units[chains[1].prune]
    assert unit.step.data is not None
    assert unit.step.params["recover"]["distill"]["steps"] == 100
    assert before.units[chains[0].prune].step.data is None


def test_distillation_is_expected_to_take_memory_for_its_steps_and_time_for_each(
    make_plan, fleet_text, costs, make_pool
):
    def estimate(recover):
        text = fleet_text.replace("pattern: 2:4}", f"pattern: 2:4, dataset: manual, recover: {recover}}}")
        plan = make_plan(text=text)
        chain = next(chain for chain in plan.chains if chain.recipe == "two-four")
        return costs.estimate(plan.units[chain.prune], make_pool())

    few, many = estimate("{distill: {steps: 10}}"), estimate("{distill: {steps: 1000}}")
    plain = estimate("{bias: true}")
    assert plain.seconds < few.seconds < many.seconds
    assert few.memory_bytes == many.memory_bytes
    assert few.memory_bytes - plain.memory_bytes == 16 * 100_000 + 2 * 400_000


def cutting(text, prune="criterion: magnitude, cut: {width: 0.25, depth: 0.5}, round_to: 8"):
    return text.replace("criterion: magnitude, pattern: 2:4", prune)


def test_a_cut_has_its_own_params_and_changes_no_other_key(make_plan, fleet_text):
    before, after = make_plan(), make_plan(text=cutting(fleet_text))
    (chain,) = (chain for chain in after.chains if chain.recipe == "two-four")
    unit = after.units[chain.prune]
    assert unit.step.params == {
        "criterion": "magnitude", "cut": {"width": 0.25, "depth": 0.5}, "round_to": 8
    }  # fmt: skip
    assert unit.step.data is None
    (untouched,) = (chain for chain in after.chains if chain.recipe == "half")
    assert set(untouched.units) <= set(before.units)


def test_a_cut_by_data_reads_calibration_data(make_plan, fleet_text):
    text = cutting(fleet_text, "criterion: taylor, cut: {heads: 0.5}, dataset: manual, split: calibration")
    plan = make_plan(text=text)
    (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
    assert plan.units[chain.prune].step.data.split == "calibration"


def test_what_is_measured_of_a_cut_does_not_depend_on_how_much_it_takes(make_plan, fleet_text):
    found = []
    for shares in ("width: 0.25, depth: 0.5", "width: 0.75, depth: 0.1"):
        how = f"criterion: wanda, cut: {{{shares}}}, round_to: 8"
        text = cutting(
            fleet_text, f"{how}}}\n    sensitivity: {{dataset: manual, split: calibration, grid: [0.5]"
        )
        plan = make_plan(text=text)
        (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
        (measured,) = (key for key in chain.units if plan.units[key].task == "sensitivity")
        found.append((measured, chain.prune))
        assert plan.units[measured].step.params == {
            "criterion": "wanda", "cut": ["width", "depth"], "round_to": 8, "grid": [0.5], "metric": "loss"
        }  # fmt: skip
        assert not plan.units[chain.prune].needs
        assert plan.units[chain.prune].step.data.split == "calibration"
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_a_cut_by_a_budget_that_is_counted_needs_no_data(make_plan, fleet_text):
    plan = make_plan(
        text=cutting(fleet_text, "criterion: magnitude, cut: {width: 0.5}, budget: {parameters: 0.8}")
    )
    (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
    unit = plan.units[chain.prune]
    assert unit.step.params == {
        "criterion": "magnitude", "cut": {"width": 0.5}, "round_to": 1, "budget": {"parameters": 0.8}
    }  # fmt: skip
    assert unit.step.data is None


def test_a_cut_by_measured_losses_reads_them(make_plan, fleet_text):
    how = "criterion: wanda, cut: {width: 0.5, heads: 0.5}, allocation: sensitivity, budget: {flops: 0.8}"
    text = cutting(
        fleet_text, f"{how}}}\n    sensitivity: {{dataset: manual, split: calibration, grid: [0.5]"
    )
    plan = make_plan(text=text)
    (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
    unit = plan.units[chain.prune]
    assert unit.step.params["allocation"] == "sensitivity"
    assert [plan.units[key].task for key in unit.needs] == ["sensitivity"]


def test_a_cut_by_latency_is_timed_as_the_evaluation_times_and_needs_data_to_be_timed_on(
    make_plan, fleet_text, costs, make_pool
):
    how = "criterion: magnitude, cut: {width: 0.5}, budget: {latency: 0.7}, dataset: manual"
    found = {}
    for name, evaluate in (("default", ""), ("as asked", ", latency: {batch: 2, sequence: 32}")):
        text = cutting(fleet_text, how).replace("metric: perplexity", f"metric: perplexity{evaluate}")
        plan = make_plan(text=text)
        (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
        found[name] = plan.units[chain.prune]
    assert found["default"].step.params["timing"] == {"batch": 8, "sequence": 128, "repetitions": 20}
    assert found["as asked"].step.params["timing"] == {"batch": 2, "sequence": 32, "repetitions": 20}
    assert found["default"].step.params["budget"] == {"latency": 0.7}
    assert found["default"].step.data.name == "manual"
    longer, shorter = (costs.estimate(found[name], make_pool()).seconds for name in ("default", "as asked"))
    assert longer > shorter


def test_a_cut_is_expected_to_take_more_memory_and_its_trials_more_time(
    make_plan, fleet_text, costs, make_pool
):
    texts = [
        cutting(fleet_text, f"criterion: {how}, dataset: manual")
        for how in ("wanda, amount: 0.5", "wanda, cut: {depth: 0.5}", "loss, cut: {depth: 0.5}")
    ]
    estimates = []
    for text in texts:
        plan = make_plan(text=text)
        (chain,) = (chain for chain in plan.chains if chain.recipe == "two-four")
        estimates.append(costs.estimate(plan.units[chain.prune], make_pool()))
    mask, cut, measured = estimates
    assert cut.memory_bytes > mask.memory_bytes
    assert measured.seconds > cut.seconds


def test_the_plan_does_not_say_of_a_cut_that_it_gains_nothing(make_plan, fleet_text):
    text = cutting(fleet_text)
    assert not any("two-four" in notice for notice in notices(make_plan(text=text)))
    assert any("two-four" in notice for notice in notices(make_plan()))


def params_of(make_plan, make_model, prune: str) -> tuple[dict, dict]:
    """The params of a prune unit and of a sensitivity unit, or nothing for the latter."""
    text = """
version: 1
name: t
store: ./out
registries: {zoo: {kind: directory, path: ./zoo}}
datasets: {manual: {kind: text, path: data/manual.jsonl}}
recipes:
  one: {prune: {%s}%s}
"""
    beside = "" if "scope: model" in prune or "dataset" in prune else ", sensitivity: {dataset: manual}"
    plan = make_plan([make_model()], text=text % (prune, beside))
    found = {unit.task.value: dict(unit.step.params) for unit in plan.units.values()}
    return found["prune"], found.get("sensitivity", {})


@pytest.mark.parametrize(
    ("prune", "scope"),
    [
        ("criterion: activation, amount: 0.5", "row"),
        ("criterion: variance, amount: 0.5", "row"),
        ("criterion: taylor, amount: 0.5", "tensor"),
        ("criterion: fisher, amount: 0.5, scope: row", "row"),
        ("criterion: wanda, amount: 0.5, pattern: 'block:4x4'", "row"),
        ("criterion: magnitude, amount: 0.5, pattern: 'block:1x8'", "tensor"),
        ("criterion: wanda, pattern: '2:4'", None),
    ],
)
def test_each_criterion_has_the_scope_that_suits_it(make_plan, make_model, prune, scope):
    pruned, measured = params_of(make_plan, make_model, prune)
    assert pruned["scope"] == measured["scope"] == scope
    assert not {"min_amount", "min_tokens"} & {*pruned, *measured}, "the defaults leave keys as they were"
    assert pruned["max_amount"] == 1.0


def test_bounds_are_told_only_where_they_are_asked_for(make_plan, make_model):
    model, _ = params_of(
        make_plan, make_model, "criterion: magnitude, amount: 0.5, scope: model, min_amount: 0.1"
    )
    assert (model["scope"], model["min_amount"], model["max_amount"]) == ("model", 0.1, 0.95)
    pruned, measured = params_of(make_plan, make_model, "criterion: wanda, amount: 0.5, min_tokens: 64")
    assert pruned["min_tokens"] == measured["min_tokens"] == 64
