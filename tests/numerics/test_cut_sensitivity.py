"""Sensitivity of what is cut: each row against a model from which the units were really taken."""

from __future__ import annotations

import pytest
import torch

from tasks import cutsensitivity, pruning, sensitivity
from tasks.amounts.promises import loss_over
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load, load_afresh

TINY = {"num_key_value_heads": 2, "num_attention_heads": 4}
ONE = {**TINY, "num_hidden_layers": 1}


@pytest.fixture
def work(tmp_path, tiny_model, tiny_data):
    """The sensitivity unit of a tiny model for some kinds of units."""

    def work(architecture, kinds, grid=(0.25, 0.5), criterion="magnitude", config=None, **given):
        files = tiny_data(tmp_path / "data")
        is_text = "Image" not in architecture
        data = Dataset(
            path=files["text" if is_text else "arrays"],
            kind="text" if is_text else "arrays",
            split="calibration",
            samples=4,
            shape=() if is_text else (1, 8, 8),
        )
        params = {"criterion": criterion, "cut": [*kinds], "round_to": 1, "grid": [*grid], "metric": "loss"}
        model = tiny_model(tmp_path / "model", architecture, config=config)
        return Work(
            model=model, params={**params, **given.pop("params", {})}, datasets={"calibration": data}, **given
        )

    return work


def rows_of(work):
    return sensitivity.run(work).tables["sensitivity"]


def loss_of(model, work):
    return loss_over(model, fit(read(work.datasets["calibration"]), model))


def cut_for_real(work, kind, amount, out):
    """The loss of the artifact that the prune task writes for this cut of the whole model."""
    out.mkdir()
    params = {key: work.params[key] for key in ("criterion", "round_to")}
    asked = Work(
        model=work.model, params={**params, "cut": {kind: amount}}, datasets=work.datasets, output=out
    )
    pruning.run(asked)
    return loss_of(load_afresh(out), work)


@pytest.mark.parametrize(
    ("architecture", "kind", "config"),
    [
        ("LlamaForCausalLM", "width", ONE),
        ("LlamaForCausalLM", "heads", ONE),
        ("LlamaForCausalLM", "depth", {"num_hidden_layers": 4}),
        ("GPT2LMHeadModel", "width", {"n_layer": 1}),
        ("MixtralForCausalLM", "experts", {"num_hidden_layers": 1}),
        ("MixtralForCausalLM", "width", {"num_hidden_layers": 1}),
    ],
)
def test_where_one_group_is_all_there_is_a_row_is_the_loss_of_the_model_that_is_written(
    work, tmp_path, architecture, kind, config
):
    asked = work(architecture, [kind], config=config)
    rows = rows_of(asked)
    assert {row["pattern"] for row in rows} == {f"cut:{kind}"}
    assert rows[-1]["amount"] == 0.5
    for row in rows:
        real = cut_for_real(asked, kind, row["amount"], tmp_path / f"out{row['amount']}")
        assert row["value"] == pytest.approx(real, abs=1e-6)
        assert row["delta"] == pytest.approx(real - row["dense_value"], abs=1e-6)
        assert abs(row["delta"]) > 1e-5


def without_neurons(layer, gone):
    """A gated feed-forward part without some of its neurons, put together by hand."""
    mlp = layer.mlp
    stay = [neuron for neuron in range(mlp.up_proj.out_features) if neuron not in gone]
    for name in ("gate_proj", "up_proj", "down_proj"):
        part = getattr(mlp, name)
        weight = part.weight[:, stay] if name == "down_proj" else part.weight[stay]
        smaller = torch.nn.Linear(*reversed(weight.shape), bias=False)
        smaller.weight = torch.nn.Parameter(weight.detach().clone())
        setattr(mlp, name, smaller)


def test_each_block_of_a_llama_is_cut_on_its_own(work):
    asked = work("LlamaForCausalLM", ["width"], config={**TINY, "num_hidden_layers": 3})
    rows = rows_of(asked)
    assert [(row["layer"], row["amount"]) for row in rows] == [
        (f"model.layers.{layer}.mlp", amount) for layer in range(3) for amount in (0.25, 0.5)
    ]
    for row in rows:
        model = load_afresh(asked.model)
        layer = model.module.model.layers[int(row["layer"].split(".")[2])]
        parts = (layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight.t())
        norms = sum(part.detach().double().square().sum(1) for part in parts)
        without_neurons(layer, set(norms.argsort()[: int(32 * row["amount"])].tolist()))
        assert row["value"] == pytest.approx(loss_of(model, asked), abs=1e-6)
        assert row["parameters"] == 3 * 16 * 32


