"""The plan is a set difference: what is wanted, less what is done, with a reason for all that cannot be."""

from __future__ import annotations

import pytest
from cases.plans import tasks_of

from orchestrator.planning import dependents, sensitivity_units, unit_key


def test_a_model_and_two_recipes_want_the_whole_walk_of_each(make_plan):
    plan = make_plan()
    assert tasks_of(plan) == {"sensitivity": 2, "prune": 2, "evaluate": 3, "judge": 2}


def test_the_dense_model_is_evaluated_once_for_all_recipes(make_plan):
    plan = make_plan()
    dense = {chain.dense for chain in plan.chains}
    assert len(plan.chains) == 2
    assert len(dense) == 1


def test_needs_come_before_what_needs_them(make_plan, make_model):
    plan = make_plan([make_model(str(n)) for n in range(5)])
    place = {key: index for index, key in enumerate(plan.todo)}
    assert all(place[need] < place[key] for key in plan.todo for need in plan.units[key].needs)


def test_what_has_a_result_is_not_done_again(make_plan):
    everything = make_plan()
    some = list(everything.units)[:4]
    plan = make_plan(completed=some)
    assert plan.done == frozenset(some)
    assert set(plan.todo) == set(everything.units) - set(some)


def test_nothing_is_left_when_everything_is_done(make_plan):
    plan = make_plan(completed=make_plan().units)
    assert plan.todo == ()
    assert len(plan.done) == len(plan.units)


def test_results_of_units_nobody_wants_change_nothing(make_plan):
    assert make_plan(completed=["f" * 64]).todo == make_plan().todo


def test_a_new_version_brings_only_its_own_units(make_plan, make_model):
    old = make_plan([make_model()])
    new = make_plan([make_model(), make_model(version="2")], completed=old.units)
    assert {new.units[key].model.version for key in new.todo} == {"2"}
    assert len(new.todo) == len(old.units)


def test_the_same_bytes_under_two_names_are_worked_on_once(make_plan, make_model):
    once = make_plan([make_model("a", digest="same")])
    twice = make_plan([make_model("a", digest="same"), make_model("b", digest="same")])
    assert set(once.units) == set(twice.units)
    assert len(twice.chains) == 2 * len(once.chains)


@pytest.mark.parametrize(
    ("before", "after", "unchanged"),
    [
        ("amount: 0.5", "amount: 0.6", {"sensitivity", "evaluate-dense"}),
        ("max_drop: 0.1}\n    publish", "max_drop: 0.2}\n    publish", {"sensitivity", "prune", "evaluate", "evaluate-dense"}),
        ("units: 2", "units: 3", {"evaluate-dense"}),
        ("  half:", "  renamed:", {"sensitivity", "prune", "evaluate", "evaluate-dense", "judge"}),
        ("name: demo", "name: other", {"sensitivity", "prune", "evaluate", "evaluate-dense", "judge"}),
        ("path: manual.jsonl", "path: moved.jsonl", {"sensitivity", "prune", "evaluate", "evaluate-dense", "judge"}),
    ],
)  # fmt: skip
def test_a_change_of_the_fleet_redoes_what_depends_on_it_and_nothing_else(
    make_plan, fleet_text, before, after, unchanged
):
    def keys(text):
        plan = make_plan(text=text)
        (chain,) = [chain for chain in plan.chains if chain.recipe != "two-four"]
        named = {
            "prune": chain.prune,
            "evaluate": chain.pruned,
            "evaluate-dense": chain.dense,
            "judge": chain.judge,
        }
        named["sensitivity"] = tuple(key for key in chain.units if plan.units[key].task == "sensitivity")
        return named

    assert before in fleet_text
    old, new = keys(fleet_text), keys(fleet_text.replace(before, after, 1))
    assert {name for name in old if old[name] == new[name]} == unchanged


def test_other_data_under_the_same_path_is_other_work(make_plan, data):
    from dataclasses import replace

    changed = {"manual": replace(data["manual"], digest="e" * 64)}
    old, new = make_plan(), make_plan(data_files=changed)
    kept = {old.units[key].task for key in set(old.units) & set(new.units)}
    assert kept == {"prune"}, "magnitude looks at weights alone; everything else reads the data"


def test_a_broken_version_costs_only_itself(make_plan, make_model):
    broken = make_model("broken", digest="", problem="model.safetensors is empty", architecture="")
    plan = make_plan([make_model(), broken])
    assert len(plan.units) == len(make_plan().units)
    (item,) = plan.impossible
    assert item.subject == "zoo/broken@1"
    assert "empty" in item.reason
    assert item.recipe == "half, two-four"


