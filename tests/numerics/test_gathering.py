"""What each criterion asks for about real layers, and the masks that follow, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks import pruning, sensitivity
from tasks.contract import BadInput, Dataset, Work
from tasks.examples.data import read
from tasks.examples.fitting import fit
from tasks.loading.models import load, prunable_layers, rows_of
from tasks.masks.criteria import CRITERIA, Criterion, Seen, criterion_named, layer_score
from tasks.masks.patterns import mask_of
from tasks.statistics.gathering import gathered, statistics_for
from tasks.statistics.moments import moments_of, side_by_side

KINDS = {
    "LlamaForCausalLM": ("text", "text", ()),
    "GPT2LMHeadModel": ("text", "text", ()),
    "ResNetForImageClassification": ("arrays", "arrays", (1, 8, 8)),
    "MLPForClassification": ("arrays", "arrays", ()),
}
WITH_DATA = [
    name for name, criterion in CRITERIA.items() if criterion.needs_data and not criterion.reconstructs
]


@pytest.fixture
def calibration(tmp_path, tiny_model, tiny_data):
    """Architecture and dtype -> (path of a model, its calibration data)."""

    def make(architecture: str, dtype: str = "float32"):
        name, kind, shape = KINDS[architecture]
        path = tiny_model(tmp_path / architecture, architecture, dtype=dtype)
        file = tiny_data(tmp_path / "data")[name]
        return path, Dataset(path=file, kind=kind, split="calibration", shape=shape)

    return make


def seen_of(criterion: Criterion, path, data):
    model = load(path)
    layers, fitted = prunable_layers(model.module), fit(read(data), model)
    statistics = statistics_for(criterion, model, layers, fitted)
    return model, layers, gathered(criterion, statistics, model, layers, fitted)


def every_input(model, layer, data) -> np.ndarray:
    """All vectors that the layer's rows see, [vectors, inputs]; unfolded by torch for convolutions."""
    from tasks.examples.batches import batches, logits_of
    from tasks.statistics.hessians import unfolded

    part, found = model.module.get_submodule(layer.name), []

    def watch(module, given):
        seen = unfolded(module, given[0]) if given[0].dim() == 4 else given[0].reshape(-1, layer.inputs)
        found.append(seen.double().numpy())

    handle = part.register_forward_pre_hook(watch)
    with torch.no_grad():
        for batch in batches(fit(read(data), model), model, padded=False):
            logits_of(model, batch)
    handle.remove()
    return np.concatenate(found)


@pytest.mark.parametrize("architecture", KINDS)
def test_means_magnitudes_and_variances_are_those_of_all_inputs_together(calibration, architecture):
    asks = Criterion(
        score=lambda weight, seen: weight, needs=frozenset({"norms", "means", "magnitudes", "variances"})
    )
    path, data = calibration(architecture)
    model, layers, seen_by = seen_of(asks, path, data)
    for layer in layers:
        vectors, seen = every_input(model, layer, data), seen_by.of(layer)
        expected = {
            "norms": np.sqrt((vectors**2).sum(0)),
            "means": vectors.mean(0),
            "magnitudes": np.abs(vectors).mean(0),
            "variances": vectors.var(0),
        }
        for name, value in expected.items():
            found = getattr(seen, name)
            assert found.dtype == torch.float32
            assert found.shape == (1, layer.inputs)
            np.testing.assert_allclose(found[0].numpy(), value, rtol=1e-4, atol=1e-6, err_msg=name)
        assert seen.gradients is seen.gradient_norms is seen.drawn is None


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3, -3e4])
def test_a_large_mean_costs_the_variance_no_digits(mean):
    values = mean + torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    parts = [moments_of(part, [0]) for part in values.split(37)]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole.and_of(part)
    exact = values.double().numpy()
    assert whole.count == 400
    np.testing.assert_allclose(whole.variances.numpy(), exact.var(0), rtol=1e-6)
    np.testing.assert_allclose(whole.means.numpy(), exact.mean(0), rtol=1e-9)
    np.testing.assert_allclose(whole.magnitudes.numpy(), np.abs(exact).mean(0), rtol=1e-9)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=30), st.integers(1, 29))
