"""Effects. The sums of squares against plain loops over what each layer was really given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from cases.architectures import KINDS
from cases.calibrations import input_norms
from cases.model_files import NO_CONFIG
from torch import nn

from tasks.contract import BadInput, Dataset
from tasks.examples.batches import batches, logits_of
from tasks.examples.data import read
from tasks.examples.fitting import Fitted, Item, fit
from tasks.loading.models import Model, load, prunable_layers
from tasks.statistics.calibration import input_norms_over


@pytest.fixture
def calibrated(tmp_path, tiny_model, tiny_data):
    """Architecture and dtype -> (loaded model, its calibration data)."""

    def make(architecture: str, dtype: str = "float32", **config: Any) -> tuple[Model, Dataset]:
        name, kind, shape = KINDS[architecture]
        file = tiny_data(tmp_path / "data")[name]
        model = load(tiny_model(tmp_path / architecture, architecture, dtype=dtype, config=config))
        return model, Dataset(path=file, kind=kind, split="calibration", shape=shape)

    return make


def inputs_of_every_layer(model: Model, fitted: Fitted) -> dict[str, list[torch.Tensor]]:
    """What each layer is given when every example runs alone, so that there is nothing to mask."""
    seen: dict[str, list[torch.Tensor]] = {layer.name: [] for layer in prunable_layers(model.module)}

    def watch(name: str) -> Any:
        return lambda module, given: seen[name].append(given[0].clone())

    handles = [model.module.get_submodule(name).register_forward_pre_hook(watch(name)) for name in seen]
    with torch.no_grad():
        for item in fitted.items:
            (batch,) = batches(Fitted(items=(item,)), model)
            logits_of(model, batch)
    for handle in handles:
        handle.remove()
    return seen


def by_loops(module: nn.Module, calls: Sequence[torch.Tensor]) -> tuple[np.ndarray, int]:
    """(sum of squares of each input, input vectors), one vector after the other, without torch's arithmetic."""
    vectors = [v for call in calls for v in vectors_of(module, call.float().numpy())]
    total = np.zeros(len(vectors[0]))
    for vector in vectors:
        for index, value in enumerate(vector.tolist()):
            total[index] += value * value
    return total, len(vectors)


def vectors_of(module: nn.Module, given: np.ndarray) -> list[np.ndarray]:
    if not isinstance(module, nn.Conv2d):
        return list(given.reshape(-1, given.shape[-1]))
    high, wide = module.kernel_size
    down, right = module.padding if isinstance(module.padding, tuple) else (0, 0)
    padded = np.pad(given, ((0, 0), (0, 0), (down, down), (right, right)))
    vectors = []
    rows = range(0, padded.shape[2] - module.dilation[0] * (high - 1), module.stride[0])
    columns = range(0, padded.shape[3] - module.dilation[1] * (wide - 1), module.stride[1])
    for image, top, left in product(padded, rows, columns):
        vectors.append(
            np.array(
                [
                    image[channel, top + i * module.dilation[0], left + j * module.dilation[1]]
                    for channel in range(image.shape[0])
                    for i in range(high)
                    for j in range(wide)
                ]
            )
        )
    return vectors


@pytest.mark.parametrize("architecture", KINDS)
def test_the_sums_equal_plain_loops_over_every_example_alone(calibrated, architecture):
    model, dataset = calibrated(architecture)
    fitted = fit(read(dataset), model)
    found = input_norms(model, prunable_layers(model.module), dataset)
    seen = inputs_of_every_layer(model, fitted)
    assert seen.keys() == found.squares.keys() == found.tokens.keys()
    assert found.unreached == ()
    for name, calls in seen.items():
        squares, vectors = by_loops(model.module.get_submodule(name), calls)
        assert found.squares[name].dtype == torch.float64
        np.testing.assert_allclose(found.squares[name].numpy(), squares, rtol=2e-4, atol=1e-5, err_msg=name)
        assert found.tokens[name] == vectors


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "BertForSequenceClassification"])
def test_padding_counts_for_nothing(calibrated, architecture):
    model, dataset = calibrated(architecture)
    fitted = fit(read(dataset), model)
    lengths = [len(item.content) for item in fitted.items]
    assert len(set(lengths)) > 1
    layers = [layer for layer in prunable_layers(model.module) if "layer" in layer.name]
    tokens = input_norms(model, layers, dataset).tokens
    assert set(tokens.values()) == {sum(lengths)}


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "ViTForImageClassification"])
def test_bfloat16_inputs_are_summed_in_full_precision(calibrated, architecture):
    model, dataset = calibrated(architecture, "bfloat16")
    fitted = fit(read(dataset), model)
    fitted = Fitted(items=fitted.items[:1])  # one example: every run sees the same rounded numbers
    found = input_norms_over(model, prunable_layers(model.module), fitted)
    for name, calls in inputs_of_every_layer(model, fitted).items():
        squares, _ = by_loops(model.module.get_submodule(name), calls)
        np.testing.assert_allclose(found.squares[name].numpy(), squares, rtol=1e-6, err_msg=name)


