"""Budgets and qualities of cuts: against writing every model that could have been chosen, and counting it."""

from __future__ import annotations

import itertools
import json

import pytest

from tasks import pruning, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.cutting.cutbudgets import counts_of
from tasks.loading.models import outline

LLAMA = {"num_key_value_heads": 2, "num_attention_heads": 4, "num_hidden_layers": 4}
GRID = (0.125, 0.25, 0.5, 0.75)


@pytest.fixture
def cut(tmp_path, tiny_model, tiny_data):
    """Carries a recipe out on a tiny model; (the product, what it wrote)."""
    number = itertools.count()
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)

    def cut(shares, architecture="LlamaForCausalLM", config=LLAMA, rows=(), **params):
        out = tmp_path / f"out{next(number)}"
        out.mkdir()
        asked = {"criterion": "magnitude", "round_to": 1, "cut": shares, **params}
        model = tiny_model(tmp_path / architecture, architecture, config=config)
        work = Work(
            model=model,
            params=asked,
            datasets={"calibration": data},
            output=out,
            inputs={"sensitivity": rows},
        )
        return pruning.run(work), out

    return cut


@pytest.fixture
def measured(tmp_path, tiny_model, tiny_data):
    """The rows of the sensitivity step of a tiny Llama."""
    data = Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration", samples=4)

    def measured(kinds, config=LLAMA):
        model = tiny_model(tmp_path / "LlamaForCausalLM", "LlamaForCausalLM", config=config)
        params = {"criterion": "magnitude", "cut": kinds, "round_to": 1, "grid": [*GRID], "metric": "loss"}
        work = Work(model=model, params=params, datasets={"calibration": data})
        return sensitivity.run(work).tables["sensitivity"]

    return measured


def count(what, path):
    return sum(counts_of(what, outline(path)).values())


def kinds(product):
    return {finding.kind for finding in product.findings}


@pytest.mark.parametrize("what", ["parameters", "flops", "bytes"])
@pytest.mark.parametrize("share", [0.95, 0.78])
def test_as_little_is_cut_as_the_budget_takes(cut, tmp_path, what, share):
    product, out = cut({"width": 0.75}, budget={what: share})
    dense = count(what, tmp_path / "LlamaForCausalLM")
    assert count(what, out) <= share * dense
    width = json.loads((out / "config.json").read_text())["intermediate_size"]
    _, wider = cut({"width": 1 - (width + 1) / 32})
    assert json.loads((wider / "config.json").read_text())["intermediate_size"] == width + 1
    assert count(what, wider) > share * dense
    assert not product.findings
    (artifact,) = product.tables["artifacts"]
    assert artifact["parameters"] == count("parameters", out)
    assert "predicted_increase" not in artifact


def test_kinds_are_made_smaller_alike(cut, tmp_path):
    product, out = cut({"width": 0.8, "heads": 0.5, "depth": 0.5}, budget={"parameters": 0.7})
    assert count("parameters", out) <= 0.7 * count("parameters", tmp_path / "LlamaForCausalLM")
    gone = {row["layer"]: row["amount"] for row in product.tables["layers"]}
    assert 0 < gone["model.layers.0.mlp"] < 0.8


def test_a_budget_out_of_reach_keeps_the_most_that_was_allowed_and_says_so(cut):
    product, out = cut({"width": 0.5}, budget={"parameters": 0.1})
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 16
    (finding,) = [finding for finding in product.findings if finding.kind == "budget_missed"]
    assert str(count("parameters", out)) in finding.message


def test_a_budget_of_all_cuts_nothing_and_keeps_every_weight(cut, tmp_path):
    product, out = cut({"width": 0.5, "heads": 0.5}, budget={"parameters": 1.0})
    assert count("parameters", out) == count("parameters", tmp_path / "LlamaForCausalLM")
    assert {row["pruned_parameters"] for row in product.tables["layers"]} == {0}


def test_measured_losses_choose_what_no_other_combination_of_measured_amounts_beats(cut, measured, tmp_path):
    rows = measured(["width", "depth"])
    shares, share = {"width": 0.75, "depth": 0.5}, 0.75
    product, out = cut(shares, rows=rows, allocation="sensitivity", budget={"parameters": share})
    most = share * count("parameters", tmp_path / "LlamaForCausalLM")
    assert count("parameters", out) <= most
    assert not kinds(product) & {"budget_missed"}
    (artifact,) = product.tables["artifacts"]
    assert artifact["predicted_increase"] == artifact["least_increase"]
    assert artifact["measured_increase"] is not None
    assert artifact["calibration_loss"] > 0
    met = 0
    for width, depth in itertools.product((0, 0.25, 0.5, 0.75), (0, 0.5)):
        other, smaller = cut({"width": width, "depth": depth})
        if count("parameters", smaller) <= most:
            met += 1
            gone = {row["layer"]: row["amount"] for row in other.tables["layers"]}
            assert artifact["predicted_increase"] <= by_curves(rows, gone) + 1e-9
    assert met >= 3


def by_curves(rows, gone):
    """The measured losses of these amounts, made never to fall, added up."""
    total = 0.0
    for layer, amount in gone.items():
        line = sorted((row["amount"], row["delta"]) for row in rows if row["layer"] == layer)
        total += max((max(0.0, delta) for at, delta in line if at <= amount), default=0.0) if amount else 0.0
    return total


def invented(rows, dear):
    """The same rows, with losses by hand: of kinds that are dear 1 a share, of others a hundredth of it."""
    return [
        {**row, "delta": row["amount"] * (1.0 if row["pattern"] == f"cut:{dear}" else 0.01), "stderr": 0.01, "dense_value": 2.0}
        for row in rows
    ]  # fmt: skip


