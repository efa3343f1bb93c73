"""How far a cut may go: no fewer experts than a token is sent to, no rung that does not run, no list that is not of the blocks."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from tasks import latency, pruning, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.cutting import cuttiming
from tasks.cutting.axes import routing_needs
from tasks.cutting.depth import stack_of
from tasks.files.configs import ModelConfig
from tasks.loading.building import build

MIXTURE = {"num_local_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 1}
TIMING = {"batch": 1, "sequence": 8, "repetitions": 6}


@pytest.fixture
def work(tmp_path, tiny_model, tiny_data):
    """A unit on a tiny model, with calibration data and a place for what it writes."""

    def work(architecture, config, **params):
        data = tiny_data(tmp_path / "data")["text"]
        calibration = Dataset(path=data, kind="text", split="calibration", samples=2)
        out = tmp_path / "out"
        out.mkdir()
        return Work(
            model=tiny_model(tmp_path / "model", architecture, config=config),
            params={"criterion": "magnitude", **params},
            datasets={"calibration": calibration},
            output=out,
        )

    return work


def told(product):
    return [finding.kind for finding in product.findings]


def test_as_many_experts_stay_as_a_token_is_sent_to(work):
    unit = work("MixtralForCausalLM", MIXTURE, cut={"experts": 0.9})
    product = pruning.run(unit)
    assert json.loads((unit.output / "config.json").read_text())["num_local_experts"] == 2
    assert {row["amount"] for row in product.tables["layers"]} == {0.75}
    assert "kept_least" in told(product)


def test_a_large_amount_costs_the_grid_none_of_its_rows(work):
    grid = {"grid": [0.5, 0.9], "cut": ["experts"], "round_to": 1, "metric": "loss"}
    product = sensitivity.run(work("MixtralForCausalLM", MIXTURE, **grid))
    assert [row["amount"] for row in product.tables["sensitivity"]] == [0.5, 0.75]
    assert "does_not_run" not in told(product)


def test_an_amount_with_which_the_model_does_not_run_is_told_and_the_others_are_tried(work, monkeypatch):
    monkeypatch.setattr("tasks.cutsensitivity.runs", lambda small: small.config.intermediate_size > 10)
    grid = {"grid": [0.25, 0.9], "cut": ["width"], "round_to": 1, "metric": "loss"}
    product = sensitivity.run(work("LlamaForCausalLM", {"num_hidden_layers": 1}, **grid))
    assert [row["amount"] for row in product.tables["sensitivity"]] == [0.25]
    assert told(product).count("does_not_run") == 1


@pytest.mark.parametrize(
    ("settings", "needs"),
    [
        ({}, (1, 1)),
        ({"num_experts_per_tok": 4}, (4, 1)),
        ({"moe_topk": 3}, (3, 1)),
        ({"num_experts_per_tok": 8, "n_group": 8, "topk_group": 4}, (16, 8)),
        ({"num_experts_per_tok": 8, "n_group": 4, "topk_group": 2}, (16, 4)),
        ({"num_experts_per_tok": 6, "n_group": None, "topk_group": None}, (6, 1)),
        ({"num_experts_per_tok": 1, "n_group": 1, "topk_group": 1}, (2, 1)),
    ],
)
def test_a_routing_needs_enough_experts_in_the_groups_that_it_opens(settings, needs):
    assert routing_needs(SimpleNamespace(**settings)) == needs


def by_latency(work, limit):
    return work(
        "LlamaForCausalLM",
        {"num_hidden_layers": 1},
        cut={"width": 0.9},
        budget={"latency": limit},
        timing=TIMING,
    )


def hidden_neurons(model):
    return model.module.model.layers[0].mlp.down_proj.in_features


def test_a_rung_that_does_not_run_is_one_that_is_not_met(work, monkeypatch):
    monkeypatch.setattr(latency, "seconds_of", lambda model, batch, passes: 1.0 + hidden_neurons(model))
    monkeypatch.setattr(cuttiming, "runs", lambda small: hidden_neurons(small) > 12)
    unit = by_latency(work, 0.7)
    product = pruning.run(unit)
    kept = json.loads((unit.output / "config.json").read_text())["intermediate_size"]
    assert (1 + kept) / 33 <= 0.7 < (2 + kept) / 33
    assert "does_not_run" in told(product)
    assert "budget_missed" not in told(product)


def test_where_no_rung_runs_the_recipe_is_told_what_to_do(work, monkeypatch):
    monkeypatch.setattr(cuttiming, "runs", lambda small: False)
    with pytest.raises(BadInput, match="does not run with any of the sizes"):
        pruning.run(by_latency(work, 0.7))


SMALL = {
    "vocab_size": 32, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_hidden_layers": 2, "eos_token_id": [1, 2],
}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "more", "of_blocks"),
    [
        ("LlamaForCausalLM", {"model_type": "llama"}, set()),
        ("Qwen2ForCausalLM", {"model_type": "qwen2", "layer_types": ["full_attention"] * 2}, {"layer_types"}),
        (
            "Lfm2ForCausalLM",
            {"model_type": "lfm2", "layer_types": ["conv", "full_attention"]},
            {"layer_types"},
        ),
    ],
)
def test_only_lists_that_say_something_of_each_block_lose_entries(architecture, more, of_blocks):
    config = ModelConfig(architecture=architecture, values={**SMALL, **more}, findings=())
    _, _, settings = build(config, torch.float32)
    stack = stack_of(config, settings, torch.float32)
    assert set(stack.lists) == of_blocks
    assert stack.changes([1])[("num_hidden_layers",)] == 1


def test_a_model_with_two_end_tokens_is_cut_like_any_other(work):
    config = {"eos_token_id": [1, 2]}
    product = pruning.run(work("LlamaForCausalLM", config, cut={"width": 0.5}))
    [artifact] = product.tables["artifacts"]
    assert artifact["parameters"] < artifact["dense_parameters"]


@pytest.mark.parametrize(
    ("cut", "config", "why"),
    [
        ("heads", {"num_attention_heads": 2, "num_key_value_heads": 1}, "its 2 heads share one head of keys"),
        ("heads", {"num_attention_heads": 1, "num_key_value_heads": 1}, "it has one attention head"),
        ("width", {"intermediate_size": 1}, "intermediate_size is 1"),
        ("experts", {}, "no number of its config sizes them and nothing else"),
    ],
)
def test_where_there_is_nothing_to_choose_between_the_reason_is_given(work, cut, config, why):
    with pytest.raises(BadInput, match=f"no {cut} that can be cut") as refused:
        pruning.run(work("LlamaForCausalLM", config, cut={cut: 0.5}))
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("share", "round_to", "told"), [(0.5, 64, "is rounded up"), (0.01, 1, "takes out none of them")]
)
def test_a_cut_that_takes_nothing_out_says_whether_it_was_rounded_away(work, share, round_to, told):
    unit = work("LlamaForCausalLM", {}, cut={"width": share}, round_to=round_to)
    (finding,) = (one for one in pruning.run(unit).findings if one.kind == "zero_effect")
    assert finding.message.startswith(f"{share:g} of 32 takes out none of them")
    assert ("is rounded up" in finding.message) == (told == "is rounded up")