def test_a_broken_version_that_no_recipe_asks_for_is_not_mentioned(make_plan, make_model):
    broken = make_model("broken", digest="", problem="no weights", architecture="ViTForImageClassification")
    assert make_plan([make_model(), broken]).impossible == ()


def test_a_recipe_that_matches_nothing_is_named_with_what_there_is(make_plan, make_model):
    plan = make_plan([make_model(architecture="BertForSequenceClassification")])
    assert [item.subject for item in plan.impossible] == ["recipe half", "recipe two-four"]
    assert "BertForSequenceClassification" in plan.impossible[0].reason
    assert "*ForCausalLM" in plan.impossible[0].reason


def test_what_prunefleet_made_is_not_compressed_again(make_plan, make_model):
    plan = make_plan([make_model(), make_model("made", tags={"prunefleet": "artifact"})])
    assert {chain.model.name for chain in plan.chains} == {"tiny"}


def test_a_missing_dataset_stops_the_recipes_that_read_it(make_plan, data):
    from dataclasses import replace

    plan = make_plan(data_files={"manual": replace(data["manual"], problem="manual.jsonl: no such file")})
    assert plan.units == {}
    assert {item.recipe for item in plan.impossible} == {"half", "two-four"}
    assert "no such file" in plan.impossible[0].reason


def test_what_needs_a_quarantined_unit_waits_with_it(make_plan):
    free = make_plan()
    (chain,) = [chain for chain in free.chains if chain.recipe == "half"]
    plan = make_plan(quarantined={chain.prune: "bad_input: NaN in a tensor"})
    assert plan.quarantined == {chain.prune: "bad_input: NaN in a tensor"}
    assert set(free.todo) - set(plan.todo) == {chain.prune, chain.pruned, chain.judge}


def test_a_quarantined_unit_that_has_a_result_after_all_is_done(make_plan):
    key = next(iter(make_plan().units))
    plan = make_plan(completed=[key], quarantined={key: "poison"})
    assert plan.quarantined == {}
    assert key in plan.done


def test_nobody_is_held_back_by_the_quarantine_of_another_fleet(make_plan):
    assert make_plan(quarantined={"f" * 64: "poison"}).todo == make_plan().todo


@pytest.mark.parametrize(
    ("parameters", "asked", "units"),
    [(1, None, 1), (20_000_000, None, 1), (20_000_001, None, 2), (10**12, None, 64), (10**12, 3, 3)],
)
def test_sensitivity_is_divided_by_the_models_size_alone(make_model, parameters, asked, units):
    assert sensitivity_units(make_model(parameters=parameters), asked) == units


def test_a_key_names_everything_that_the_result_depends_on(make_plan):
    unit = next(iter(make_plan().units.values()))
    step, digest = unit.step, unit.model.digest
    keys = {
        unit_key(step, digest, (), 0, 2),
        unit_key(step, digest, (), 1, 2),
        unit_key(step, digest, (), 0, 3),
        unit_key(step, "other", (), 0, 2),
        unit_key(step, digest, ("a",), 0, 2),
        unit_key(step, digest, ("a", "b"), 0, 2),
        unit_key(step, digest, ("b", "a"), 0, 2),
    }
    assert len(keys) == 7
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)


def test_dependents_turn_needs_round(make_plan):
    plan = make_plan()
    readers = dependents(plan.units)
    assert {(need, key) for key, unit in plan.units.items() for need in unit.needs} == {
        (need, key) for need, keys in readers.items() for key in keys
    }


def test_the_order_of_the_catalog_does_not_change_any_key(make_plan, make_model):
    models = [make_model(str(n)) for n in range(4)]
    assert set(make_plan(models).units) == set(make_plan(models[::-1]).units)


def test_an_evaluation_alone_judges_nothing(make_plan, fleet_text):
    start = fleet_text.index("recipes:")
    text = (
        fleet_text[:start] + "recipes:\n  look:\n    evaluate: {dataset: manual, split: test, metric: loss}\n"
    )
    plan = make_plan(text=text)
    assert tasks_of(plan) == {"evaluate": 1}
    (chain,) = plan.chains
    assert (chain.prune, chain.judge, chain.pruned) == ("", "", "")


def test_a_late_result_outweighs_a_quarantine(make_plan):
    (chain, *_) = make_plan().chains
    plan = make_plan(completed=[*chain.units[:2], chain.prune], quarantined={chain.prune: "timeout"})
    assert chain.pruned in plan.todo
    assert chain.judge in plan.todo
    assert not plan.quarantined


def test_what_is_done_lets_its_readers_go_on_whatever_became_of_what_it_read(make_plan):
    (chain, *_) = make_plan().chains
    plan = make_plan(completed=[chain.prune], quarantined={chain.units[0]: "poison"})
    assert chain.pruned in plan.todo
    assert chain.units[0] not in plan.todo
