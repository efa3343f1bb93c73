"""The prune task: exact zeros, artifacts that load, rows that say what was done."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from cases.architectures import ARCHITECTURES
from cases.calibrations import input_norms
from cases.prunings import calibration, kinds, prune, rows
from safetensors.torch import load_file, save_file

from orchestrator.tables.schemas import result_table
from tasks.contract import BadInput, Work
from tasks.loading.models import load, outline, prunable_layers, rows_of
from tasks.masks.patterns import mask_of, pruned_count
from tasks.pruning import run
from tasks.writing.accounts import MARK


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layer_has_exactly_the_asked_zeros_and_all_else_is_as_it_was(
    tmp_path, tiny_model, architecture, dtype
):
    path = tiny_model(tmp_path / "m", architecture, dtype=dtype)
    product = prune(path, tmp_path / "out", amount=0.3)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    layers = {layer.weight: layer for layer in prunable_layers(outline(path).module)}
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        if name not in layers:
            assert torch.equal(after[name], tensor)
            continue
        layer = layers[name]
        mask = mask_of(rows_of(layer, tensor.abs()), 0.3, "unstructured", "tensor")
        expected = tensor.clone()
        rows_of(layer, expected)[mask] = 0
        assert torch.equal(after[name], expected)
        assert not torch.signbit(after[name][after[name] == 0]).any()
        row = rows(product)[layer.name]
        assert (
            row["pruned_parameters"] == int((after[name] == 0).sum()) >= pruned_count(0.3, layer.parameters)
        )
        assert row["amount"] == row["pruned_parameters"] / layer.parameters
        assert row["amount_asked"] == 0.3
    assert set(rows(product)) == {layer.name for layer in layers.values()}
    assert product.has_artifact


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "unstructured"])
def test_artifacts_load_again_as_users_load_them(tmp_path, tiny_model, architecture, pattern):
    path = tiny_model(tmp_path / "m", architecture)
    prune(path, tmp_path / "out", pattern=pattern)
    module = load(tmp_path / "out").module
    if architecture != "MLPForClassification":
        reference = getattr(transformers, architecture).from_pretrained(tmp_path / "out")
        assert all(
            torch.equal(module.state_dict()[name], value) for name, value in reference.state_dict().items()
        )
    if pattern == "2:4":
        for layer in prunable_layers(module):
            if layer.inputs % 4 == 0:
                kept = (
                    (rows_of(layer, module.get_submodule(layer.name).weight) != 0).reshape(-1, 4).sum(dim=1)
                )
                assert int(kept.max()) <= 2


def test_other_files_go_along_unchanged_and_the_mark_tells_the_recipe(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    (path / "modeling_evil.py").write_text("raise SystemExit")
    product = prune(path, tmp_path / "out")
    assert (tmp_path / "out/config.json").read_bytes() == (path / "config.json").read_bytes()
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (path / "tokenizer.json").read_bytes()
    assert not (tmp_path / "out/modeling_evil.py").exists()
    assert "modeling_evil.py" in {finding.subject for finding in product.findings}
    mark = json.loads((tmp_path / "out" / MARK).read_text())
    assert mark["params"]["criterion"] == "magnitude"
    assert mark["layers"].keys() == rows(product).keys()
    assert mark["measures"]["nonzero_parameters"] == product.tables["artifacts"][0]["nonzero_parameters"]
    assert "sparsity_config" not in "".join(p.read_text() for p in (tmp_path / "out").glob("*.json"))


def test_the_same_work_gives_the_same_bytes(tmp_path, tiny_model, tiny_data):
    path = tiny_model(tmp_path / "m")
    data = {"calibration": calibration(tiny_data, tmp_path / "data")}
    for name in ("one", "two"):
        prune(path, tmp_path / name, data, criterion="wanda", scope="row")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_the_artifact_row_counts_what_is_on_disk(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    (artifact,) = prune(path, tmp_path / "out").tables["artifacts"]
    parameters = list(load(tmp_path / "out").module.parameters())
    assert artifact["parameters"] == artifact["dense_parameters"] == sum(p.numel() for p in parameters)
    assert artifact["nonzero_parameters"] == sum(int((p != 0).sum()) for p in parameters)
    assert artifact["bytes"] == (tmp_path / "out/model.safetensors").stat().st_size
    assert artifact["dense_bytes"] == (path / "model.safetensors").stat().st_size
    assert artifact["flops"] == artifact["dense_flops"] > 0
    assert artifact["runtime"] == "none"
    assert {"uri", "digest"}.isdisjoint(artifact)


def test_rows_fit_the_tables(tmp_path, tiny_model):
    product = prune(tiny_model(tmp_path / "m"), tmp_path / "out")
    found = result_table("prune", product.tables)
    assert found.num_rows == 15


def test_masks_alone_gain_nothing_and_that_is_said(tmp_path, tiny_model):
    product = prune(tiny_model(tmp_path / "m"), tmp_path / "out")
    (finding,) = [finding for finding in product.findings if finding.kind == "no_speedup"]
    assert "sparse but neither smaller nor faster" in finding.message


def test_amount_zero_changes_nothing_and_says_so(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m")
    product = prune(path, tmp_path / "out", amount=0.0)
    assert (tmp_path / "out/model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert kinds(product) == {"zero_effect"}
    assert all(row["reconstruction_error"] == 0 for row in rows(product).values())


def test_amount_one_leaves_nothing(tmp_path, tiny_model):
    product = prune(tiny_model(tmp_path / "m"), tmp_path / "out", amount=1.0)
    for row in rows(product).values():
        assert row["amount"] == row["reconstruction_error"] == 1.0


def test_an_amount_too_small_for_a_layer_says_so(tmp_path, tiny_model):
    product = prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out", amount=0.001)
    found = {finding.subject for finding in product.findings if finding.kind == "zero_effect"}
    assert found == {"layers.2"}  # 16 x 10 weights


def test_zeros_of_before_count_and_more_than_asked_is_said(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors["layers.0.weight"][:20] = 0
    save_file(tensors, path / "model.safetensors")
    product = prune(path, tmp_path / "out", amount=0.5)
    assert rows(product)["layers.0"]["pruned_parameters"] == 20 * 64
    assert [f.subject for f in product.findings if f.kind == "more_zeros"] == ["layers.0"]
    assert rows(product)["layers.1"]["pruned_parameters"] == 256


def test_skipped_layers_stay_as_they_are(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    product = prune(path, tmp_path / "out", skip=["layers.2"])
    assert set(rows(product)) == {"layers.0", "layers.1"}
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(before["layers.2.weight"], after["layers.2.weight"])
    with pytest.raises(BadInput, match="layers\\.9"):
        prune(path, tmp_path / "out2", skip=["layers.9"])


def test_reconstruction_error_of_magnitude_is_the_lost_share_of_squares(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    product = prune(path, tmp_path / "out", amount=0.4)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    for name, row in rows(product).items():
        lost = (before[f"{name}.weight"] - after[f"{name}.weight"]).double().square().sum()
        expected = float(lost / before[f"{name}.weight"].double().square().sum())
        assert row["reconstruction_error"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("LlamaForCausalLM", "text"),
        ("GPT2LMHeadModel", "text"),
        ("BertForSequenceClassification", "sections"),
        ("MLPForClassification", "arrays"),
    ],
)
@pytest.mark.parametrize(
    ("pattern", "scope"), [("unstructured", "row"), ("unstructured", "tensor"), ("2:4", None)]
)
def test_wanda_masks_by_weight_times_input_norm(
    tmp_path, tiny_model, tiny_data, architecture, kind, pattern, scope
):
    path = tiny_model(tmp_path / "m", architecture)
    data = calibration(tiny_data, tmp_path / "data", kind)
    params = {"pattern": pattern} if scope is None else {"scope": scope, "amount": 0.5}
    product = prune(path, tmp_path / "out", {"calibration": data}, criterion="wanda", **params)
    model = load(path)
    layers = prunable_layers(model.module)
    statistics = input_norms(model, layers, data)
    before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    for layer in layers:
        weight = rows_of(layer, before[layer.weight])
        score = weight.abs().float() * statistics.squares[layer.name].sqrt().float()
        mask = mask_of(score, 0.5, pattern, scope)
        assert torch.equal(rows_of(layer, after[layer.weight]), weight.masked_fill(mask, 0.0))
        lost = score.double().square()[mask].sum() / score.double().square().sum()
        assert rows(product)[layer.name]["reconstruction_error"] == pytest.approx(float(lost), rel=1e-5)


def test_dead_inputs_are_counted(tmp_path, tiny_model, tiny_data):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors["layers.0.weight"][:5], tensors["layers.0.bias"][:5] = 0, -1
    save_file(tensors, path / "model.safetensors")
    data = {"calibration": calibration(tiny_data, tmp_path / "data", "arrays")}
    product = prune(path, tmp_path / "out", data, criterion="wanda")
    messages = {f.subject: f.message for f in product.findings if f.kind == "dead_input"}
    dead = int(messages["layers.1"].split()[0])
    assert 5 <= dead < 32


def test_random_masks_come_from_the_seed_alone_and_cost_what_their_weights_weigh(tmp_path, tiny_model):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    params = {"criterion": "random", "pattern": "unstructured", "scope": "row", "amount": 0.5}
    written = {}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        (tmp_path / name).mkdir()
        product = run(Work(model=path, params=params, output=tmp_path / name, seed=seed))
        written[name] = load_file(tmp_path / name / "model.safetensors")
    before = load_file(path / "model.safetensors")
    for layer in prunable_layers(outline(path).module):
        one, again, other = (written[name][layer.weight] for name in ("a", "b", "c"))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert set((one == 0).sum(1).tolist()) == {layer.inputs // 2}
        lost = (before[layer.weight] - other).square().sum() / before[layer.weight].square().sum()
        assert rows(product)[layer.name]["reconstruction_error"] == pytest.approx(float(lost), rel=1e-5)
