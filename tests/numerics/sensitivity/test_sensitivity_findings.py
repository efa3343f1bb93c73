"""Effects. Rows of sensitivity: what fits the results, what is doubted, skipped, refused and left empty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.naive_grids import rows_of
from safetensors.torch import load_file, save_file

from orchestrator.tables.schemas import result_table
from tasks import sensitivity
from tasks.amounts import allocation
from tasks.contract import BadInput, Dataset, Work
from tasks.loading.models import load, prunable_layers


def test_an_empty_part_reads_no_data(measure, tmp_path):
    work = measure("MLPForClassification", part=5, parts=40)
    nowhere = Dataset(path=tmp_path / "none", kind="arrays", split="all")
    empty = Work(model=work.model, params=work.params, datasets={"calibration": nowhere}, part=5, parts=40)
    product = sensitivity.run(empty)
    assert product.tables == {"sensitivity": ()}
    assert product.findings == []


def test_the_rows_fit_the_results_schema_and_name_their_recipe(measure):
    work = measure("LlamaForCausalLM", criterion="wanda", scope="row")
    rows = rows_of(work)
    assert result_table("sensitivity", {"sensitivity": rows}).num_rows == len(rows)
    assert {row["method"] for row in rows} == {"exact"}
    assert {row["criterion"] for row in rows} == {"wanda"}
    assert {row["metric"] for row in rows} == {"loss"}
    assert all(row["group"] == row["layer"] for row in rows)
    assert all(row["samples"] == 12 for row in rows)


def test_nothing_pruned_changes_nothing_and_is_no_finding(measure):
    work = measure("LlamaForCausalLM", grid=[0.0])
    product = sensitivity.run(work)
    assert {(row["delta"], row["stderr"]) for row in product.tables["sensitivity"]} == {(0.0, 0.0)}
    assert product.findings == []


def test_an_effect_of_exactly_zero_is_a_finding_that_names_layer_and_amounts(measure):
    work = measure("MLPForClassification", grid=[0.0, 0.001, 0.5])
    product = sensitivity.run(work)
    found = {
        finding.subject: finding.message for finding in product.findings if finding.kind == "zero_effect"
    }
    assert "layers.2" in found  # 0.001 of its 160 weights is none
    assert "0.001 " in found["layers.2"]
    assert "0.5" not in found["layers.2"]


def test_a_layer_without_influence_is_measured_and_doubted_at_every_amount(measure):
    work = measure("MLPForClassification")
    file = work.model / "model.safetensors"
    tensors = load_file(file)
    tensors["layers.1.weight"].zero_()
    save_file(tensors, file, metadata={"format": "pt"})
    product = sensitivity.run(work)
    assert {row["delta"] for row in product.tables["sensitivity"] if row["layer"] == "layers.0"} == {0.0}
    found = {
        finding.subject: finding.message for finding in product.findings if finding.kind == "zero_effect"
    }
    assert "at 0.3, 0.75 " in found["layers.0"]


def test_a_layer_to_skip_is_not_tried(measure):
    work = measure("LlamaForCausalLM", skip=["*.mlp.*"], grid=[0.5])
    assert {row["layer"].split(".")[-2] for row in rows_of(work)} == {"self_attn"}


def test_a_skip_that_matches_nothing_is_refused(measure):
    with pytest.raises(BadInput, match="matches none"):
        rows_of(measure("LlamaForCausalLM", skip=["*.experts.*"]))


def test_an_unknown_criterion_is_refused(measure):
    with pytest.raises(BadInput, match="'best' is unknown"):
        rows_of(measure("LlamaForCausalLM", criterion="best"))


def test_a_dense_loss_that_is_not_finite_is_refused_with_its_example(measure):
    work = measure("MLPForClassification")
    model = load(work.model)
    model.module.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    with pytest.raises(BadInput, match=r"it is nan on this example, and so on 12 of 12 in row 1"):
        rows_of(work)


def test_a_pruned_loss_that_is_not_finite_is_left_empty_and_said(measure):
    work = measure("MLPForClassification", grid=[0.0, 1.0])
    model = load(work.model)

    def overflow(module: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        return logits / float(module.layers[1].weight.abs().sum() > 0)

    model.module.register_forward_hook(overflow)
    product = sensitivity.run(work)
    rows = {(row["layer"], row["amount"]): row for row in product.tables["sensitivity"]}
    assert rows["layers.1", 0.0]["delta"] == 0.0
    assert rows["layers.1", 1.0].get("value") is rows["layers.1", 1.0].get("delta") is None
    (finding,) = [finding for finding in product.findings if finding.kind == "non_finite_loss"]
    assert finding.subject == "layers.1"
    assert "pruned at 1 " in finding.message


def test_the_allocation_can_be_made_from_the_rows(measure):
    work = measure("LlamaForCausalLM", grid=[0.3, 0.6, 0.9])
    layers = {layer.name: layer.parameters for layer in prunable_layers(load(work.model).module)}
    found = allocation.by_sensitivity(layers, rows_of(work), 0.5, 0.9)
    assert found.amounts.keys() == layers.keys()
