"""The derivatives against autograd's own, example by example, and that nothing of the way back stays behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases.architectures import KINDS
from cases.model_files import NO_CONFIG
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.contract import BadInput, Dataset
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, Item, fit
from tasks.loading.models import Model, load, prunable_layers, rows_of
from tasks.statistics.gradients import gradient_bytes, gradients


@pytest.fixture
def fitted_model(tmp_path, tiny_model, tiny_data):
    """Architecture and dtype -> (loaded model, fitted calibration examples)."""

    def make(architecture: str, dtype: str = "float32") -> tuple[Model, Fitted]:
        name, kind, shape = KINDS[architecture]
        file = tiny_data(tmp_path / "data")[name]
        model = load(tiny_model(tmp_path / architecture, architecture, dtype=dtype))
        data = Dataset(path=file, kind=kind, split="calibration", shape=shape)
        return model, fit(read(data), model)

    return make


def by_autograd(model: Model, fitted: Fitted) -> list[dict[str, torch.Tensor]]:
    """Of each example alone, the derivative of its loss by every layer's weight, as autograd finds it; in float64."""
    layers = prunable_layers(model.module)
    weights = {layer.name: model.module.get_parameter(layer.weight) for layer in layers}
    found = []
    for item in fitted.items:
        (batch,) = batches(Fitted(items=(item,)), model)
        for weight in weights.values():
            weight.requires_grad_(True)
        logits = logits_of(model, batch).float()
        if model.family == "causal_lm":
            ids = batch.inputs["input_ids"]
            loss = sum(cross_entropy(logits[0, at], ids[0, at + 1]) for at in range(ids.shape[1] - 1))
        else:
            loss = cross_entropy(logits, batch.labels)
        derivatives = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for weight in weights.values():
            weight.requires_grad_(False)
        found.append(
            {
                layer.name: torch.zeros(layer.outputs, layer.inputs // layer.groups, dtype=torch.float64)
                if derivative is None
                else rows_of(layer, derivative).double()
                for layer, derivative in zip(layers, derivatives, strict=True)
            }
        )
    return found


def assert_close(found: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-3) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=max(scale, 1e-12) * 1e-5)


