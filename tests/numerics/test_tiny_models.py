"""The models and data that other tests are made of: sound, repeatable, and no two alike by accident."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer

OF_TRANSFORMERS = (
    "LlamaForCausalLM",
    "GPT2LMHeadModel",
    "BertForSequenceClassification",
    "ViTForImageClassification",
    "ResNetForImageClassification",
)
ALL = (*OF_TRANSFORMERS, "MLPForClassification")


def load(directory: Path, architecture: str):
    model, report = getattr(transformers, architecture).from_pretrained(
        directory, output_loading_info=True, local_files_only=True
    )
    return model, {name: found for name, found in report.items() if found}


@pytest.mark.parametrize("architecture", OF_TRANSFORMERS)
def test_transformers_loads_every_tensor_and_misses_none(tiny_model, tmp_path, architecture):
    _, report = load(tiny_model(tmp_path, architecture), architecture)
    assert report == {}


@pytest.mark.parametrize("architecture", ALL)
def test_the_same_arguments_give_the_same_bytes(tiny_model, tmp_path, architecture):
    for name in ("a", "b"):
        tiny_model(tmp_path / name, architecture, seed=5)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


@pytest.mark.parametrize("architecture", ALL)
def test_another_seed_gives_other_weights(tiny_model, tmp_path, architecture):
    weights = [
        (tiny_model(tmp_path / str(seed), architecture, seed=seed) / "model.safetensors").read_bytes()
        for seed in (0, 1)
    ]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_stored_in_the_type_asked_for(tiny_model, tmp_path, dtype):
    directory = tiny_model(tmp_path, dtype=dtype)
    kinds = {tensor.dtype for tensor in load_file(directory / "model.safetensors").values()}
    assert kinds == {getattr(torch, dtype)}
    assert json.loads((directory / "config.json").read_text())["dtype"] == dtype


def test_tied_embeddings_are_stored_once(tiny_model, tmp_path):
    directory = tiny_model(tmp_path, config={"tie_word_embeddings": True})
    assert "lm_head.weight" not in load_file(directory / "model.safetensors")
    model, report = load(directory, "LlamaForCausalLM")
    assert report == {}
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_key_of_the_config_can_be_set(tiny_model, tmp_path):
    directory = tiny_model(tmp_path, "MLPForClassification", config={"hidden_sizes": [7]})
    assert load_file(directory / "model.safetensors")["layers.0.weight"].shape == (7, 64)


def test_making_a_model_leaves_the_random_numbers_of_a_test_alone(tiny_model, tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny_model(tmp_path)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("text", ["", "abc", "naïve ☃\n\t", "<pad><", "\x00\x7f"])
def test_the_tokenizer_is_one_token_a_byte_after_the_start(tiny_model, tmp_path, text):
    tokenizer = Tokenizer.from_file(str(tiny_model(tmp_path) / "tokenizer.json"))
    ids = tokenizer.encode(text).ids
    expected = [256, ord("<")] if text == "<pad><" else list(text.encode())
    assert ids == [257, *expected]


def test_transformers_reads_the_tokenizer_alike(tiny_model, tmp_path):
    directory = tiny_model(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    assert tokenizer("a\xe9")["input_ids"] == [257, 97, 195, 169]
    assert tokenizer.pad_token_id == 256
    assert tokenizer.decode([257, 97, 195, 169], skip_special_tokens=True) == "a\xe9"


def test_pruning_a_tiny_model_changes_what_it_says(tiny_model, tmp_path):
    model, _ = load(tiny_model(tmp_path), "LlamaForCausalLM")
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        model.model.layers[0].mlp.up_proj.weight.mul_(0)
        assert (model(input_ids=tokens).logits - before).abs().max() > 1e-3


def test_data_has_two_splits_of_the_size_asked_for(tiny_data, tmp_path):
    files = tiny_data(tmp_path, examples=5)
    for name in ("text", "sections"):
        rows = [json.loads(line) for line in files[name].read_text().splitlines()]
        assert [row["split"] for row in rows] == ["calibration"] * 5 + ["test"] * 5
    table = pq.read_table(files["arrays"])
    assert table["split"].to_pylist() == ["calibration"] * 5 + ["test"] * 5
    assert {len(inputs) for inputs in table["inputs"].to_pylist()} == {64}


def test_labels_are_those_of_the_tiny_models(tiny_data, tiny_model, tmp_path):
    files = tiny_data(tmp_path / "data")
    config = json.loads(
        (tiny_model(tmp_path / "model", "BertForSequenceClassification") / "config.json").read_text()
    )
    labels = {json.loads(line)["label"] for line in files["sections"].read_text().splitlines()}
    assert labels == set(config["label2id"])
    assert set(pq.read_table(files["arrays"])["label"].to_pylist()) == set(range(10))


def test_data_is_the_same_for_the_same_seed(tiny_data, tmp_path):
    first, second = tiny_data(tmp_path / "a"), tiny_data(tmp_path / "b")
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)


def test_texts_fit_the_context_of_the_tiny_models(tiny_data, tmp_path):
    lines = tiny_data(tmp_path)["text"].read_text().splitlines()
    assert max(len(json.loads(line)["text"]) for line in lines) < 128
