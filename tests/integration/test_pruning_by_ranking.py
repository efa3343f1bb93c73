"""Scope model and blocks, end to end: what is written is what one ranking, or whole blocks, ask for."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks import pruning, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load, outline, prunable_layers, rows_of
from tasks.masks.criteria import CRITERIA, layer_score
from tasks.masks.patterns import mask_of, pruned_count
from tasks.statistics.gathering import gathered, statistics_for
from tasks.writing.recount import ArtifactWrong

DEFAULTS = {"criterion": "magnitude", "pattern": "unstructured", "scope": "model", "amount": 0.5, "skip": []}


def work_of(model, output, data=None, **params) -> Work:
    output.mkdir()
    params = {**DEFAULTS, "allocation": "uniform", "max_amount": 0.95, **params}
    return Work(model=model, params=params, datasets={"calibration": data} if data else {}, output=output)


@pytest.fixture
def text(tmp_path, tiny_data):
    return Dataset(path=tiny_data(tmp_path / "data")["text"], kind="text", split="calibration")


def scores_of(path, criterion: str, data) -> dict[str, torch.Tensor]:
    known, model = CRITERIA[criterion], load(path)
    layers = prunable_layers(model.module)
    seen_by = lambda layer: None  # noqa: E731
    if known.needs_data:
        fitted = fit(read(data), model)
        seen_by = gathered(known, statistics_for(known, model, layers, fitted), model, layers, fitted).of
    from tasks.masks.criteria import NOTHING

    return {
        layer.name: layer_score(
            known, layer, model.module.get_parameter(layer.weight), seen_by(layer) or NOTHING
        ).detach()
        for layer in layers
    }


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "taylor", "fisher"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_lowest_scores_of_the_whole_model_go(tmp_path, tiny_model, text, criterion, dtype):
    path = tiny_model(tmp_path / "m", "GPT2LMHeadModel", dtype=dtype)
    data = text if CRITERIA[criterion].needs_data else None
    product = pruning.run(work_of(path, tmp_path / "out", data, criterion=criterion, max_amount=1.0))
    scores = scores_of(path, criterion, text)
    flat = torch.cat([score.double().reshape(-1) for score in scores.values()])
    order = sorted(range(len(flat)), key=lambda at: (float(flat[at]), -at))
    gone = torch.zeros(len(flat), dtype=torch.bool)
    gone[order[: pruned_count(0.5, len(flat))]] = True
    written = load(tmp_path / "out").module
    dense = load_file(path / "model.safetensors")
    assert dense
    layers = prunable_layers(written)
    parts = gone.split([layer.parameters for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        rows = rows_of(layer, written.get_parameter(layer.weight))
        assert torch.equal(rows == 0, part.reshape(rows.shape)), layer.name
    rows = product.tables["layers"]
    assert sum(row["pruned_parameters"] for row in rows) == pruned_count(0.5, len(flat))
    assert len({row["amount"] for row in rows}) > 1


def test_no_layer_leaves_its_bounds_and_the_total_is_kept(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    product = pruning.run(work_of(path, tmp_path / "out", min_amount=0.48, max_amount=0.53))
    rows = product.tables["layers"]
    total = sum(row["parameters"] for row in rows)
    assert sum(row["pruned_parameters"] for row in rows) == pruned_count(0.5, total)
    for row in rows:
        assert (
            pruned_count(0.48, row["parameters"])
            <= row["pruned_parameters"]
            <= pruned_count(0.53, row["parameters"])
        )
    assert {row["amount"] for row in rows} != {0.5}


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"min_amount": 0.6}, "loses 0.6 to 0.95"),
        ({"max_amount": 0.4}, "loses 0 to 0.4"),
        ({"criterion": "sparsegpt"}, "scope cannot be model"),
        ({"pattern": "2:4", "amount": None}, "neither a pattern nor an allocation"),
        ({"allocation": "erk"}, "neither a pattern nor an allocation"),
        ({"scope": "tensor", "min_amount": 0.1}, "min_amount goes with scope model"),
        ({"scope": "tensor", "pattern": "block:4x4", "criterion": "sparsegpt"}, "not in blocks"),
    ],
)
def test_what_cannot_be_ranked_is_refused(tmp_path, tiny_model, params, why):
    with pytest.raises(BadInput, match=why):
        pruning.run(work_of(tiny_model(tmp_path / "m"), tmp_path / "out", **params))


def test_a_trial_of_one_layer_has_no_ranking_of_all(tmp_path, tiny_model, text):
    params = {**DEFAULTS, "grid": [0.5], "metric": "loss"}
    work = Work(model=tiny_model(tmp_path / "m"), params=params, datasets={"calibration": text})
    with pytest.raises(BadInput, match="ranks all layers at once"):
        sensitivity.run(work)


@pytest.mark.parametrize("allocation", ["erk", "owl"])
def test_an_allocation_by_density_keeps_its_lower_bound_and_the_total(tmp_path, tiny_model, text, allocation):
    path = tiny_model(tmp_path / "m")
    work = work_of(
        path, tmp_path / "out", text, scope="tensor", allocation=allocation, min_amount=0.4, max_amount=0.8
    )
    rows = pruning.run(work).tables["layers"]
    total = sum(row["parameters"] for row in rows)
    assert sum(row["pruned_parameters"] for row in rows) == pruned_count(0.5, total)
    assert all(row["pruned_parameters"] >= pruned_count(0.4, row["parameters"]) for row in rows)


# --- blocks


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "GPT2LMHeadModel", "ResNetForImageClassification"]
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_whole_blocks_of_outputs_and_inputs_go(tmp_path, tiny_model, architecture, dtype):
    path = tiny_model(tmp_path / "m", architecture, dtype=dtype)
    product = pruning.run(work_of(path, tmp_path / "out", pattern="block:4x8", scope="tensor", amount=0.3))
    dense, written = load(path).module.state_dict(), load(tmp_path / "out").module.state_dict()
    pruned = {row["layer"]: row for row in product.tables["layers"]}
    skipped = {f.subject: f.message for f in product.findings if f.kind == "skipped_layer"}
    layers = prunable_layers(outline(path).module)
    assert len(pruned) + len(skipped) == len(layers)
    for layer in layers:
        before, after = rows_of(layer, dense[layer.weight]), rows_of(layer, written[layer.weight])
        if layer.name in skipped:
            assert "block:4x8 does not divide" in skipped[layer.name]
            assert layer.outputs % 4 or layer.inputs % 8
            assert torch.equal(before, after)
            continue
        expected = before.masked_fill(mask_of(before.abs(), 0.3, "block:4x8", "tensor"), 0.0)
        assert torch.equal(after, expected)
        blocks = (after == 0).reshape(layer.outputs // 4, 4, -1, 8).all(3).all(1)
        assert int(blocks.sum()) == pruned_count(0.3, layer.parameters // 32)
    if architecture == "ResNetForImageClassification":
        assert skipped


def test_a_block_that_is_not_empty_is_found(tmp_path, tiny_model, monkeypatch):
    import tasks.writing.changing

    zeroed = tasks.writing.changing.zeroed
    monkeypatch.setattr(
        tasks.writing.changing,
        "zeroed",
        lambda layer, weight, mask: zeroed(layer, weight, mask.flip(1).roll(1, 1)),
    )
    path = tiny_model(tmp_path / "m", "MLPForClassification", config={"num_labels": 8})
    with pytest.raises(ArtifactWrong, match="empty blocks of 4 x 8 and was to have"):
        pruning.run(work_of(path, tmp_path / "out", pattern="block:4x8", scope="tensor"))


def test_two_of_four_on_a_transposed_weight_and_on_a_kernel_counts_inputs(tmp_path, tiny_model):
    for architecture in ("GPT2LMHeadModel", "ResNetForImageClassification"):
        path = tiny_model(tmp_path / architecture, architecture)
        output = tmp_path / f"{architecture}-out"
        product = pruning.run(work_of(path, output, pattern="2:4", scope=None, amount=None))
        written = load(output).module
        for layer in prunable_layers(written):
            if layer.name in {row["layer"] for row in product.tables["layers"]}:
                rows = rows_of(layer, written.get_parameter(layer.weight))
                assert set((rows != 0).reshape(-1, 4).sum(1).tolist()) == {2}


def test_weights_that_were_zero_before_count_as_the_lowest(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors["layers.1.weight"].zero_()
    save_file(tensors, path / "model.safetensors")
    rows = pruning.run(work_of(path, tmp_path / "out", amount=0.1, max_amount=1.0)).tables["layers"]
    asked = {row["layer"]: row["amount_asked"] for row in rows}
    total = sum(row["parameters"] for row in rows)
    assert asked["layers.0"] == asked["layers.2"] == 0.0
    assert asked["layers.1"] * 32 * 16 == pruned_count(0.1, total)
