"""Pure. The MLP that prunefleet brings along: built from a config, or refused with the key at fault."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tasks.contract import BadInput
from tasks.loading.architectures import ARCHITECTURES, MAX_HIDDEN_LAYERS, MAX_SIZE, MLPForClassification

GOOD: dict[str, Any] = {"input_size": 6, "hidden_sizes": [5, 4], "num_labels": 3, "activation": "relu"}


def test_the_mapping_builds_the_module_and_names_its_family():
    architecture = ARCHITECTURES["MLPForClassification"]
    assert architecture.family == "feature_classifier"
    assert isinstance(architecture.build(GOOD), MLPForClassification)


def test_the_mapping_cannot_be_changed():
    with pytest.raises(TypeError):
        ARCHITECTURES["Other"] = ARCHITECTURES["MLPForClassification"]  # type: ignore[index]


def test_tensors_are_named_layer_by_layer_with_output_first():
    shapes = {name: tuple(value.shape) for name, value in MLPForClassification(GOOD).state_dict().items()}
    assert shapes == {
        "layers.0.weight": (5, 6),
        "layers.0.bias": (5,),
        "layers.1.weight": (4, 5),
        "layers.1.bias": (4,),
        "layers.2.weight": (3, 4),
        "layers.2.bias": (3,),
    }


def test_forward_gives_one_logit_per_label():
    assert MLPForClassification(GOOD)(torch.zeros(7, 6)).shape == (7, 3)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_forward_is_the_written_formula(activation: str):
    torch.manual_seed(0)
    module = MLPForClassification({**GOOD, "activation": activation})
    weights = module.state_dict()
    inputs = torch.randn(4, 6)
    hidden = inputs
    for index in range(2):
        hidden = hidden @ weights[f"layers.{index}.weight"].T + weights[f"layers.{index}.bias"]
        hidden = (
            hidden.clamp(min=0) if activation == "relu" else hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        )
    expected = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    torch.testing.assert_close(module(inputs), expected, rtol=1e-5, atol=1e-6)


def test_no_activation_stands_after_the_last_layer():
    module = MLPForClassification({**GOOD, "hidden_sizes": []})
    with torch.no_grad():
        module.layers[0].weight.fill_(-1.0)
        module.layers[0].bias.zero_()
    assert (module(torch.ones(1, 6)) == -6).all()


def test_activation_is_relu_where_the_config_names_none():
    config = {key: value for key, value in GOOD.items() if key != "activation"}
    assert MLPForClassification(config).activation is torch.nn.functional.relu


def test_keys_of_other_programs_are_ignored():
    assert MLPForClassification({**GOOD, "architectures": ["MLPForClassification"], "model_type": "mlp"})


def test_building_on_the_meta_device_takes_no_memory_whatever_the_sizes():
    with torch.device("meta"):
        module = MLPForClassification(
            {"input_size": MAX_SIZE, "hidden_sizes": [MAX_SIZE], "num_labels": MAX_SIZE, "activation": "gelu"}
        )
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_the_same_seed_gives_the_same_weights():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(MLPForClassification(GOOD).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("key", ["input_size", "hidden_sizes", "num_labels"])
def test_a_missing_key_is_named(key: str):
    config = {name: value for name, value in GOOD.items() if name != key}
    with pytest.raises(BadInput, match=f"{key} is missing"):
        MLPForClassification(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_size", 0),
        ("input_size", -3),
        ("input_size", MAX_SIZE + 1),
        ("input_size", 10**30),
        ("input_size", 6.0),
        ("input_size", "6"),
        ("input_size", True),
        ("input_size", None),
        ("num_labels", 1),
        ("num_labels", False),
        ("num_labels", [3]),
        ("hidden_sizes", 5),
        ("hidden_sizes", "55"),
        ("hidden_sizes", {"0": 5}),
        ("hidden_sizes", [5] * (MAX_HIDDEN_LAYERS + 1)),
        ("hidden_sizes", [5, 0]),
        ("hidden_sizes", [5, float("nan")]),
        ("hidden_sizes", [[5]]),
        ("activation", "tanh"),
        ("activation", "__import__('os')"),
        ("activation", ["relu"]),
        ("activation", None),
    ],
)
def test_nonsense_is_refused_with_its_key_and_file(key: str, value: object):
    with pytest.raises(BadInput) as caught:
        MLPForClassification({**GOOD, key: value})
    assert key in caught.value.why
    assert caught.value.file == "config.json"
    assert caught.value.do


def test_a_bad_entry_of_a_list_is_named_by_its_place():
    with pytest.raises(BadInput, match=r"hidden_sizes\[1\] is 0"):
        MLPForClassification({**GOOD, "hidden_sizes": [5, 0]})


def test_a_refusal_quotes_at_most_a_little_of_a_long_value():
    with pytest.raises(BadInput) as caught:
        MLPForClassification({**GOOD, "activation": "x" * 100_000})
    assert len(str(caught.value)) < 400
