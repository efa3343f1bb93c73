"""Pure. How large and how laborious a model is, from counts and shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tasks.loading.families import READS_FEATURES, READS_IMAGES, READS_TEXT
from tasks.loading.models import Layer, Model, prunable_layers

_TRACING_FAILS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
"""What models raise when they look at values, which tensors on the meta device do not have."""
_USUAL_IMAGE = 224
HEAD = ""


def dense_flops(model: Model) -> int | None:
    """2 x multiply-adds of the linear and convolutional layers, the output head among them, for one example.

    One example is one token of text, one image of the config's size, or one vector. Attention scores, norms and fused
    experts are not counted. None if the model cannot be run without data. `model` is on the meta device.
    """
    counted = flops_by_layer(model)
    return None if counted is None else sum(counted.values())


def flops_by_layer(model: Model) -> dict[str, int] | None:
    """What each layer adds to `dense_flops`, by its name; under "" what the output head adds."""
    layers = prunable_layers(model.module)
    inputs = _one_example(model)
    if inputs is None:
        return None
    total = {layer.name: 0 for layer in layers} | {HEAD: 0}

    def add(name: str, weights: int, outputs: int, result: torch.Tensor) -> None:
        total[name] += 2 * weights * (result.numel() // outputs)

    try:
        with torch.no_grad(), _watching(model.module, layers, add):
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
            lambda _part, _inputs, result, rest=(name, weights, outputs): add(*rest, result)
        )
        for name, part, weights, outputs in watched
        if outputs
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
