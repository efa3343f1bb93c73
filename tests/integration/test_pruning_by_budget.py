"""Effects. Budgets, end to end: measured sensitivities in, a model out that keeps no more than it may, and what that cost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.tables.schemas import result_table
from tasks import evaluation, pruning, sensitivity
from tasks.amounts.budgets import dense_tensor_bytes, goal_of, remains
from tasks.amounts.promises import loss_over
from tasks.contract import BadInput, Dataset, Work
from tasks.loading.models import outline, prunable_layers

GRID = [0.2, 0.4, 0.6, 0.8]
FILES = {
    "LlamaForCausalLM": ("text", "text", ()),
    "MLPForClassification": ("arrays", "arrays", ()),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
}


@pytest.fixture
def budgeted(tmp_path, tiny_model, tiny_data):
    """(architecture, criterion, prune params) -> the work of pruning with measured sensitivities."""

    def make(architecture="LlamaForCausalLM", criterion="magnitude", config=None, **params):
        name, kind, shape = FILES[architecture]
        model = tiny_model(tmp_path / "model", architecture, config=config)
        data = Dataset(path=tiny_data(tmp_path / "d")[name], kind=kind, split="calibration", shape=shape)
        scope = "row" if criterion == "wanda" else "tensor"
        mask = {"criterion": criterion, "pattern": "unstructured", "scope": scope, "skip": []}
        measured = Work(model=model, params={**mask, "grid": GRID}, datasets={"calibration": data})
        rows = sensitivity.run(measured).tables["sensitivity"]
        (tmp_path / "out").mkdir()
        return replace(
            measured,
            params={**mask, "amount": None, "max_amount": 0.95, **params},
            inputs={"sensitivity": rows},
            output=tmp_path / "out",
        )

    return make


def entries(work):
    return load_file(work.output / "model.safetensors")


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("allocation", ["sensitivity", "knapsack"])
def test_no_more_parameters_remain_than_the_budget_allows(budgeted, criterion, allocation):
    work = budgeted(criterion=criterion, allocation=allocation, budget={"parameters": 0.8})
    product = pruning.run(work)
    (row,) = product.tables["artifacts"]
    tensors = entries(work).values()
    nonzero = sum(int(torch.count_nonzero(tensor)) for tensor in tensors)
    total = sum(tensor.numel() for tensor in tensors)
    assert row["nonzero_parameters"] == nonzero <= 0.8 * total
    assert nonzero > 0.7 * total
    assert "budget_missed" not in {finding.kind for finding in product.findings}
    result_table("prune", dict(product.tables))


@pytest.mark.parametrize("architecture", ["MLPForClassification", "ResNetForImageClassification"])
def test_effective_flops_count_the_multiply_adds_of_weights_that_are_left(budgeted, architecture):
    work = budgeted(architecture, allocation="knapsack", budget={"flops": 0.6})
    product = pruning.run(work)
    (row,) = product.tables["artifacts"]
    model, tensors = outline(work.model), entries(work)
    places = {"MLPForClassification": lambda layer: 1, "ResNetForImageClassification": None}[architecture]
    if places:
        by_hand = sum(
            2 * int(torch.count_nonzero(tensors[layer.weight])) * places(layer)
            for layer in prunable_layers(model.module)
        )
        assert row["effective_flops"] == by_hand
    assert row["effective_flops"] <= 0.6 * row["dense_flops"]
    assert row["flops"] == row["dense_flops"]


def test_bytes_are_those_of_bit_masks_and_the_values_that_are_left(budgeted):
    work = budgeted(allocation="sensitivity", budget={"bytes": 0.85})
    (row,) = pruning.run(work).tables["artifacts"]
    layers = {layer.weight for layer in prunable_layers(outline(work.model).module)}
    by_hand = dense = 0
    for name, tensor in entries(work).items():
        dense += tensor.nbytes
        if name in layers:
            mask = np.packbits((tensor != 0).numpy().reshape(-1))
            by_hand += mask.nbytes + tensor[tensor != 0].numel() * 4
        else:
            by_hand += tensor.nbytes
    assert row["sparse_bytes"] == by_hand <= 0.85 * dense


def test_what_zeros_would_save_is_counted_without_a_budget_too(budgeted):
    work = budgeted("MLPForClassification", amount=0.4, allocation="uniform")
    (row,) = pruning.run(work).tables["artifacts"]
    layers, tensors = prunable_layers(outline(work.model).module), entries(work)
    kept = sum(int(torch.count_nonzero(tensors[layer.weight])) for layer in layers)
    masks = sum(-(-layer.parameters // 8) for layer in layers)
    others = sum(tensor.nbytes for tensor in tensors.values()) - 4 * sum(x.parameters for x in layers)
    assert (row["effective_flops"], row["sparse_bytes"]) == (2 * kept, 4 * kept + masks + others)
    assert row["effective_flops"] < 0.65 * row["flops"]


def test_what_was_predicted_stands_beside_what_was_measured(budgeted):
    work = budgeted(allocation="knapsack", budget={"parameters": 0.8})
    (row,) = pruning.run(work).tables["artifacts"]
    losses = []
    for path in (work.model, work.output):
        rows = evaluation.run(
            Work(model=path, params={}, datasets={"evaluation": work.datasets["calibration"]})
        ).tables["outcomes"]
        losses.append(sum(r["loss"] for r in rows) / sum(r["tokens"] for r in rows))
    assert row["calibration_loss"] == pytest.approx(losses[0])
    assert row["measured_increase"] == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert row["least_increase"] <= row["predicted_increase"]
    mark = json.loads((work.output / "prunefleet.json").read_text())
    assert mark["measures"]["measured_increase"] == row["measured_increase"]


@pytest.mark.parametrize("allocation", ["sensitivity", "knapsack"])
def test_a_quality_prunes_more_the_more_it_may_cost(budgeted, tmp_path, allocation):
    work = budgeted(allocation=allocation, quality={"max_increase": 0.01})
    pruned = []
    for number, increase in enumerate((0.0001, 0.02, 1.0)):
        output = tmp_path / f"out{number}"
        output.mkdir()
        params = {**work.params, "quality": {"max_increase": increase}}
        product = pruning.run(replace(work, params=params, output=output))
        (row,) = product.tables["artifacts"]
        assert row["predicted_increase"] <= increase * row["calibration_loss"] + 1e-9
        missed = row["measured_increase"] > increase * row["calibration_loss"]
        assert missed == ("quality_missed" in {finding.kind for finding in product.findings})
        pruned.append(sum(row["pruned_parameters"] for row in product.tables["layers"]))
    assert pruned == sorted(pruned)
    assert pruned[0] < pruned[2]


def test_a_budget_in_rows_is_met_although_rows_lose_whole_weights(budgeted):
    work = budgeted("MLPForClassification", "wanda", allocation="sensitivity", budget={"parameters": 0.501})
    product = pruning.run(work)
    (row,) = product.tables["artifacts"]
    assert row["nonzero_parameters"] <= 0.501 * row["dense_parameters"]
    assert not [finding for finding in product.findings if finding.kind == "budget_missed"]


def test_a_budget_that_is_missed_is_told(budgeted, monkeypatch):
    work = budgeted(allocation="knapsack", budget={"parameters": 0.8})
    params = {**work.params, "budget": {"parameters": 0.9}}
    product = pruning.run(replace(work, params=params))
    monkeypatch.setattr("tasks.amounts.promises.remaining", lambda share, of: 10)
    from tasks.amounts.promises import broken_promises
    from tasks.recipes import read_recipe

    model = outline(work.model)
    (finding,) = broken_promises(
        read_recipe(params), model, prunable_layers(model.module), product.tables["artifacts"][0]
    )
    assert finding.kind == "budget_missed"
    assert "0.9 was the most" in finding.message


@pytest.mark.parametrize("how", ["amount", "budget", "quality"])
@pytest.mark.parametrize("allocation", ["sensitivity", "knapsack"])
def test_every_layer_loses_the_least_that_was_asked_of_each(budgeted, allocation, how):
    asked = {"amount": 0.6, "budget": {"parameters": 0.45}, "quality": {"max_increase": 5.0}}[how]
    work = budgeted("MLPForClassification", allocation=allocation, min_amount=0.5, **{how: asked})
    amounts = [row["amount"] for row in pruning.run(work).tables["layers"]]
    assert min(amounts) >= 0.5
    assert max(amounts) > 0.5


def test_what_is_never_pruned_counts_in_a_budget(budgeted):
    work = budgeted(allocation="sensitivity", budget={"parameters": 0.05})
    with pytest.raises(BadInput, match="0.9500 cannot go.*at most"):
        pruning.run(work)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"allocation": "sensitivity", "budget": {"latency": 0.5}}, "masks make no runtime faster"),
        (
            {"allocation": "uniform", "budget": {"parameters": 0.5}},
            "needs one of the allocations sensitivity",
        ),
        ({"allocation": "knapsack", "budget": {"parameters": 0.5, "flops": 0.5}}, "must name one thing"),
        ({"allocation": "knapsack", "budget": {"carbon": 0.5}}, "none of parameters, flops, bytes"),
        ({"allocation": "knapsack", "quality": {"max_increase": 0}}, "must be above 0"),
        (
            {"allocation": "knapsack", "amount": 0.5, "quality": {"max_increase": 1}},
            "more than one of amount",
        ),
        ({"allocation": "knapsack"}, "amount is None"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(budgeted, params, why):
    with pytest.raises(BadInput, match=why):
        pruning.run(budgeted("MLPForClassification", **params))


def test_the_loss_over_a_data_set_counts_every_token_the_same(budgeted):
    from tasks.examples.data import read
    from tasks.examples.fitting import fit
    from tasks.loading.models import load

    work = budgeted(allocation="knapsack", amount=0.5)
    model = load(work.model)
    fitted = fit(read(work.datasets["calibration"]), model)
    assert loss_over(model, fitted) == pytest.approx(work.inputs["sensitivity"][0]["dense_value"])


def test_a_knapsack_meets_an_amount_with_amounts_of_the_grid(budgeted):
    work = budgeted(allocation="knapsack", amount=0.5)
    rows = pruning.run(work).tables["layers"]
    assert {row["amount_asked"] for row in rows} <= {0.0, *GRID}
    assert sum(row["pruned_parameters"] for row in rows) >= 0.5 * sum(row["parameters"] for row in rows)


def test_shared_weights_count_once(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "LlamaForCausalLM", config={"tie_word_embeddings": True})
    model = outline(path)
    layers = prunable_layers(model.module)
    parameters = sum(weight.numel() for weight in model.module.parameters())
    assert remains(model, layers, {}).parameters == parameters
    assert dense_tensor_bytes(model) == 4 * parameters
    goal = goal_of("parameters", 0.9, model, layers)
    assert (goal.of, goal.wanted) == (parameters, parameters - int(0.9 * parameters))
