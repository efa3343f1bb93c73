"""Pure. prunefleet's own architectures, next to those of transformers: name in config.json -> builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from tasks.contract import BadInput

MAX_SIZE = (
    2**20
)  # of a layer: far above any classifier of flat vectors, far below what an int of a tensor shape holds
MAX_HIDDEN_LAYERS = 256

_ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """How to build a module from config.json, and what kind of model it is."""

    build: Callable[[Mapping[str, Any]], nn.Module]
    """Config -> module with untrained weights, on torch's current default device; raises BadInput."""
    family: str
    """One of tasks.loading.models' families; decides what the module is called with and what it returns."""


class MLPForClassification(nn.Module):
    """A plain multilayer perceptron: linear layers `layers.0` … `layers.N` with an activation between them.

    Config keys: input_size, hidden_sizes (a list, may be empty), num_labels (>= 2), activation (relu, gelu).
    """

    least_outputs = 2

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        inputs = _size(config, "input_size", 1)
        labels = _size(config, "num_labels", self.least_outputs)
        hidden = _hidden_sizes(config)
        self.activation = _activation(config)
        sizes = (inputs, *hidden, labels)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs: float [batch, input_size] -> logits [batch, num_labels]."""
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = self.activation(layer(hidden))
        logits: torch.Tensor = self.layers[-1](hidden)
        return logits


class MLPForRegression(MLPForClassification):
    """The same with `num_labels` (>= 1) numbers to predict in place of classes."""

    least_outputs = 1


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "MLPForClassification": Architecture(build=MLPForClassification, family="feature_classifier"),
        "MLPForRegression": Architecture(build=MLPForRegression, family="feature_regressor"),
    }
)
"""Name in config.json's `architectures` -> how to build it."""


def _size(config: Mapping[str, Any], key: str, least: int) -> int:
    if key not in config:
        raise _refusal(key, "is missing", f"Add {key} to config.json.")
    return _checked_size(config[key], key, least)


def _checked_size(value: object, key: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_SIZE:
        raise _refusal(key, f"is {value!r:.80}", f"Use a whole number from {least} to {MAX_SIZE}.")
    return value


def _hidden_sizes(config: Mapping[str, Any]) -> tuple[int, ...]:
    key = "hidden_sizes"
    if key not in config:
        raise _refusal(
            key, "is missing", f"Add {key} to config.json: a list of layer sizes, which may be empty."
        )
    value = config[key]
    if not isinstance(value, list | tuple) or len(value) > MAX_HIDDEN_LAYERS:
        raise _refusal(key, f"is {value!r:.80}", f"Use a list of at most {MAX_HIDDEN_LAYERS} layer sizes.")
    return tuple(_checked_size(size, f"{key}[{index}]", 1) for index, size in enumerate(value))


def _activation(config: Mapping[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    name = config.get("activation", "relu")
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise _refusal("activation", f"is {name!r:.80}", f"Use one of {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[name]


def _refusal(key: str, why: str, do: str) -> BadInput:
    return BadInput(
        "the multilayer perceptron cannot be built", why=f"{key} {why}", do=do, file="config.json"
    )