def test_two_samples_have_the_moments_of_one(values, at):
    at = min(at, len(values) - 1)
    whole = torch.tensor(values).unsqueeze(1)
    both = moments_of(whole[:at], [0]).and_of(moments_of(whole[at:], [0]))
    exact = whole.double().numpy()
    assert both.count == len(values)
    np.testing.assert_allclose(both.variances.numpy(), exact.var(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both.means.numpy(), exact.mean(0), rtol=1e-9, atol=1e-9)


def test_an_input_that_never_changes_has_no_variance_at_all():
    constant = moments_of(torch.full((9, 2), 0.1), [0])
    assert constant.and_of(constant).variances.tolist() == pytest.approx([0.0, 0.0], abs=1e-18)


def test_parts_side_by_side_take_turns():
    first, second = moments_of(torch.tensor([[1.0, 2.0]]), [0]), moments_of(torch.tensor([[3.0, 4.0]]), [0])
    assert side_by_side([first, second]).means.tolist() == [1, 3, 2, 4]


def by_hand(name: str, weight: float, seen: dict[str, float]) -> float:
    """The formulas as they are written, one weight at a time."""
    return {
        "wanda": lambda: abs(weight) * seen["norms"],
        "activation": lambda: abs(weight) * seen["magnitudes"],
        "variance": lambda: abs(weight) * math.sqrt(seen["variances"]),
        "taylor": lambda: abs(weight * seen["gradients"]),
        "fisher": lambda: math.sqrt(weight**2 * seen["gradient_norms"] ** 2 / 2),
    }[name]()


@pytest.mark.parametrize("name", WITH_DATA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_each_score_is_its_formula(name, dtype):
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 7, generator=generator).to(dtype)
    seen = {
        kind: torch.rand((5, 7) if kind.startswith("gradient") else (1, 7), generator=generator)
        for kind in ("norms", "magnitudes", "variances", "gradients", "gradient_norms")
    }
    score = CRITERIA[name].score(weight, Seen(**seen))
    assert score.dtype == torch.float32
    for row in range(5):
        for column in range(7):
            here = {kind: float(value.expand(5, 7)[row, column]) for kind, value in seen.items()}
            expected = by_hand(name, float(weight[row, column]), here)
            assert float(score[row, column]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", WITH_DATA)
def test_a_criterion_that_is_not_given_what_it_needs_says_so(name):
    with pytest.raises(ValueError, match="its needs have to say so"):
        CRITERIA[name].score(torch.ones(2, 2), Seen())


def test_a_criterion_cannot_ask_for_what_there_is_not():
    with pytest.raises(ValueError, match="cannot ask for hessian; there are norms, magnitudes"):
        Criterion(score=lambda weight, seen: weight, needs=frozenset({"hessian"}))


def prune(path, data, output, **params) -> Work:
    output.mkdir()
    defaults = {"pattern": "unstructured", "scope": "row", "amount": 0.5, "allocation": "uniform", "skip": []}
    return Work(
        model=path,
        params={**defaults, "max_amount": 1.0, **params},
        datasets={"calibration": data},
        output=output,
    )


@pytest.mark.parametrize("name", WITH_DATA)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_written_zeros_are_the_lowest_scores(calibration, tmp_path, name, dtype):
    path, data = calibration("GPT2LMHeadModel", dtype)
    pruning.run(prune(path, data, tmp_path / "out", criterion=name))
    model, layers, seen = seen_of(CRITERIA[name], path, data)
    written = load(tmp_path / "out").module.state_dict()
    for layer in layers:
        weight = model.module.get_parameter(layer.weight)
        mask = mask_of(layer_score(CRITERIA[name], layer, weight, seen.of(layer)), 0.5, "unstructured", "row")
        expected = weight.detach().clone()
        rows_of(layer, expected).masked_fill_(mask, 0.0)
        assert torch.equal(written[layer.weight], expected)


@pytest.mark.parametrize("name", WITH_DATA)
def test_what_a_trial_tries_is_what_the_prune_task_writes(calibration, tmp_path, monkeypatch, name):
    path, data = calibration("MLPForClassification")
    pruning.run(prune(path, data, tmp_path / "out", criterion=name, scope="tensor", amount=0.4))
    written = load(tmp_path / "out").module.state_dict()
    replaced, tried = sensitivity.replaced, {}

    def watch(module, layer, weight):
        tried[layer.weight] = weight.clone()
        return replaced(module, layer, weight)

    monkeypatch.setattr(sensitivity, "replaced", watch)
    params = {"criterion": name, "pattern": "unstructured", "scope": "tensor", "skip": [], "grid": [0.4]}
    work = Work(model=path, params={**params, "metric": "loss"}, datasets={"calibration": data})
    sensitivity.run(work)
    assert len(tried) == 3
    assert all(torch.equal(weight, written[name]) for name, weight in tried.items())


def test_more_passes_than_one_are_told_and_change_nothing(calibration, tmp_path, monkeypatch):
    import tasks.statistics.gathering

    path, data = calibration("MLPForClassification")
    pruning.run(prune(path, data, tmp_path / "one", criterion="fisher"))
    of = tasks.statistics.gathering.gradients
    monkeypatch.setattr(
        tasks.statistics.gathering, "gradients", lambda *given, **named: of(*given, **named, limit=0)
    )
    product = pruning.run(prune(path, data, tmp_path / "three", criterion="fisher"))
    (told,) = [finding for finding in product.findings if finding.kind == "calibration_passes"]
    assert told.message.startswith("3 passes over the calibration data gathered")
    one, three = (load(tmp_path / name).module.state_dict() for name in ("one", "three"))
    assert all(torch.equal(value, three[name]) for name, value in one.items())


def test_a_layer_without_any_gradient_is_told(calibration, tmp_path):
    from safetensors.torch import load_file, save_file

    path, data = calibration("MLPForClassification")
    tensors = load_file(path / "model.safetensors")
    tensors["layers.2.weight"].zero_()
    save_file(tensors, path / "model.safetensors")
    product = pruning.run(prune(path, data, tmp_path / "out", criterion="taylor"))
    still = {finding.subject for finding in product.findings if finding.kind == "zero_gradient"}
    assert still == {"layers.0", "layers.1"}


def test_a_criterion_of_somebody_else_may_ask_for_the_same(calibration, tmp_path, monkeypatch):
    import tasks.masks.criteria

    theirs = Criterion(
        score=lambda weight, seen: (
            weight.float().abs() * seen.norms * seen.gradient_norms + seen.drawn * 1e-9
        ),
        needs=frozenset({"norms", "gradient_norms", "drawn"}),
        seed=0,
    )
    monkeypatch.setattr(tasks.masks.criteria, "CRITERIA", {"theirs": theirs})
    assert criterion_named("theirs", 5).seed == 5
    path, data = calibration("MLPForClassification")
    pruning.run(prune(path, data, tmp_path / "out", criterion="theirs"))
    zeros = (load(tmp_path / "out").module.get_parameter("layers.0.weight") == 0).sum(1)
    assert set(zeros.tolist()) == {32}


@pytest.mark.parametrize("params", [{"amount": 0.5, "scope": "row"}, {"cut": {"width": 0.5}}])
@pytest.mark.parametrize("criterion", ["wanda", "activation", "taylor"])
def test_only_what_asks_for_a_loss_asks_for_labels(tmp_path, tiny_model, criterion, params):
    (tmp_path / "out").mkdir()
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "one of them"}\n{"text": "and another"}\n')
    work = Work(
        model=tiny_model(tmp_path / "m", "BertForSequenceClassification"),
        params={"criterion": criterion, "pattern": "unstructured", **params},
        datasets={"calibration": Dataset(path=file, kind="text", split="all")},
        output=tmp_path / "out",
    )
    if criterion == "taylor":
        with pytest.raises(BadInput, match="an example has no label"):
            pruning.run(work)
    else:
        assert sum(row["pruned_parameters"] for row in pruning.run(work).tables["layers"])