@pytest.mark.parametrize(("dear", "cheap"), [("heads", "width"), ("width", "depth")])
def test_what_is_dear_stays_and_what_is_cheap_goes(cut, measured, dear, cheap):
    rows = invented(measured([dear, cheap]), dear)
    _, out = cut({dear: 0.5, cheap: 0.5}, rows=rows, allocation="sensitivity", budget={"parameters": 0.9})
    sizes = json.loads((out / "config.json").read_text())
    keys = {
        "heads": ("num_attention_heads", 4),
        "width": ("intermediate_size", 32),
        "depth": ("num_hidden_layers", 4),
    }
    assert sizes[keys[dear][0]] == keys[dear][1]
    assert sizes[keys[cheap][0]] < keys[cheap][1]


def test_a_quality_takes_as_much_as_it_is_predicted_to_allow(cut, measured, tmp_path):
    rows = invented(measured(["width", "heads"]), "heads")
    product, out = cut(
        {"width": 0.75, "heads": 0.5}, rows=rows, allocation="sensitivity", quality={"max_increase": 0.015}
    )
    (artifact,) = product.tables["artifacts"]
    assert artifact["predicted_increase"] == pytest.approx(
        4 * 0.75 * 0.01
    )  # all neurons that may go, and no head
    assert artifact["predicted_increase"] <= 0.015 * 2.0
    assert json.loads((out / "config.json").read_text())["num_attention_heads"] == 4
    assert ("quality_missed" in kinds(product)) == (
        artifact["measured_increase"] > 0.015 * artifact["calibration_loss"]
    )


def test_nothing_goes_beyond_what_was_measured(cut, measured):
    rows = [row for row in measured(["width"]) if row["amount"] <= 0.25]
    product, out = cut({"width": 0.75}, rows=rows, allocation="sensitivity", budget={"parameters": 0.5})
    assert json.loads((out / "config.json").read_text())["intermediate_size"] == 24
    assert "budget_missed" in kinds(product)


def test_kinds_that_were_not_measured_are_named(cut, measured):
    rows = measured(["width"])
    with pytest.raises(BadInput, match="nothing says what cutting heads costs"):
        cut({"width": 0.5, "heads": 0.5}, rows=rows, allocation="sensitivity", budget={"parameters": 0.9})
    other = [{**row, "criterion": "wanda"} for row in rows]
    with pytest.raises(BadInput, match="measured with the criterion wanda, not magnitude"):
        cut({"width": 0.5}, rows=other, allocation="sensitivity", budget={"parameters": 0.9})


def test_experts_and_their_width_go_together(cut, tmp_path):
    mixture = {"num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 1}
    _, out = cut(
        {"experts": 0.5, "width": 0.5}, "MixtralForCausalLM", mixture, budget={"parameters": 0.7}, round_to=8
    )
    dense = count("parameters", tmp_path / "MixtralForCausalLM")
    assert count("parameters", out) <= 0.7 * dense
    with pytest.raises(BadInput, match="a token is sent to as many of those that are left"):
        cut({"experts": 0.5}, "MixtralForCausalLM", mixture, budget={"flops": 0.6})


def test_the_width_of_experts_counts_for_as_many_as_a_token_is_sent_to(cut, tmp_path):
    mixture = {"num_hidden_layers": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    product, out = cut({"width": 0.75}, "MixtralForCausalLM", mixture, budget={"flops": 0.9}, round_to=4)
    dense = count("flops", tmp_path / "MixtralForCausalLM")
    (artifact,) = product.tables["artifacts"]
    assert (artifact["dense_flops"], artifact["flops"]) == (dense, count("flops", out))
    width = json.loads((out / "config.json").read_text())["intermediate_size"]
    four_more = (
        4 * 2 * 2 * 2 * 3 * 16
    )  # two layers, two experts a token, three weights of 16 inputs or outputs
    assert artifact["flops"] <= 0.9 * dense < artifact["flops"] + four_more
    assert width < 32


@pytest.mark.parametrize("what", ["parameters", "flops"])
def test_channels_of_a_convolutional_network_are_counted_as_they_are_written(cut, tmp_path, what):
    model = "ResNetForImageClassification"
    product, out = cut({"channels": 0.75}, model, None, budget={what: 0.5})
    dense = count(what, tmp_path / model)
    assert count(what, out) <= 0.5 * dense
    assert not kinds(product) & {"budget_missed"}
    _, wider = cut({"channels": 0.75}, model, None, budget={what: (count(what, out) + 0.5) / dense})
    assert count(what, wider) == count(what, out), "the same model meets the budget of what it has"


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"budget": {"parameters": 0.5, "flops": 0.5}}, "must name one of"),
        ({"budget": {"weight": 0.5}}, "must name one of"),
        ({"budget": {"parameters": 1.5}}, "must be a share up to 1"),
        ({"allocation": "knapsack", "budget": {"parameters": 0.5}}, "by sensitivity or not at all"),
        ({"quality": {"max_increase": 0.1}}, "needs allocation: sensitivity"),
        ({"allocation": "sensitivity"}, "needs quality, or a budget"),
        (
            {"allocation": "sensitivity", "budget": {"latency": 0.5}, "timing": {}},
            "needs quality, or a budget",
        ),
    ],
)
def test_params_that_make_no_sense_are_refused(cut, params, why):
    with pytest.raises(BadInput, match=why):
        cut({"width": 0.5}, **params)
