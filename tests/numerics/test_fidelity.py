"""Effects. Agreement and KL divergence against plain numpy on every token, with labels, without, and for broken models."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.gate import judging
from orchestrator.tables.schemas import result_table, rows_of
from tasks import evaluation, pruning
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load
from tasks.measuring import fidelity

FREE = {"fidelity": True}
FILES = {
    "LlamaForCausalLM": ("text", "text", ()),
    "GPT2LMHeadModel": ("text", "text", ()),
    "BertForSequenceClassification": ("sections", "text", ()),
    "MLPForClassification": ("arrays", "arrays", ()),
    "ViTForImageClassification": ("arrays", "arrays", (1, 8, 8)),
}


@pytest.fixture
def both(tmp_path, tiny_model, tiny_data):
    """Architecture -> the works of evaluating a model and its pruned child for fidelity."""

    def make(architecture="LlamaForCausalLM", amount=0.5, config=None, **others):
        name, kind, shape = FILES[architecture]
        files = tiny_data(tmp_path / "data")
        dense = tiny_model(tmp_path / "dense", architecture, config=config)
        pruned = tmp_path / "pruned"
        pruned.mkdir()
        params = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": amount}
        pruning.run(Work(model=dense, params=params, output=pruned))
        data = Dataset(path=files[name], kind=kind, split="test", shape=shape, **others)
        work = Work(model=dense, params=FREE, datasets={"evaluation": data})
        return work, replace(work, model=pruned, dense=dense)

    return make


def outcomes(work):
    return evaluation.run(work).tables["outcomes"]


def logits_one_by_one(work):
    """float64 logits of each example's predictions [predictions, classes], in file order."""
    model = load(work.model)
    fitted = fit(read(work.datasets["evaluation"]), model, labelled=False)
    found = {}
    with torch.no_grad():
        for batch in batches(fitted, model, 1):
            (position,) = batch.positions
            logits = logits_of(model, batch)[0].double().numpy()
            found[position] = logits[:-1] if model.family == "causal_lm" else logits[None]
    return [found[position] for position in range(len(fitted.items))]


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def by_hand(dense, pruned):
    p, q = log_softmax(dense), log_softmax(pruned)
    return (np.exp(p) * (p - q)).sum(-1), int((p.argmax(-1) != q.argmax(-1)).sum())


@pytest.mark.parametrize("architecture", FILES)
def test_every_prediction_is_compared_as_numpy_would(both, architecture):
    dense, pruned = both(architecture, amount=0.9)
    before, after = logits_one_by_one(dense), logits_one_by_one(pruned)
    rows = outcomes(pruned)
    assert len(rows) == len(before) == 12
    for row, one, other in zip(rows, before, after, strict=True):
        kl, flips = by_hand(one, other)
        np.testing.assert_allclose(row["kl"], kl, rtol=1e-3, atol=1e-5)
        assert row["flips"] == flips
        assert len(row["kl"]) == row["tokens"]
    assert sum(row["flips"] for row in rows) > 0


@pytest.mark.parametrize("rows_at_a_time", [1, 7, 10_000])
def test_logits_compared_piece_by_piece_give_the_same(both, monkeypatch, rows_at_a_time):
    _, pruned = both()
    whole = outcomes(pruned)
    monkeypatch.setattr(fidelity, "_LOGIT_ROWS", rows_at_a_time)
    for one, other in zip(whole, outcomes(pruned), strict=True):
        np.testing.assert_allclose(one["kl"], other["kl"], rtol=1e-5, atol=1e-7)
        assert one["flips"] == other["flips"]


def test_a_model_agrees_with_itself_in_everything(both):
    dense, _ = both()
    for row in outcomes(replace(dense, dense=dense.model)):
        assert row["flips"] == 0
        assert set(row["kl"]) == {0.0}


def test_a_model_alone_has_nothing_to_be_compared_with(both):
    dense, _ = both()
    assert all("kl" not in row and "flips" not in row for row in outcomes(dense))


@pytest.mark.parametrize("label", ["unknown", None])
def test_labels_are_not_looked_at(both, tmp_path, label):
    dense, pruned = both("BertForSequenceClassification")
    data = tmp_path / "unlabelled.jsonl"
    lines = [json.loads(line) for line in dense.datasets["evaluation"].path.read_text().splitlines()]
    given = [
        {k: v for k, v in line.items() if k != "label"} | ({"label": label} if label else {})
        for line in lines
    ]
    data.write_text("".join(json.dumps(line) + "\n" for line in given))
    unlabelled = Dataset(path=data, kind="text", split="test")
    product = evaluation.run(replace(pruned, datasets={"evaluation": unlabelled}))
    labelled = outcomes(pruned)
    for row, other in zip(product.tables["outcomes"], labelled, strict=True):
        assert (row["kl"], row["flips"]) == (other["kl"], other["flips"])
        assert row["loss"] is row["label"] is None
        assert "correct" not in row
    assert product.findings == (), "a loss that was not asked for is not broken"
    with pytest.raises(BadInput, match="label"):
        evaluation.run(replace(pruned, params={}, datasets={"evaluation": unlabelled}))


def test_a_broken_model_agrees_in_nothing_that_could_be_counted(both):
    dense, pruned = both("MLPForClassification")
    file = pruned.model / "model.safetensors"
    tensors = load_file(file)
    tensors["layers.2.weight"].fill_(3e38)
    tensors["layers.0.bias"].fill_(3e38)
    save_file(tensors, file, metadata={"format": "pt"})
    rows = outcomes(pruned)
    assert {row["flips"] for row in rows} == {None}
    judged = judging.run(params_of(), stored(outcomes(dense)), stored(rows), 0)
    assert next(row["verdict"] for row in judged["verdicts"]) == "inconclusive"
    assert "not_computable" in {row["kind"] for row in judged["findings"]}


def params_of(slices=(), **gates):
    limits = {"max_drop": 0.5, "max_slice_drop": None, "confidence": 0.95, "min_samples": 2, **gates}
    return {"dataset": "d", "metric": "fidelity", "slices": list(slices), "gates": limits}


def stored(rows):
    """As they come back from a result object."""
    return rows_of(result_table("evaluate", {"outcomes": rows}), "outcomes")


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "ViTForImageClassification"])
def test_the_judge_counts_every_prediction_of_the_whole_and_of_each_slice(both, architecture):
    column = "topic" if architecture.startswith("Llama") else "digit"
    dense, pruned = both(architecture, slices=(column,))
    rows = stored(outcomes(pruned))
    judged = judging.run(params_of([column]), stored(outcomes(dense)), rows, 0)
    names = {"all", *(f"{column}={row['slices'][column]}" for row in rows)}
    assert {row["slice"] for row in judged["evaluations"]} == names
    for told in judged["evaluations"]:
        members = [r for r in rows if told["slice"] in ("all", f"{column}={r['slices'][column]}")]
        kl = np.concatenate([np.array(row["kl"], dtype=np.float64) for row in members])
        flips, predictions = sum(r["flips"] for r in members), sum(r["tokens"] for r in members)
        assert (told["flips"], told["samples"], told["dense_value"]) == (flips, len(members), 1.0)
        assert told["value"] == told["agreement"] == pytest.approx(1 - flips / predictions)
        assert told["kl_divergence"] == pytest.approx(kl.mean())
        assert told["kl_p99"] == np.sort(kl)[int(np.ceil(0.99 * len(kl))) - 1]
        assert told["ci_low"] <= told["delta"] <= told["ci_high"] <= 0
