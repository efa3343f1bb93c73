"""Pure. How large and how laborious a model is, from counts and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tasks.loading.experts import fused_weights
from tasks.loading.families import READS_FEATURES, READS_IMAGES, READS_TEXT
from tasks.loading.models import Layer, Model, prunable_layers

_TRACING_FAILS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What models raise when they look at values, which tensors on the meta device do not have."""
_USUAL_IMAGE = 224
HEAD = ""


def dense_flops(model: Model) -> int | None:
    """2 x multiply-adds of the linear and convolutional layers, the output head among them, for one example.

    One example is one token of text, one image of the config's size, or one vector; of fused experts, as many are counted as
    a token is routed to. Attention scores and norms are not counted. None if the model cannot be run without data. `model`
    is on the meta device.
    """
    counted = flops_by_layer(model)
    return None if counted is None else sum(counted.values())


def flops_by_layer(model: Model) -> dict[str, int] | None:
    """What each layer adds to `dense_flops`, by its name; under "" what the output head adds.

    What fused experts add is under the name of their weight: which of them do the work is the router's choice.
    """
    layers = prunable_layers(model.module)
    inputs = _one_example(model)
    if inputs is None:
        return None
    fused = list(fused_weights(model.module))
    total = {layer.name: 0 for layer in layers} | {name: 0 for name, _, _ in fused} | {HEAD: 0}

    def add(name: str, weights: int, times: int) -> None:
        total[name] += 2 * weights * times

    try:
        with torch.no_grad(), _watching(model.module, layers, add), _standing_in(fused, add):
            model.module(**inputs) if isinstance(inputs, dict) else model.module(inputs)
    except _TRACING_FAILS:
        return None
    return total


def parameter_names(model: Model) -> tuple[str, ...]:
    """The stored tensors that are parameters of the model, a shared one once; buffers are none."""
    parameters = dict(model.module.named_parameters(remove_duplicate=False))
    direct = [stored[0] for first, stored in model.naming.stored.items() if first in parameters]
    parts = [name for assembly in model.naming.assemblies for name, _ in assembly.sources]
    chosen = {*direct, *parts}
    return tuple(name for name in model.checkpoint.names if name in chosen)


def _one_example(model: Model) -> dict[str, torch.Tensor] | torch.Tensor | None:
    match model.family:
        case family if family in READS_TEXT:
            return {"input_ids": torch.zeros(1, 1, dtype=torch.long, device="meta")}
        case family if family in READS_IMAGES:
            size = getattr(model.config, "image_size", _USUAL_IMAGE)
            height, width = size if isinstance(size, list | tuple) else (size, size)
            channels = getattr(model.config, "num_channels", 3)
            dtype = next(model.module.parameters()).dtype
            return {"pixel_values": torch.zeros(1, channels, height, width, dtype=dtype, device="meta")}
        case family if family in READS_FEATURES and hasattr(model.config, "input_size"):
            dtype = next(model.module.parameters()).dtype
            return torch.zeros(1, model.config.input_size, dtype=dtype, device="meta")
    return None


@contextmanager
def _watching(module: Any, layers: tuple[Layer, ...], add: Any) -> Iterator[None]:
    watched: list[tuple[str, nn.Module, int, int]] = [
        (layer.name, module.get_submodule(layer.name), layer.parameters, layer.outputs) for layer in layers
    ]
    head = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if isinstance(head, nn.Linear):
        watched.append((HEAD, head, head.weight.numel(), head.out_features))
    hooks = [
        part.register_forward_hook(
            lambda _part, _inputs, result, name=name, weights=weights, outputs=outputs: add(
                name, weights, result.numel() // outputs
            )
        )
        for name, part, weights, outputs in watched
        if outputs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _standing_in(fused: Sequence[tuple[str, Any, nn.Parameter]], add: Any) -> Iterator[None]:
    """Only counts what fused experts would do: where they send each token is in its values, which are not there."""
    parts = {id(part): part for _, part, _ in fused}
    for key, part in parts.items():
        weights = [(name, weight[0].numel()) for name, owner, weight in fused if id(owner) == key]

        def forward(
            hidden: torch.Tensor, chosen: torch.Tensor, *_: Any, weights: list[tuple[str, int]] = weights
        ) -> torch.Tensor:
            for name, size in weights:
                add(name, size, chosen.numel())
            return torch.empty_like(hidden)

        part.forward = forward
    try:
        yield
    finally:
        for part in parts.values():
            del part.forward