def test_twice_the_data_gives_twice_the_sums(calibrated):
    model, dataset = calibrated("LlamaForCausalLM")
    fitted = fit(read(dataset), model)
    layers = prunable_layers(model.module)
    once = input_norms_over(model, layers, fitted)
    twice = input_norms_over(model, layers, Fitted(items=fitted.items * 2))
    for name, squares in once.squares.items():
        torch.testing.assert_close(twice.squares[name], 2 * squares, rtol=1e-5, atol=1e-9)
        assert twice.tokens[name] == 2 * once.tokens[name]


def test_a_part_of_the_layers_gets_the_very_same_sums(calibrated):
    model, dataset = calibrated("LlamaForCausalLM")
    layers = prunable_layers(model.module)
    whole = input_norms(model, layers, dataset)
    part = input_norms(model, layers[3:5], dataset)
    assert list(part.squares) == [layer.name for layer in layers[3:5]]
    assert all(torch.equal(part.squares[name], whole.squares[name]) for name in part.squares)


def test_no_hook_stays_behind_even_if_the_model_fails(calibrated, monkeypatch):
    model, dataset = calibrated("MLPForClassification")
    input_norms(model, prunable_layers(model.module), dataset)
    monkeypatch.setattr(model.module, "activation", lambda hidden: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        input_norms(model, prunable_layers(model.module), dataset)
    assert all(not part._forward_pre_hooks for part in model.module.modules())


def test_a_layer_that_nothing_comes_to_is_listed(calibrated):
    model, dataset = calibrated("MLPForClassification")
    model.module.spare = nn.Linear(3, 2)
    try:
        found = input_norms(model, prunable_layers(model.module), dataset)
    finally:
        del model.module.spare
    assert found.unreached == ("spare",)
    assert "spare" not in found.squares


def test_inputs_that_are_not_finite_are_refused_with_the_layer(calibrated, monkeypatch):
    model, dataset = calibrated("MLPForClassification")
    monkeypatch.setattr(model.module, "activation", lambda hidden: hidden * float("inf"))
    with pytest.raises(BadInput, match="NaN or infinite") as caught:
        input_norms(model, prunable_layers(model.module), dataset)
    assert caught.value.tensor == "layers.1"


def test_what_is_said_of_the_data_is_passed_on(calibrated):
    model, dataset = calibrated("LlamaForCausalLM", max_position_embeddings=16)
    found = input_norms(model, prunable_layers(model.module), dataset)
    assert [finding.kind for finding in found.findings] == ["truncated_examples"]
    assert max(found.tokens.values()) == 12 * 16


# --- convolutions and shared weights, as modules of their own


def model_around(module: nn.Module) -> Model:
    config = SimpleNamespace(num_labels=2)
    unused: Any = None
    return Model(
        built_from=NO_CONFIG,
        module=module,
        family="feature_classifier",
        config=config,
        path=Path(),
        checkpoint=unused,
        naming=unused,
    )


def examples(*shape: int, count: int = 3) -> Fitted:
    draw = np.random.default_rng(0)
    return Fitted(
        items=tuple(
            Item(number=n, slices={}, content=draw.normal(size=shape).astype(np.float32), label=0)
            for n in range(count)
        )
    )


class Around(nn.Module):
    """Calls one layer on the inputs, by its keyword."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(input=inputs)
        return result


CONVOLUTIONS: Sequence[Mapping[str, Any]] = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1)},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": (2, 3), "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": 3, "dilation": 2, "padding": 2, "stride": 3},
    {"kernel_size": 1, "stride": 3},
    {"kernel_size": 3, "groups": 2},
    {"kernel_size": 2, "groups": 4, "padding": 1},
]


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_convolutions_are_unfolded_as_the_convolution_itself_does(options):
    layer = nn.Conv2d(4, 8, **options)
    model, fitted = model_around(Around(layer)), examples(4, 7, 9)
    layers = prunable_layers(model.module)
    found = input_norms_over(model, layers, fitted)
    calls = [torch.from_numpy(item.content)[None] for item in fitted.items]
    squares, vectors = by_loops(layer, calls)
    np.testing.assert_allclose(found.squares["layer"].numpy(), squares, rtol=1e-6)
    assert found.squares["layer"].shape == (layers[0].inputs,)
    assert found.tokens["layer"] == vectors


@pytest.mark.parametrize("options", CONVOLUTIONS)
def test_the_sums_say_how_much_the_output_changes_with_each_weight_alone(options):
    """Zeroing weight w of a row changes the sum of squared outputs' difference by exactly w^2 * its input's sum."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, bias=False, **options).double()
    model, fitted = model_around(Around(layer)), examples(4, 7, 9)
    (named,) = prunable_layers(model.module)
    squares = input_norms_over(model, [named], fitted).squares["layer"].reshape(named.groups, -1)
    inputs = torch.from_numpy(np.stack([item.content for item in fitted.items])).double()
    flat = layer.weight.detach().reshape(8, -1)
    with torch.no_grad():
        dense = layer(inputs)
        for row, column in product(range(8), range(flat.shape[1])):
            before = float(flat[row, column])
            flat[row, column] = 0
            change = float((layer(inputs) - dense).square().sum())
            flat[row, column] = before
            group = row // (8 // named.groups)
            assert change == pytest.approx(before**2 * float(squares[group, column]), rel=1e-5)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_repeats_the_input_is_counted_as_such(mode):
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode)
    fitted = examples(2, 5, 6)
    found = input_norms_over(model_around(Around(layer)), prunable_layers(Around(layer)), fitted)
    inputs = torch.from_numpy(np.stack([item.content for item in fitted.items]))
    unfolded = nn.functional.unfold(nn.functional.pad(inputs, (1, 1, 1, 1), mode=mode), 3)
    np.testing.assert_allclose(
        found.squares["layer"].numpy(), unfolded.double().square().sum((0, 2)), rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_a_convolution_that_keeps_the_size_by_padding_more_on_one_side():
    layer = nn.Conv2d(1, 1, (2, 4), padding="same")
    fitted = examples(1, 5, 6)
    found = input_norms_over(model_around(Around(layer)), prunable_layers(Around(layer)), fitted)
    inputs = torch.from_numpy(np.stack([item.content for item in fitted.items]))
    unfolded = nn.functional.unfold(nn.functional.pad(inputs, (1, 2, 0, 1)), (2, 4))
    np.testing.assert_allclose(
        found.squares["layer"].numpy(), unfolded.double().square().sum((0, 2)), rtol=1e-6
    )
    assert found.tokens["layer"] == 3 * 5 * 6


def test_one_dimensional_convolutions_are_unfolded_too():
    layer = nn.Conv1d(3, 5, 4, stride=2, padding=1)
    fitted = examples(3, 11)
    found = input_norms_over(model_around(Around(layer)), prunable_layers(Around(layer)), fitted)
    inputs = torch.from_numpy(np.stack([item.content for item in fitted.items]))
    unfolded = nn.functional.pad(inputs, (1, 1)).unfold(2, 4, 2)  # [members, channels, places, kernel]
    expected = unfolded.double().square().sum((0, 2)).flatten()
    np.testing.assert_allclose(found.squares["layer"].numpy(), expected, rtol=1e-6)
    assert found.tokens["layer"] == 3 * unfolded.shape[2]


class Shared(nn.Module):
    """Two modules, one weight; the second sees other inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(self.first(inputs)))
        return result


def test_a_weight_used_three_times_sums_the_inputs_of_all_three():
    module = Shared()
    fitted = examples(4, count=5)
    found = input_norms_over(model_around(module), prunable_layers(module), fitted)
    inputs = torch.from_numpy(np.stack([item.content for item in fitted.items]))
    with torch.no_grad():
        once = module.first(inputs)
        twice = module.first(once)
    expected = sum(part.double().square().sum(0) for part in (inputs, once, twice))
    np.testing.assert_allclose(found.squares["first"].numpy(), expected, rtol=1e-6)
    assert found.tokens["first"] == 15


class Empty(nn.Module):
    """Routes nothing to one of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.idle(inputs[:0])
        result: torch.Tensor = self.used(inputs)
        return result


def test_a_layer_called_without_a_single_vector_is_not_reached():
    module = Empty()
    found = input_norms_over(model_around(module), prunable_layers(module), examples(4))
    assert found.unreached == ("idle",)
    assert list(found.squares) == ["used"]