@pytest.mark.parametrize("architecture", KINDS)
def test_the_derivatives_are_those_of_every_example_alone(fitted_model, architecture):
    model, fitted = fitted_model(architecture)
    layers = prunable_layers(model.module)
    expected = by_autograd(model, fitted)
    total = gradients(model, layers, fitted, squared=False)
    root = gradients(model, layers, fitted, squared=True)
    for layer in layers:
        found = total.of(layer)
        assert found.dtype == torch.float32
        assert found.shape == (layer.outputs, layer.inputs // layer.groups)
        assert found.nbytes == gradient_bytes(layer, squared=False)
        assert_close(found, torch.stack([one[layer.name] for one in expected]).sum(0))
        squares = torch.stack([one[layer.name] for one in expected]).square().sum(0)
        assert_close(root.of(layer), squares.sqrt())
    assert (total.count, root.count) == (1, 1)


def test_squared_sums_over_batches_would_not_pass(fitted_model):
    model, fitted = fitted_model("LlamaForCausalLM")
    layer = prunable_layers(model.module)[0]
    total = gradients(model, [layer], fitted, squared=False).of(layer).abs()
    root = gradients(model, [layer], fitted, squared=True).of(layer)
    assert not torch.allclose(total, root, rtol=0.1)


def test_bfloat16_models_are_summed_up_in_float32(fitted_model):
    model, fitted = fitted_model("LlamaForCausalLM", "bfloat16")
    layers = prunable_layers(model.module)
    expected = by_autograd(model, fitted)
    root = gradients(model, layers, fitted, squared=True)
    for layer in layers:
        found = root.of(layer)
        assert not torch.equal(found, found.bfloat16().float())
        squares = torch.stack([one[layer.name] for one in expected]).square().sum(0)
        scale = float(squares.max().sqrt())
        torch.testing.assert_close(found.double(), squares.sqrt(), rtol=0.05, atol=0.01 * scale)


def test_a_small_limit_takes_more_passes_and_changes_no_bit(fitted_model):
    model, fitted = fitted_model("LlamaForCausalLM")
    layers = prunable_layers(model.module)
    for squared in (False, True):
        whole = gradients(model, layers, fitted, squared=squared)
        alone = gradients(model, layers, fitted, squared=squared, limit=0)
        for layer in layers:
            assert torch.equal(whole.of(layer), alone.of(layer))
        assert (whole.count, alone.count) == (1, len(layers))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(fitted_model, monkeypatch, fails):
    model, fitted = fitted_model("MLPForClassification")
    layers = prunable_layers(model.module)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    passes = gradients(model, layers, fitted, squared=True)
    if fails:
        monkeypatch.setattr(model.module, "activation", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            passes.of(layers[0])
    else:
        passes.of(layers[0])
    assert all(not part._forward_hooks for part in model.module.modules())
    assert all(not weight.requires_grad and weight.grad is None for weight in model.module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_a_loss_that_is_not_finite_is_refused(fitted_model, monkeypatch):
    model, fitted = fitted_model("MLPForClassification")
    layers = prunable_layers(model.module)
    monkeypatch.setattr(model.module, "activation", lambda hidden: hidden * float("nan"))
    with pytest.raises(BadInput, match="loss on an example is nan"):
        gradients(model, layers, fitted, squared=False).of(layers[0])


def test_derivatives_that_are_not_finite_are_refused_with_the_layer(fitted_model, monkeypatch):
    model, fitted = fitted_model("MLPForClassification")
    layers = prunable_layers(model.module)
    monkeypatch.setattr(
        model.module,
        "activation",
        lambda hidden: hidden.abs() - hidden.abs().detach() + (hidden - hidden).sqrt(),
    )
    with pytest.raises(BadInput, match="derivative of the loss") as caught:
        gradients(model, layers[:1], fitted, squared=False).of(layers[0])
    assert caught.value.tensor == layers[0].name


# --- convolutions and shared weights, as modules of their own


class Classifier(nn.Module):
    """Flattens what some layers give into two classes."""

    def __init__(self, body: nn.Module, size: int) -> None:
        super().__init__()
        self.body = body
        self.last = nn.Linear(size, 2)
        self.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(inputs).flatten(1))


class Twice(nn.Module):
    """Uses one layer twice, and once more its weight in another module."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4, bias=False)
        self.other.weight = self.one.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.other(torch.tanh(self.one(torch.tanh(self.one(input=inputs)))))


def model_around(module: nn.Module) -> Model:
    unused: Any = None
    return Model(
        built_from=NO_CONFIG,
        module=module.eval(),
        family="feature_classifier",
        config=SimpleNamespace(num_labels=2),
        path=Path(),
        checkpoint=unused,
        naming=unused,
    )


def examples(*shape: int, count: int = 4) -> Fitted:
    draw = np.random.default_rng(0)
    return Fitted(
        items=tuple(
            Item(number=n, slices={}, content=draw.normal(size=shape).astype(np.float32), label=n % 2)
            for n in range(count)
        )
    )


@pytest.mark.parametrize(
    ("body", "shape", "size"),
    [
        (nn.Conv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 0), groups=2), (4, 5, 6), 6 * 3 * 4),
        (nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"), (4, 3, 3), 36),
        (nn.Conv1d(3, 2, 3, dilation=2), (3, 9), 10),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), (4,), 3),
        (Twice(), (4,), 4),
    ],
    ids=["grouped", "depthwise", "one-dimensional", "in-place", "used-three-times"],
)
def test_every_kind_of_layer_has_the_derivatives_that_autograd_finds(body, shape, size):
    torch.manual_seed(0)
    model = model_around(Classifier(body, size))
    fitted = examples(*shape)
    layers = prunable_layers(model.module)
    expected = by_autograd(model, fitted)
    for layer in layers:
        one = torch.stack([example[layer.name] for example in expected])
        assert_close(gradients(model, layers, fitted, squared=False).of(layer), one.sum(0))
        assert_close(gradients(model, layers, fitted, squared=True).of(layer), one.square().sum(0).sqrt())


def test_a_layer_that_no_loss_depends_on_has_no_gradient():
    model = model_around(Classifier(nn.Linear(4, 4), 4))
    model.module.spare = nn.Linear(3, 2)
    spare = prunable_layers(model.module)[-1]
    assert not gradients(model, [spare], examples(4), squared=True).of(spare).any()


def test_a_model_without_a_head_has_no_gradients(tmp_path, tiny_model):
    model = model_around(Classifier(nn.Linear(4, 4), 4))
    encoder = Model(
        built_from=NO_CONFIG,
        **{name: getattr(model, name) for name in ("module", "config", "path", "checkpoint", "naming")},
        family="text_encoder",
    )
    with pytest.raises(BadInput, match="has no head"):
        gradients(encoder, prunable_layers(model.module), examples(4), squared=True)
