"""The prune task end to end: what it writes loads as the model with exactly the asked zeros, and it says what it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from orchestrator.schemas import result_table
from tasks.accounts import MARK
from tasks.calibration import input_norms
from tasks.contract import BadInput, Dataset, Product, Work
from tasks.models import load, outline, prunable_layers, rows_of
from tasks.patterns import mask_of, pruned_count
from tasks.pruning import run
from tasks.recount import ArtifactWrong

ARCHITECTURES = (
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "BertForSequenceClassification",
    "ViTForImageClassification",
    "ResNetForImageClassification",
    "MLPForClassification",
)


def prune(model: Path, output: Path, datasets=None, inputs=None, **params) -> Product:
    output.mkdir()
    defaults = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": 0.5}
    defaults |= {"allocation": "uniform", "max_amount": 0.95, "skip": []}
    if ":" in params.get("pattern", ""):
        defaults |= {"scope": None, "amount": None}
    work = Work(
        model=model,
        params={**defaults, **params},
        datasets=datasets or {},
        inputs=inputs or {},
        output=output,
    )
    return run(work)


def rows(product: Product) -> dict[str, dict]:
    return {row["layer"]: dict(row) for row in product.tables["layers"]}


def kinds(product: Product) -> set[str]:
    return {finding.kind for finding in product.findings}


def calibration(tiny_data, directory: Path, kind: str = "text") -> Dataset:
    paths = tiny_data(directory)
    shape = (64,) if kind == "arrays" else ()
    return Dataset(
        path=paths[kind], kind="arrays" if kind == "arrays" else "text", split="calibration", shape=shape
    )


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
    import tasks.changing

    def careless(layer, weight, mask):
        return [memoryview(weight.numpy().tobytes())]

    monkeypatch.setattr(tasks.changing, "zeroed", careless)
    with pytest.raises(ArtifactWrong, match="zeros"):
        prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out")


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
    import tasks.criteria

    broken = tasks.criteria.Criterion(score=lambda weight, seen: torch.full_like(weight, float(value)))
    monkeypatch.setattr(tasks.criteria, "CRITERIA", {"broken": broken})
    with pytest.raises(BadInput, match="broken gives NaN or infinity") as caught:
        prune(tiny_model(tmp_path / "m", "MLPForClassification"), tmp_path / "out", criterion="broken")
    assert caught.value.tensor == "layers.0.weight"
