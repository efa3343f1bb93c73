"""Biases after a cut take up what the units that went gave on average: against plain sums over the examples."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tasks import pruning
from tasks.contract import Dataset, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load, load_afresh
from tasks.recovering.recovery import split

FILES = {
    "GPT2LMHeadModel": ("text", "text", ()),
    "LlamaForCausalLM": ("text", "text", ()),
    "BertForSequenceClassification": ("sections", "text", ()),
    "ViTForImageClassification": ("arrays", "arrays", (1, 8, 8)),
}
READER = {
    "GPT2LMHeadModel": ("transformer.h.{}.mlp.c_proj", "transformer.h.{}.mlp.c_fc"),
    "BertForSequenceClassification": (
        "bert.encoder.layer.{}.output.dense",
        "bert.encoder.layer.{}.intermediate.dense",
    ),
    "ViTForImageClassification": ("vit.layers.{}.mlp.fc2", "vit.layers.{}.mlp.fc1"),
}


@pytest.fixture
def recovered(tmp_path, tiny_model, tiny_data, monkeypatch):
    """Architecture, cut -> (product, the artifact's directory, dense model, its calibration examples)."""

    def recovered(architecture, cut, config=None, always=True):
        if always:  # untrained models have no loss worth recovering: the step is kept whatever it does to it
            monkeypatch.setattr("tasks.recovering.recovery._measure_of", lambda *_: iter([1.0, 0.0]).__next__)
        name, kind, shape = FILES[architecture]
        path = tiny_model(tmp_path / "model", architecture, config=config)
        data = Dataset(path=tiny_data(tmp_path / "data")[name], kind=kind, split="calibration", shape=shape)
        out = tmp_path / "out"
        out.mkdir()
        params = {"criterion": "magnitude", "cut": cut, "recover": {"bias": True}}
        product = pruning.run(Work(model=path, params=params, datasets={"calibration": data}, output=out))
        dense = load_afresh(path)
        return product, out, dense, fit(read(data), dense)

    return recovered


def inputs_of(dense, layers, items):
    """Every vector that these modules see, example after example."""
    seen = {name: [] for name in layers}
    handles = [
        dense.module.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen[name].append(given[0].detach().double().flatten(0, -2))
        )
        for name in layers
    ]
    with torch.no_grad():
        for item in items:
            content = torch.as_tensor(item.content)[None]
            dense.module(**{"pixel_values" if content.is_floating_point() else "input_ids": content})
    for handle in handles:
        handle.remove()
    return {name: torch.cat(vectors) for name, vectors in seen.items()}


@pytest.mark.parametrize("architecture", READER)
def test_a_bias_grows_by_the_removed_columns_times_the_mean_of_what_they_saw(recovered, architecture):
    product, out, dense, fitted = recovered(architecture, {"width": 0.5})
    small = load(out).module
    reader, writer = READER[architecture]
    names = [reader.format(block) for block in range(2)]
    means = {
        name: vectors.mean(0) for name, vectors in inputs_of(dense, names, split(fitted)[0].items).items()
    }
    for block, name in enumerate(names):
        before, after = dense.module.get_submodule(name), small.get_submodule(name)
        columns = before.weight.double() if architecture.startswith("GPT2") else before.weight.double().t()
        kept = after.weight.double() if architecture.startswith("GPT2") else after.weight.double().t()
        gone = [unit for unit in range(len(columns)) if not (columns[unit] == kept).all(1).any()]
        assert len(gone) == len(columns) // 2
        expected = before.bias.double() + means[name][gone] @ columns[gone]
        torch.testing.assert_close(after.bias.double(), expected, atol=1e-5, rtol=1e-4)
        assert not torch.equal(after.bias, before.bias)
        assert len(small.get_submodule(writer.format(block)).bias) == len(columns) // 2
    (row,) = product.tables["recoveries"]
    assert (row["step"], row["kept"], row["tensors"]) == ("bias", True, 2)
    assert "no_bias" not in {finding.kind for finding in product.findings}


def test_blocks_that_stay_are_found_by_their_new_numbers(recovered):
    _, out, dense, fitted = recovered("GPT2LMHeadModel", {"width": 0.5, "depth": 0.34}, config={"n_layer": 3})
    old, new = list(dense.module.transformer.h), list(load(out).module.transformer.h)
    attention = [block.attn.c_attn.weight for block in old]
    kept = [
        next(at for at, weight in enumerate(attention) if torch.equal(weight, block.attn.c_attn.weight))
        for block in new
    ]
    assert len(kept) == 2
    for at, block in zip(kept, new, strict=True):
        name = f"transformer.h.{at}.mlp.c_proj"
        mean = inputs_of(dense, [name], split(fitted)[0].items)[name].mean(0)
        before, after = old[at].mlp.c_proj, block.mlp.c_proj
        gone = [unit for unit, row in enumerate(before.weight) if not (row == after.weight).all(1).any()]
        expected = before.bias.double() + mean[gone] @ before.weight.double()[gone]
        torch.testing.assert_close(after.bias.double(), expected, atol=1e-5, rtol=1e-4)


def test_readers_without_a_bias_are_named_and_one_with_a_bias_is_set(recovered):
    product, _, _, _ = recovered("LlamaForCausalLM", {"width": 0.5}, always=False)
    (finding,) = [finding for finding in product.findings if finding.kind == "no_bias"]
    assert "2 of 2 layers have no bias" in finding.message
    assert "model.layers.0.mlp.down_proj" in finding.message


def test_heads_are_read_by_the_output_of_attention(recovered):
    config = {"attention_bias": True, "num_attention_heads": 4, "num_key_value_heads": 2}
    product, out, dense, fitted = recovered("LlamaForCausalLM", {"heads": 0.5}, config=config)
    (row,) = product.tables["recoveries"]
    assert (row["kept"], row["tensors"]) == (True, 2)
    name = "model.layers.0.self_attn.o_proj"
    mean = inputs_of(dense, [name], split(fitted)[0].items)[name].mean(0)
    before, after = dense.module.get_submodule(name), load(out).module.get_submodule(name)
    halves = [slice(0, 8), slice(8, 16)]
    (gone,) = [half for half in halves if not torch.equal(before.weight[:, half], after.weight)]
    expected = before.bias.double() + before.weight.double()[:, gone] @ mean[gone]
    torch.testing.assert_close(after.bias.double(), expected, atol=1e-5, rtol=1e-4)


def test_what_does_not_help_is_undone(recovered, monkeypatch):
    monkeypatch.setattr("tasks.recovering.recovery._measure_of", lambda *_: iter([1.0, 2.0]).__next__)
    product, out, dense, _ = recovered("BertForSequenceClassification", {"width": 0.5}, always=False)
    (row,) = product.tables["recoveries"]
    assert not row["kept"]
    name = "bert.encoder.layer.0.output.dense.bias"
    assert torch.equal(load_file(out / "model.safetensors")[name], dense.module.state_dict()[name])


def test_a_trained_classifier_wins_back_some_of_what_a_cut_cost(zoo, tmp_path):
    file = zoo / "data" / "digits_images.parquet"
    data = Dataset(path=file, kind="arrays", split="calibration", shape=(1, 16, 16))
    params = {"criterion": "wanda", "cut": {"width": 0.5}, "recover": {"bias": True}}
    model = zoo / "models" / "digit-vit" / "1"
    product = pruning.run(Work(model=model, params=params, datasets={"calibration": data}, output=tmp_path))
    (row,) = product.tables["recoveries"]
    assert row["kept"]
    assert row["loss_after"] < row["loss_before"]
