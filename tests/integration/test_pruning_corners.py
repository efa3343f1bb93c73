"""The prune task where recipes contradict themselves, weights are odd, files are many and disks fail; amounts by sensitivity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cases.prunings import calibration, prune, rows
from safetensors.torch import load_file, save_file

from tasks.contract import BadInput
from tasks.loading.models import load, outline, prunable_layers
from tasks.masks.patterns import pruned_count
from tasks.writing.accounts import MARK
from tasks.writing.recount import ArtifactWrong


def test_wanda_without_calibration_data_is_refused(tmp_path, tiny_model):
    with pytest.raises(BadInput, match="no calibration data"):
        prune(tiny_model(tmp_path / "m"), tmp_path / "out", criterion="wanda")


def sensitivities(path: Path, costly: str, **more) -> list[dict]:
    layers = prunable_layers(outline(path).module)
    return [
        {
            "layer": layer.name,
            "amount": amount,
            "delta": amount**2 * (10.0 if layer.name == costly else 0.1),
            "stderr": 0.01,
            "parameters": layer.parameters,
            **more,
        }
        for layer in layers
        for amount in (0.2, 0.4, 0.6, 0.8)
    ]


def test_allocation_by_sensitivity_spares_the_costly_layer_and_meets_the_budget_exactly(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    inputs = {"sensitivity": sensitivities(path, "layers.0", criterion="magnitude", pattern="unstructured")}
    product = prune(path, tmp_path / "out", None, inputs, amount=0.25, allocation="sensitivity")
    found = rows(product)
    assert found["layers.0"]["amount"] < found["layers.1"]["amount"]
    total = sum(row["parameters"] for row in found.values())
    assert sum(row["pruned_parameters"] for row in found.values()) == pruned_count(0.25, total)


def test_sensitivities_of_another_criterion_or_model_are_refused(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    other = {"sensitivity": sensitivities(path, "layers.0", criterion="wanda")}
    with pytest.raises(BadInput, match="measured with criterion wanda"):
        prune(path, tmp_path / "a", None, other, allocation="sensitivity")
    with pytest.raises(BadInput, match="no measured sensitivity"):
        prune(path, tmp_path / "b", None, {}, allocation="sensitivity")
    changed = {"sensitivity": [{**row, "parameters": 3} for row in sensitivities(path, "layers.0")]}
    with pytest.raises(BadInput, match="had 3"):
        prune(path, tmp_path / "c", None, changed, allocation="sensitivity")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"amount": 1.5}, "share from 0 to 1"),
        ({"amount": None}, "share from 0 to 1"),
        ({"pattern": "4:2"}, "no pattern"),
        ({"pattern": "2:4", "amount": 0.3}, "prunes 0.5 of every layer"),
        ({"pattern": "2:4", "allocation": "sensitivity"}, "prunes 0.5 of every layer"),
        ({"pattern": "2:4", "scope": "row"}, "scope 'row'"),
        ({"scope": "column"}, "scope 'column'"),
        ({"criterion": "chance"}, "'chance' is unknown"),
        ({"allocation": "magic"}, "'magic' is unknown"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(tmp_path, tiny_model, params, reason):
    with pytest.raises(BadInput) as caught:
        prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out", **params)
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["layers.1.weight", "layers.1.bias"])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, tiny_model, name):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(BadInput, match="1 of") as caught:
        prune(path, tmp_path / "out")
    assert caught.value.tensor == name


def test_sharded_models_keep_their_shards(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    whole = prune(path, tmp_path / "whole")
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    listing = {}
    for index, name in enumerate(sorted(tensors)):
        shard = f"model-{index + 1:05}-of-{len(tensors):05}.safetensors"
        save_file({name: tensors[name]}, path / shard)
        listing[name] = shard
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    sharded = prune(path, tmp_path / "sharded")
    assert sharded.tables["layers"] == whole.tables["layers"]
    assert {p.name for p in (tmp_path / "sharded").iterdir()} == {p.name for p in path.iterdir()} | {MARK}
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, shard in listing.items():
        assert torch.equal(load_file(tmp_path / "sharded" / shard)[name], expected[name])


def test_tied_weights_are_pruned_and_counted_once(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", config={"tie_word_embeddings": True})
    product = prune(path, tmp_path / "out")
    module = load(tmp_path / "out").module
    assert product.tables["artifacts"][0]["parameters"] == sum(p.numel() for p in module.parameters())
    assert not any("embed" in name or "lm_head" in name for name in rows(product))
    before = load_file(path / "model.safetensors")
    assert torch.equal(module.model.embed_tokens.weight, before["model.embed_tokens.weight"])


def test_an_artifact_can_be_pruned_again(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    prune(path, tmp_path / "half", amount=0.5)
    product = prune(tmp_path / "half", tmp_path / "more", amount=0.75)
    straight = prune(path, tmp_path / "straight", amount=0.75)
    assert (
        product.tables["layers"][0]["pruned_parameters"] == straight.tables["layers"][0]["pruned_parameters"]
    )
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("more", "straight"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_fault_in_writing_is_found_before_anyone_sees_the_artifact(tmp_path, tiny_model, monkeypatch):
    import tasks.writing.changing

    def careless(layer, weight, mask):
        return [memoryview(weight.numpy().tobytes())]

    monkeypatch.setattr(tasks.writing.changing, "zeroed", careless)
    with pytest.raises(ArtifactWrong, match="zeros"):
        prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out")


def test_the_model_is_never_written_to(tmp_path, tiny_model, tiny_data):
    path = tiny_model(tmp_path / "m")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    prune(path, tmp_path / "out", {"calibration": calibration(tiny_data, tmp_path / "d")}, criterion="wanda")
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()} == before


def test_weights_at_the_edges_of_float32_have_a_true_reconstruction_error(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    for name, scale in (("layers.0.weight", 1e37), ("layers.1.weight", 1e-30)):
        tensors[name] = torch.linspace(0.1, 1.0, tensors[name].numel()).reshape(tensors[name].shape) * scale
    save_file(tensors, path / "model.safetensors")
    for name, row in rows(prune(path, tmp_path / "out", amount=0.5)).items():
        squares = tensors[f"{name}.weight"].double().square().reshape(-1).sort().values
        expected = float(squares[: row["pruned_parameters"]].sum() / squares.sum())
        assert row["reconstruction_error"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_scores_that_are_no_numbers_are_the_criterions_fault(tmp_path, tiny_model, monkeypatch, value):
    import tasks.masks.criteria

    broken = tasks.masks.criteria.Criterion(score=lambda weight, seen: torch.full_like(weight, float(value)))
    monkeypatch.setattr(tasks.masks.criteria, "CRITERIA", {"broken": broken})
    with pytest.raises(BadInput, match="broken gives NaN or infinity") as caught:
        prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out", criterion="broken")
    assert caught.value.tensor == "layers.0.weight"
