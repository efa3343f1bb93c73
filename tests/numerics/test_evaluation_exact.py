"""Effects. Losses, predictions and probabilities against transformers' own models and plain numpy, example by example."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from orchestrator.tables.schemas import result_table, rows_of
from tasks import evaluation
from tasks.contract import BadInput, Dataset, Work
from tasks.examples import batches as batching
from tasks.examples.batches import batches
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.architectures import ARCHITECTURES
from tasks.loading.models import load
from tasks.measuring import tokenlosses

LANGUAGE_MODELS = ("LlamaForCausalLM", "GPT2LMHeadModel")
CLASSIFIERS = (
    "BertForSequenceClassification",
    "ViTForImageClassification",
    "ResNetForImageClassification",
    "MLPForClassification",
)
IMAGES = ("ViTForImageClassification", "ResNetForImageClassification")


@pytest.fixture
def evaluate(tmp_path, tiny_model, tiny_data):
    """Architecture -> the work of evaluating its tiny model on tiny data."""

    def make(architecture: str, dtype: str = "float32", config: Any = None, **others: Any) -> Work:
        files = tiny_data(tmp_path / "data")
        model = tiny_model(tmp_path / architecture, architecture, dtype=dtype, config=config)
        return Work(
            model=model, params={}, datasets={"evaluation": dataset_of(files, architecture, **others)}
        )

    return make


def dataset_of(files: dict[str, Path], architecture: str, **others: Any) -> Dataset:
    if architecture in LANGUAGE_MODELS:
        return Dataset(path=files["text"], kind="text", split="test", **{"slices": ("topic",), **others})
    if architecture.startswith("Bert"):
        return Dataset(path=files["sections"], kind="text", split="test", **others)
    shape = (1, 8, 8) if architecture in IMAGES else ()
    return Dataset(path=files["arrays"], kind="arrays", split="test", shape=shape, **others)


def outcomes(work: Work) -> Sequence[Any]:
    return evaluation.run(work).tables["outcomes"]


def reference(directory: Path, architecture: str) -> Any:
    """The model as its users load it: with transformers from the directory, our own by its class."""
    if architecture in ARCHITECTURES:
        module = ARCHITECTURES[architecture].build(json.loads((directory / "config.json").read_text()))
        module.load_state_dict(load_file(directory / "model.safetensors"))
        return module.eval()
    return getattr(transformers, architecture).from_pretrained(directory).eval()


def logits_one_by_one(work: Work, architecture: str) -> list[np.ndarray]:
    """Logits of each example alone, without padding or mask, in float64."""
    module = reference(work.model, architecture)
    dataset = work.datasets["evaluation"]
    with torch.no_grad():
        if dataset.kind == "text":
            given = [torch.tensor([ids]) for ids in tokens_of(dataset)]
            return [module(input_ids=ids).logits[0].double().numpy() for ids in given]
        rows = [row for row in pq.read_table(dataset.path).to_pylist() if row["split"] == dataset.split]
        arrays = [torch.tensor(row["inputs"]).reshape(1, *(dataset.shape or [64])) for row in rows]
        if architecture in IMAGES:
            return [module(pixel_values=array).logits[0].double().numpy() for array in arrays]
        return [module(array)[0].double().numpy() for array in arrays]


def tokens_of(dataset: Dataset) -> list[list[int]]:
    rows = [json.loads(line) for line in dataset.path.read_text().splitlines()]
    return [[257, *row["text"].encode()] for row in rows if row["split"] == dataset.split]


def negative_log_likelihood(logits: np.ndarray, target: int) -> float:
    highest = logits.max()
    return float(highest + math.log(np.exp(logits - highest).sum()) - logits[target])


@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
def test_a_text_s_loss_is_the_sum_over_the_tokens_behind_its_first(evaluate, architecture):
    work = evaluate(architecture)
    texts = tokens_of(work.datasets["evaluation"])
    rows = outcomes(work)
    assert len(rows) == len(texts) == 12
    for row, ids, logits in zip(rows, texts, logits_one_by_one(work, architecture), strict=True):
        expected = sum(
            negative_log_likelihood(logits[place], ids[place + 1]) for place in range(len(ids) - 1)
        )
        assert row["loss"] == pytest.approx(expected, rel=2e-6)
        assert row["tokens"] == len(ids) - 1
        assert (
            row.get("label")
            is row.get("prediction")
            is row.get("correct")
            is row.get("probabilities")
            is None
        )


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_a_classifier_s_rows_follow_from_its_logits(evaluate, architecture):
    work = evaluate(architecture)
    examples = read(work.datasets["evaluation"]).members
    names = {"alpha": 0, "beta": 1, "gamma": 2}
    for row, example, logits in zip(
        outcomes(work), examples, logits_one_by_one(work, architecture), strict=True
    ):
        label = names.get(str(example.label), example.label)
        chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert row["label"] == label
        assert row["loss"] == pytest.approx(negative_log_likelihood(logits, label), rel=1e-5, abs=1e-6)
        assert row["tokens"] == 1
        assert row["prediction"] == logits.argmax()
        assert row["correct"] == (logits.argmax() == label)
        np.testing.assert_allclose(row["probabilities"], chances, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("architecture", LANGUAGE_MODELS)
def test_the_mean_loss_is_the_one_transformers_itself_reports(evaluate, architecture):
    work = evaluate(architecture)
    module = reference(work.model, architecture)
    with torch.no_grad():
        for row, ids in zip(outcomes(work), tokens_of(work.datasets["evaluation"]), strict=True):
            tensor = torch.tensor([ids])
            expected = float(module(input_ids=tensor, labels=tensor).loss)
            assert row["loss"] / row["tokens"] == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("architecture", [*LANGUAGE_MODELS, *CLASSIFIERS])
def test_the_size_of_a_batch_does_not_matter(evaluate, monkeypatch, architecture):
    work = evaluate(architecture)
    together = outcomes(work)
    monkeypatch.setattr(batching, "BATCH_TOKENS", 1)
    alone = outcomes(work)
    for one, other in zip(together, alone, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-6)
        assert {**one, "loss": 0, "probabilities": 0} == {**other, "loss": 0, "probabilities": 0}


@pytest.mark.parametrize("architecture", [*LANGUAGE_MODELS, *CLASSIFIERS])
def test_the_same_work_gives_the_same_rows_to_the_last_bit(evaluate, architecture):
    work = evaluate(architecture)
    assert outcomes(work) == outcomes(work)


def test_the_logits_of_long_texts_are_scored_piece_by_piece_with_the_same_result(evaluate, monkeypatch):
    work = evaluate("LlamaForCausalLM")
    whole = outcomes(work)
    for rows_at_a_time in (1, 7, 100):
        monkeypatch.setattr(tokenlosses, "_LOGIT_ROWS", rows_at_a_time)
        for one, other in zip(whole, outcomes(work), strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLM", "BertForSequenceClassification", "ViTForImageClassification"]
)
def test_a_bfloat16_model_loses_little_against_float32_and_is_scored_in_float32(evaluate, architecture):
    full = outcomes(evaluate(architecture))
    half = evaluate(architecture, "bfloat16")
    rows = outcomes(half)
    for one, other in zip(full, rows, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.05, abs=0.05)
    model = load(half.model)
    batch = next(batches(fit(read(half.datasets["evaluation"]), model), model))
    assert evaluation.score(model, batch).losses.dtype == torch.float64
    losses = [row["loss"] for row in rows]
    assert losses != [float(torch.tensor(loss, dtype=torch.bfloat16)) for loss in losses]


def test_examples_keep_their_numbers_and_slices_in_file_order(evaluate, tmp_path):
    work = evaluate("LlamaForCausalLM")
    rows = outcomes(work)
    assert [row["example"] for row in rows] == list(range(12))
    assert {row["slices"]["topic"] for row in rows} == {"alpha", "beta", "gamma"}
    lines = [json.loads(line) for line in work.datasets["evaluation"].path.read_text().splitlines()]
    assert [row["slices"]["topic"] for row in rows] == [
        line["topic"] for line in lines if line["split"] == "test"
    ]


def test_a_text_left_out_leaves_a_gap_in_the_numbers_and_a_finding(evaluate, tmp_path):
    work = evaluate("LlamaForCausalLM")
    file = tmp_path / "gap.jsonl"
    file.write_text('{"text": "abc"}\n{"text": ""}\n{"text": "defghi"}\n')
    product = evaluation.run(
        Work(
            model=work.model, params={}, datasets={"evaluation": Dataset(path=file, kind="text", split="all")}
        )
    )
    assert [row["example"] for row in product.tables["outcomes"]] == [0, 2]
    assert [finding.kind for finding in product.findings] == ["skipped_examples"]


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_lengths_are_told_where_they_are_asked_for(evaluate, architecture):
    work = evaluate(architecture)
    lengths = [len(ids) for ids in tokens_of(work.datasets["evaluation"])]
    asked = outcomes(replace(work, params={"lengths": True}))
    assert [row["length"] for row in asked] == lengths
    plain = outcomes(work)
    assert all("length" not in row for row in plain)
    assert [{**row, "length": 0} for row in plain] == [{**row, "length": 0} for row in asked]


def test_many_labels_come_without_probabilities(evaluate, monkeypatch):
    work = evaluate("MLPForClassification", config={"num_labels": 65})
    assert all("probabilities" not in row and row["prediction"] < 65 for row in outcomes(work))
    work = evaluate("MLPForClassification", config={"num_labels": 64})
    assert all(len(row["probabilities"]) == 64 for row in outcomes(work))


def broken_copy(work: Work, name: str, change: Any) -> None:
    """Rewrites one tensor of the model; the values stay finite, so that it loads."""
    file = work.model / "model.safetensors"
    tensors = load_file(file)
    change(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_loss_that_is_not_finite_becomes_null_and_a_finding(evaluate):
    work = evaluate("MLPForClassification")
    broken_copy(work, "layers.2.weight", lambda weight: weight.fill_(3e38))
    broken_copy(work, "layers.0.bias", lambda bias: bias.fill_(3e38))
    product = evaluation.run(work)
    rows = product.tables["outcomes"]
    assert all(row["loss"] is None for row in rows)
    (finding,) = product.findings
    assert finding.kind == "non_finite_loss"
    assert finding.subject == "arrays.parquet"
    assert "12 of 12 examples" in finding.message


def test_logits_that_are_no_numbers_predict_nothing(evaluate):
    work = evaluate("MLPForClassification")
    model = load(work.model)
    model.module.register_forward_hook(lambda module, given, logits: logits * float("nan"))
    for row in outcomes(work):
        assert row["loss"] is None
        assert row["label"] in range(10)
        assert row.get("prediction") is row.get("correct") is row.get("probabilities") is None


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_the_rows_fit_the_results_schema(evaluate, architecture):
    product = evaluation.run(evaluate(architecture))
    table = result_table("evaluate", product.tables)
    back = rows_of(table, "outcomes")
    assert len(back) == 12
    assert back[0]["slices"] == product.tables["outcomes"][0]["slices"]
    assert back[0]["loss"] == product.tables["outcomes"][0]["loss"]


def test_a_dataset_that_does_not_fit_is_refused(evaluate, tiny_data, tmp_path):
    work = evaluate("LlamaForCausalLM")
    wrong = dataset_of(tiny_data(tmp_path / "data"), "MLPForClassification")
    with pytest.raises(BadInput, match="reads text"):
        evaluation.run(Work(model=work.model, params={}, datasets={"evaluation": wrong}))
