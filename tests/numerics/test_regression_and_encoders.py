"""Effects. Models that predict numbers and models without a head, against plain numpy, from the example to the verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.gate import judging
from orchestrator.tables.schemas import result_table, rows_of
from tasks import evaluation, latency, pruning, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.embeddings import cosine_distances, pooled
from tasks.examples.fitting import fit
from tasks.loading.families import FAMILIES, answer_of
from tasks.loading.models import load

FREE = {"fidelity": True}
ENCODERS = {
    "BertModel": ("text", ()),
    "ViTModel": ("arrays", (1, 8, 8)),
    "ResNetModel": ("arrays", (1, 8, 8)),
}
REGRESSORS = {
    "MLPForRegression": ("arrays", (), {}),
    "ViTForImageClassification": ("arrays", (1, 8, 8), {"num_labels": 1}),
    "BertForSequenceClassification": (
        "sections",
        (),
        {"problem_type": "regression", "id2label": {0: "x"}, "label2id": {"x": 0}},
    ),
}


def write_numbers(path, targets, inputs=None, seed=3):
    """A Parquet file of 64 inputs and the numbers to predict."""
    inputs = np.random.default_rng(seed).random((len(targets), 64)) if inputs is None else inputs
    table = pa.table({"inputs": pa.array(inputs.tolist(), pa.list_(pa.float32())), "label": targets})
    pq.write_table(table, path)
    return path


@pytest.fixture
def regression(tmp_path, tiny_model):
    """(architecture, targets) -> the works of evaluating a model and its pruned child."""

    def make(architecture="MLPForRegression", targets=tuple(range(12)), amount=0.5, config=None, seed=3):
        kind, shape, settings_ = REGRESSORS[architecture]
        dense = tiny_model(tmp_path / "dense", architecture, config={**settings_, **(config or {})})
        if kind == "sections":
            path = tmp_path / "texts.jsonl"
            path.write_text("".join(f'{{"text": "some text {y}", "label": {y}}}\n' for y in targets))
            kind = "text"
        else:
            path = write_numbers(tmp_path / "numbers.parquet", list(targets), seed=seed)
        pruned = tmp_path / "pruned"
        pruned.mkdir()
        params = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": amount}
        pruning.run(Work(model=dense, params=params, output=pruned))
        data = Dataset(path=path, kind=kind, split="all", shape=shape)
        work = Work(model=dense, params={}, datasets={"evaluation": data})
        return work, replace(work, model=pruned)

    return make


@pytest.fixture
def encoding(tmp_path, tiny_model, tiny_data):
    """Architecture -> the works of evaluating an encoder and its pruned child for fidelity."""

    def make(architecture="BertModel", amount=0.5):
        name, shape = ENCODERS[architecture]
        dense = tiny_model(tmp_path / "dense", architecture)
        pruned = tmp_path / "pruned"
        pruned.mkdir()
        params = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "amount": amount}
        pruning.run(Work(model=dense, params=params, output=pruned))
        path = tiny_data(tmp_path / "data")[name]
        kind = "text" if name == "text" else "arrays"
        data = Dataset(path=path, kind=kind, split="test", shape=shape)
        work = Work(model=dense, params=FREE, datasets={"evaluation": data})
        return work, replace(work, model=pruned, dense=dense)

    return make


def outcomes(work):
    return evaluation.run(work).tables["outcomes"]


def answers_one_by_one(work):
    """What the model answers each example on its own, in file order, float64."""
    model = load(work.model)
    fitted = fit(read(work.datasets["evaluation"]), model, labelled=False)
    found = {}
    with torch.no_grad():
        for batch in batches(fitted, model, 1):
            found[batch.positions[0]] = logits_of(model, batch)[0].double().numpy()
    return [found[position] for position in range(len(fitted.items))]


def judged(dense, pruned, metric, gates=None):
    params = {"dataset": "d", "metric": metric, "slices": [], "gates": gates}
    stored = [rows_of(result_table("evaluate", {"outcomes": rows}), "outcomes") for rows in (dense, pruned)]
    return judging.run(params, *stored, 0)


# --- regression


@pytest.mark.parametrize("architecture", REGRESSORS)
def test_errors_are_those_that_numpy_finds_one_by_one(regression, architecture):
    dense, _ = regression(architecture, targets=[0.5, -2, 3, 1e3, 7, -0.25])
    answers = np.concatenate(answers_one_by_one(dense))
    rows = outcomes(dense)
    targets = np.array([0.5, -2, 3, 1e3, 7, -0.25])
    np.testing.assert_allclose([row["loss"] for row in rows], (answers - targets) ** 2, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(
        [row["absolute_error"] for row in rows], abs(answers - targets), rtol=1e-5, atol=1e-6
    )
    assert all("prediction" not in row and "correct" not in row for row in rows)
    assert [row["target"] for row in rows] == [[value] for value in targets]


def test_several_outputs_are_averaged_in_each_example(regression):
    targets = np.random.default_rng(0).normal(size=(6, 3)).round(3)
    dense, _ = regression(targets=targets.tolist(), config={"num_labels": 3})
    answers = np.stack(answers_one_by_one(dense))
    rows = outcomes(dense)
    np.testing.assert_allclose(
        [row["loss"] for row in rows], ((answers - targets) ** 2).mean(1), rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(
        [row["absolute_error"] for row in rows], abs(answers - targets).mean(1), rtol=1e-5
    )


@pytest.mark.parametrize(("metric", "column"), [("mse", "loss"), ("mae", "absolute_error")])
def test_the_drop_is_the_relative_increase_of_the_mean_error(regression, metric, column):
    works = regression(amount=0.9, targets=np.linspace(-3, 3, 40).tolist())
    dense, pruned = map(outcomes, works)
    before, after = (np.mean([row[column] for row in rows]) for rows in (dense, pruned))
    result = judged(dense, pruned, metric, {"max_drop": 1e9})
    (row,) = result["evaluations"]
    assert (row["dense_value"], row["value"]) == (pytest.approx(before), pytest.approx(after))
    assert result["verdicts"][0]["observed"] == pytest.approx(after / before - 1)
    assert row["ci_low"] <= row["delta"] <= row["ci_high"]
    assert result["verdicts"][0]["verdict"] == "pass"
    limit = {"max_drop": after / before - 1 - 0.001}
    assert judged(dense, pruned, metric, limit)["verdicts"][0]["verdict"] != "pass"


def test_the_loss_of_a_regression_is_its_mean_squared_error(regression):
    dense, pruned = map(outcomes, regression())
    (loss,), (mse,) = (judged(dense, pruned, name)["evaluations"] for name in ("loss", "mse"))
    assert (loss["dense_value"], loss["delta"]) == (mse["dense_value"], mse["delta"])


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_a_regression_has_no_right_answers(regression, metric):
    dense, pruned = map(outcomes, regression())
    result = judged(dense, pruned, metric, {"max_drop": 1.0})
    assert result["verdicts"][0]["verdict"] == "inconclusive"
    assert "not_computable" in [finding["kind"] for finding in result["findings"]]


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_a_classifier_has_no_squared_error(metric):
    rows = [{"example": i, "loss": 1.0, "tokens": 1, "label": 0, "prediction": 0} for i in range(20)]
    result = judged(rows, rows, metric, {"max_drop": 1.0})
    assert result["verdicts"][0]["verdict"] == "inconclusive"
    assert any("predicts numbers" in finding["message"] for finding in result["findings"])


def test_a_regression_is_not_sliced_by_a_confidence_that_it_does_not_have(regression):
    dense, pruned = map(outcomes, regression(targets=list(range(40))))
    params = {"dataset": "d", "metric": "mse", "slices": [], "gates": None, "default_slices": ["confidence"]}
    assert [row["slice"] for row in judging.run(params, dense, pruned, 0)["evaluations"]] == ["all"]


def test_the_sensitivity_of_a_regression_is_the_rise_of_its_squared_error(regression):
    dense, _ = regression()
    data = dense.datasets["evaluation"]
    mask = {"criterion": "wanda", "pattern": "unstructured", "scope": "row", "skip": []}
    work = Work(model=dense.model, params={**mask, "grid": [0.5, 1.0]}, datasets={"calibration": data})
    rows = sensitivity.run(work).tables["sensitivity"]
    mean = np.mean([row["loss"] for row in outcomes(dense)])
    assert all(row["dense_value"] == pytest.approx(mean) for row in rows)
    last = [row for row in rows if row["amount"] == 1.0][-1]
    bias = float(load(dense.model).module.layers[-1].bias)
    assert last["value"] == pytest.approx(np.mean((np.arange(12) - bias) ** 2), rel=1e-5)


def test_a_regression_can_be_timed(regression):
    dense, pruned = regression()
    params = {"batch": 4, "sequence": 8, "repetitions": 6}
    (row,) = latency.run(replace(pruned, params=params, dense=dense.model)).tables["latencies"]
    assert row["batch"] == 4


@pytest.mark.parametrize(
    ("label", "why"),
    [
        ('"high"', "label is 'high', and the model predicts numbers"),
        ("null", "label is missing"),
        ("[1.0, 2.0]", "holds 2, and the model's num_labels is 1"),
        ("1e39", "the model predicts numbers"),
        ("[true]", "neither a whole number nor text"),
        ("[]", "neither a whole number nor text"),
        ("1e999", "neither a whole number nor text"),
        ("1" + "0" * 400, "the model predicts numbers"),
    ],
)
def test_a_label_that_is_no_number_is_refused_with_its_line(regression, tmp_path, label, why):
    dense, _ = regression("BertForSequenceClassification")
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "a", "label": 1}}\n{{"text": "a", "label": {label}}}\n')
    data = replace(dense.datasets["evaluation"], path=path)
    with pytest.raises(BadInput, match=why) as error:
        outcomes(replace(dense, datasets={"evaluation": data}))
    assert error.value.line == 2


@pytest.mark.parametrize("label", [0.5, [1.0]])
def test_a_class_is_no_fraction_and_no_list(tmp_path, tiny_model, label):
    path = write_numbers(tmp_path / "numbers.parquet", [label])
    data = Dataset(path=path, kind="arrays", split="all")
    with pytest.raises(BadInput, match="a label is no class"):
        fit(read(data), load(tiny_model(tmp_path / "model", "MLPForClassification")))


def test_agreement_with_the_dense_model_is_not_defined_for_numbers(regression):
    dense, _ = regression()
    with pytest.raises(BadInput, match="predicts numbers.*Use the metric mse or mae"):
        outcomes(replace(dense, params=FREE))


# --- models without a head


@pytest.mark.parametrize("architecture", ENCODERS)
def test_embeddings_are_means_over_positions_without_padding(encoding, architecture):
    dense, _ = encoding(architecture)
    model = load(dense.model)
    fitted = fit(read(dense.datasets["evaluation"]), model)
    alone = answers_one_by_one(dense)
    for batch in batches(fitted, model):
        with torch.no_grad():
            together = logits_of(model, batch)
            raw = model.module(**batch.inputs).last_hidden_state.float()
        for row, position in enumerate(batch.positions):
            np.testing.assert_allclose(together[row].numpy(), alone[position], rtol=1e-4, atol=1e-5)
            states = raw[row].flatten(1).T if raw.dim() == 4 else raw[row][: batch.lengths[row] or None]
            states = raw[row] if architecture == "ViTModel" else states
            np.testing.assert_allclose(together[row].numpy(), states.mean(0).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_distances_are_those_of_numpy_and_the_drop_is_their_mean(encoding, architecture):
    dense, pruned = encoding(architecture, amount=0.7)
    before, after = answers_one_by_one(dense), answers_one_by_one(pruned)
    expected = [
        1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(before, after, strict=True)
    ]
    rows = outcomes(pruned)
    np.testing.assert_allclose([row["distance"] for row in rows], expected, rtol=1e-3, atol=1e-6)
    assert min(expected) > 1e-4
    result = judged(outcomes(dense), rows, "fidelity", {"max_drop": float(np.mean(expected)) * 3})
    (row,) = result["evaluations"]
    assert row["value"] == pytest.approx(1 - np.mean(expected), rel=1e-6)
    assert row["ci_low"] <= row["delta"] <= row["ci_high"] < 0
    assert result["verdicts"][0]["verdict"] == "pass"
    tight = judged(outcomes(dense), rows, "fidelity", {"max_drop": float(np.mean(expected)) * 0.2})
    assert tight["verdicts"][0]["verdict"] == "block"


def test_an_encoder_is_at_no_distance_from_itself_and_still_has_an_interval(encoding):
    dense, _ = encoding()
    rows = outcomes(replace(dense, dense=dense.model))
    assert {row["distance"] for row in rows} == {0.0}
    (row,) = judged(outcomes(dense), rows, "fidelity")["evaluations"]
    assert row["delta"] == 0
    assert row["ci_low"] < 0


def test_an_encoder_has_no_loss(encoding):
    dense, _ = encoding()
    with pytest.raises(BadInput, match="no head.*Use the metric fidelity"):
        outcomes(replace(dense, params={}))
    mask = {"criterion": "magnitude", "pattern": "unstructured", "scope": "tensor", "skip": []}
    data = {"calibration": dense.datasets["evaluation"]}
    with pytest.raises(BadInput, match="no head"):
        sensitivity.run(Work(model=dense.model, params={**mask, "grid": [0.5]}, datasets=data))


def test_an_encoder_is_pruned_by_what_its_layers_see(encoding, tmp_path):
    dense, _ = encoding()
    output = tmp_path / "by_wanda"
    output.mkdir()
    params = {"criterion": "wanda", "pattern": "unstructured", "scope": "row", "amount": 0.5}
    data = {"calibration": dense.datasets["evaluation"]}
    product = pruning.run(Work(model=dense.model, params=params, datasets=data, output=output))
    assert all(row["amount"] == 0.5 for row in product.tables["layers"] if "pooler" not in row["layer"])


# --- parts


@given(st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(-1, 1))
@settings(max_examples=50, deadline=None)
def test_the_distance_depends_on_the_angle_alone(seed, scale, cosine):
    rng = np.random.default_rng(seed)
    base, across = np.linalg.qr(rng.normal(size=(5, 2)))[0].T
    turned = cosine * base + math.sqrt(1 - cosine**2) * across
    found = cosine_distances(torch.tensor(base[None]), torch.tensor(scale * turned[None]))
    assert float(found) == pytest.approx(1 - cosine, abs=1e-12)


def test_vectors_of_zeros_and_broken_ones_have_the_distance_that_is_said():
    one, zero, broken = [1.0, 0.0], [0.0, 0.0], [math.nan, 1.0]
    found = cosine_distances(
        torch.tensor([one, zero, zero, one, zero]), torch.tensor([zero, one, zero, broken, broken])
    )
    assert found[:3].tolist() == [1.0, 1.0, 0.0]
    assert bool(found[3:].isnan().all())


def test_padding_does_not_count_in_an_embedding():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    assert pooled(states, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 3.0]]


def test_every_family_has_an_answer():
    assert {answer_of(family) for family in FAMILIES} == {"tokens", "class", "numbers", "embedding"}
