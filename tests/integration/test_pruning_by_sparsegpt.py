"""SparseGPT end to end: what is written, what is said of it, and that its trials are what the prune task writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from cases.architectures import KINDS
from safetensors.torch import load_file, save_file

from tasks import evaluation, pruning, sensitivity
from tasks.contract import BadInput, Dataset, Product, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import Layer, load, outline, prunable_layers, rows_of
from tasks.masks.patterns import pruned_count
from tasks.masks.reconstruct import NotPositive
from tasks.masks.selection import Selection, without_groups
from tasks.statistics import hessians
from tasks.writing import sweeping
from tasks.writing.recount import ArtifactWrong


@pytest.fixture
def calibration(tmp_path, tiny_data):
    """Architecture -> the data that its tiny model reads."""
    files = tiny_data(tmp_path / "data")

    def of(architecture: str) -> Dataset:
        name, kind, shape = KINDS[architecture]
        return Dataset(path=files[name], kind=kind, split="calibration", shape=shape)

    return of


def prune(model: Path, output: Path, data: Dataset, **params) -> Product:
    output.mkdir()
    defaults = {"criterion": "sparsegpt", "pattern": "unstructured", "scope": None, "amount": 0.5}
    defaults |= {"allocation": "uniform", "max_amount": 0.95, "skip": []}
    work = Work(model=model, params=defaults | params, datasets={"calibration": data}, output=output)
    return pruning.run(work)


def rows(product: Product) -> dict[str, dict]:
    return {row["layer"]: dict(row) for row in product.tables["layers"]}


@pytest.mark.parametrize("architecture", KINDS)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_counts_are_exact_errors_are_real_and_all_else_is_as_it_was(
    tmp_path, tiny_model, calibration, architecture, pattern
):
    path = tiny_model(tmp_path / "m", architecture)
    data = calibration(architecture)
    product = prune(path, tmp_path / "out", data, pattern=pattern)
    model = load(path)
    before, after = (load_file(at / "model.safetensors") for at in (path, tmp_path / "out"))
    layers = {layer.weight: layer for layer in prunable_layers(model.module)}
    found = rows(product)
    skipped = {finding.subject for finding in product.findings if finding.kind == "skipped_layer"}
    matrices = hessians.hessians(model, list(layers.values()), fit(read(data), model))
    for name, tensor in before.items():
        if name not in layers or layers[name].name in skipped:
            assert torch.equal(after[name], tensor)
            continue
        layer = layers[name]
        old, new = rows_of(layer, tensor), rows_of(layer, after[name])
        zeros = int((new == 0).sum())
        assert zeros == found[layer.name]["pruned_parameters"] == pruned_count(0.5, layer.parameters)
        is_free = (
            found[layer.name]["reconstruction_error"] == 0
        )  # dead inputs are enough, as at a kernel's rim
        assert torch.equal(old[new != 0], new[new != 0]) == is_free, "what stays makes up for what goes"
        if pattern == "2:4":
            assert int((new != 0).reshape(-1, 4).sum(dim=1).max()) <= 2
        h = matrices.of(layer).double()
        lost, total = (((part.double() @ h) * part.double()).sum() for part in (old - new, old))
        assert found[layer.name]["reconstruction_error"] == pytest.approx(
            float(lost / total), rel=1e-3, abs=1e-6
        )
    load(tmp_path / "out")


def test_half_precision_stays_half_precision(tmp_path, tiny_model, calibration):
    path = tiny_model(tmp_path / "m", dtype="bfloat16")
    prune(path, tmp_path / "out", calibration("LlamaForCausalLM"), scope="row")
    before, after = (load_file(at / "model.safetensors") for at in (path, tmp_path / "out"))
    assert {name: tensor.dtype for name, tensor in before.items()} == {
        name: tensor.dtype for name, tensor in after.items()
    }


def test_the_same_work_gives_the_same_bytes_however_little_is_held(
    tmp_path, tiny_model, calibration, monkeypatch
):
    path, data = tiny_model(tmp_path / "m"), calibration("LlamaForCausalLM")
    once = prune(path, tmp_path / "once", data)
    assert not [finding for finding in once.findings if finding.kind == "calibration_passes"]
    gathered = hessians.hessians
    monkeypatch.setattr(sweeping, "hessians", lambda *given: gathered(*given, limit=4 * 32**2))
    often = prune(path, tmp_path / "often", data)
    (finding,) = [finding for finding in often.findings if finding.kind == "calibration_passes"]
    num_passes = int(finding.message.split()[0])
    assert 1 < num_passes < len(once.tables["layers"])
    assert once.tables["layers"] == often.tables["layers"]
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "often"))
    assert one == other


def test_dead_inputs_are_said_and_their_weights_are_among_those_that_go(tmp_path, tiny_model, calibration):
    path = tiny_model(tmp_path / "m", "MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors["layers.0.weight"][:5], tensors["layers.0.bias"][:5] = 0, -1
    save_file(tensors, path / "model.safetensors")
    product = prune(path, tmp_path / "out", calibration("MLPForClassification"))
    assert "layers.1" in {f.subject for f in product.findings if f.kind == "dead_input"}
    assert not load_file(tmp_path / "out" / "model.safetensors")["layers.1.weight"][:, :5].any()
    assert rows(product)["layers.1"]["pruned_parameters"] == 256


def test_convolutions_in_groups_are_left_alone_by_name():
    plain = Layer(name="a", weight="a.weight", shape=(4, 4), parameters=16, outputs=4, inputs=4)
    grouped = Layer(name="b", weight="b.weight", shape=(4, 1, 1), parameters=4, outputs=4, inputs=4, groups=4)
    found = without_groups(Selection(layers=(plain, grouped), findings=()))
    assert found.layers == (plain,)
    assert [(f.kind, f.subject) for f in found.findings] == [("skipped_layer", "b")]
    with pytest.raises(BadInput, match="nothing to prune"):
        without_groups(Selection(layers=(grouped,), findings=()))


def test_a_hessian_without_a_factor_is_refused_by_name(tmp_path, tiny_model, calibration, monkeypatch):
    def never(hessian):
        raise NotPositive("not even with a hundred")

    monkeypatch.setattr(sweeping, "factor_of", never)
    with pytest.raises(BadInput, match="not even with a hundred") as caught:
        prune(
            tiny_model(tmp_path / "m", "MLPForClassification"),
            tmp_path / "out",
            calibration("MLPForClassification"),
        )
    assert caught.value.tensor == "layers.0.weight"


def test_other_bytes_than_were_meant_are_found(tmp_path, tiny_model, calibration, monkeypatch):
    monkeypatch.setattr(sweeping, "digest_of", lambda tensor: "0")
    with pytest.raises(ArtifactWrong, match="other bytes"):
        prune(
            tiny_model(tmp_path / "m", "MLPForClassification"),
            tmp_path / "out",
            calibration("MLPForClassification"),
        )


def test_calibration_data_is_needed(tmp_path, tiny_model):
    (tmp_path / "out").mkdir()
    params = {"criterion": "sparsegpt", "pattern": "2:4", "amount": None}
    with pytest.raises(BadInput, match="no calibration data"):
        pruning.run(Work(model=tiny_model(tmp_path / "m"), params=params, output=tmp_path / "out"))


def test_a_trial_loses_what_the_model_with_that_layer_written_loses(tmp_path, tiny_model, calibration):
    path, data = tiny_model(tmp_path / "m", "MLPForClassification"), calibration("MLPForClassification")
    params = {"criterion": "sparsegpt", "pattern": "unstructured", "scope": "row", "skip": [], "grid": [0.6]}
    work = Work(model=path, params=params, datasets={"calibration": data})
    tried = {row["layer"]: row for row in sensitivity.run(work).tables["sensitivity"]}
    names = [layer.name for layer in prunable_layers(outline(path).module)]
    for name in names:
        others = [other for other in names if other != name]
        prune(path, tmp_path / name, data, amount=0.6, scope="row", skip=others)
        outcomes = evaluation.run(
            Work(model=tmp_path / name, params={}, datasets={"evaluation": data})
        ).tables["outcomes"]
        loss = sum(row["loss"] for row in outcomes) / len(outcomes)
        assert tried[name]["value"] == pytest.approx(loss, rel=1e-5)


def test_half_of_a_trained_model_costs_no_more_than_with_wanda(zoo, tmp_path):
    data = zoo / "data/manual.jsonl"
    calibration, test = (Dataset(path=data, kind="text", split=split) for split in ("calibration", "test"))

    def perplexity(**params) -> float:
        output = tmp_path / params["criterion"]
        prune(zoo / "models/byte-llama-s/1", output, calibration, **params)
        work = Work(model=output, params={}, datasets={"evaluation": test})
        outcomes = evaluation.run(work).tables["outcomes"]
        return math.exp(sum(row["loss"] for row in outcomes) / sum(row["tokens"] for row in outcomes))

    wanda = perplexity(criterion="wanda", scope="row")
    assert perplexity(criterion="sparsegpt", scope="tensor") <= wanda
    assert wanda < perplexity(criterion="magnitude", scope="tensor")