def test_each_mixture_loses_its_own_experts(work):
    asked = work("MixtralForCausalLM", ["experts"], grid=(0.25, 0.5))
    rows = rows_of(asked)
    assert len(rows) == 4
    for row in rows:
        model = load_afresh(asked.model)
        part = model.module.get_submodule(row["layer"])
        weights = (part.gate.weight, part.experts.gate_up_proj, part.experts.down_proj)
        norms = sum(weight.detach().double().square().flatten(1).sum(1) for weight in weights)
        stay = sorted(norms.argsort()[int(4 * row["amount"]) :].tolist())
        part.gate.weight = torch.nn.Parameter(part.gate.weight[stay])
        for name in ("gate_up_proj", "down_proj"):
            setattr(part.experts, name, torch.nn.Parameter(getattr(part.experts, name)[stay]))
        part.experts.num_experts = part.gate.num_experts = len(stay)
        assert row["value"] == pytest.approx(loss_of(model, asked), abs=1e-6)


def test_a_channel_of_a_network_with_residual_connections_goes_from_all_that_hold_it(work):
    asked = work(
        "ResNetForImageClassification",
        ["channels"],
        grid=(0.5,),
        config={"embedding_size": 8, "hidden_sizes": [8], "depths": [2]},
    )
    rows = {row["layer"]: row for row in rows_of(asked)}
    inner = rows["resnet.encoder.stages.0.layers.0.layer"]
    model = load_afresh(asked.model)
    first, second = model.module.get_submodule("resnet.encoder.stages.0.layers.0.layer")
    parts = (first.convolution.weight, second.convolution.weight.transpose(0, 1))
    gone = sum(part.detach().double().square().flatten(1).sum(1) for part in parts).argsort()[:4]
    with torch.no_grad():
        second.convolution.weight[:, gone] = 0
    assert inner["value"] == pytest.approx(loss_of(model, asked), abs=1e-6)
    (shared,) = [row for name, row in rows.items() if ".layers." not in name]
    assert shared["parameters"] > max(row["parameters"] for row in rows.values() if row is not shared)


def test_the_dense_model_is_as_it_was_and_the_dense_loss_that_of_it(work):
    asked = work("LlamaForCausalLM", ["width", "heads", "depth"], config=TINY)
    before = {name: weight.clone() for name, weight in load(asked.model).module.state_dict().items()}
    rows = rows_of(asked)
    after = load(asked.model).module.state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in after.items())
    (dense,) = {row["dense_value"] for row in rows}
    assert dense == pytest.approx(loss_of(load(asked.model), asked), abs=1e-9)
    assert {row["pattern"] for row in rows} == {"cut:width", "cut:heads", "cut:depth"}
    assert [row["parameters"] for row in rows if row["pattern"] == "cut:depth"] == [
        2 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 32 + 32)
    ]


def test_parts_measure_each_group_once_and_give_the_rows_of_one_unit(work):
    whole, *parts = (
        rows_of(work("LlamaForCausalLM", ["width", "heads"], config=TINY, part=part, parts=parts))
        for part, parts in ((0, 1), (0, 2), (1, 2))
    )
    assert [*parts[0], *parts[1]] == whole
    assert all(parts)


def test_amounts_are_those_that_hardware_rounding_leaves_and_none_is_tried_twice(work):
    asked = work("LlamaForCausalLM", ["width"], grid=(0.1, 0.3, 0.4, 0.9), config=ONE, params={"round_to": 8})
    product = sensitivity.run(asked)
    assert [row["amount"] for row in product.tables["sensitivity"]] == [0.25, 0.75]
    (finding,) = [finding for finding in product.findings if finding.kind == "zero_effect"]
    assert (finding.subject, finding.message[:4]) == ("width", "0.1 ")


@pytest.mark.parametrize("criterion", ["wanda", "loss"])
def test_units_are_chosen_as_the_cut_chooses_them(work, tmp_path, criterion):
    asked = work("LlamaForCausalLM", ["heads"], grid=(0.5,), criterion=criterion, config=ONE)
    (row,) = rows_of(asked)
    assert row["value"] == pytest.approx(cut_for_real(asked, "heads", 0.5, tmp_path / "out"), abs=1e-6)


def test_a_trial_for_which_memory_runs_out_is_not_taken_for_one_that_the_model_cannot_do(work, monkeypatch):
    def fail(model):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(cutsensitivity, "answer_of", fail)
    with pytest.raises(torch.OutOfMemoryError):
        rows_of(work("LlamaForCausalLM", ["width"]))


def test_a_model_that_has_no_such_units_is_refused(work):
    with pytest.raises(BadInput, match="no experts that can be cut"):
        sensitivity.run(work("LlamaForCausalLM", ["experts"]))
