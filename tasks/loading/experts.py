"""Pure. The experts of fused weights as layers of their own: which part of which parameter and stored tensor each one is.

transformers holds the experts of a block in parameters of three dimensions, [experts, outputs, inputs] or, where its class
says so, [experts, inputs, outputs]. Files hold such a parameter as it is, or a tensor for each expert and projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tasks.contract import Finding
from tasks.loading.models import Layer, Model, Place
from tasks.loading.naming import Assembly

_PROBE = (2, 3)
"""The shape of what stands for a stored tensor while it is looked where transformers puts it."""
_Places = Mapping[str, tuple[int, int]]


def expert_layers(model: Model) -> tuple[list[Layer], list[Finding]]:
    """A layer for each expert's projection as it is stored, in module order; and a finding for each weight that resists."""
    layers: list[Layer] = []
    findings: list[Finding] = []
    fused = list(fused_weights(model.module))
    assembled = [_places(assembly, model.module) for assembly in model.naming.assemblies] if fused else []
    places = {name: found for made in assembled for name, found in made.items()}
    for name, part, weight in fused:
        found = list(_layers_of(model, name, bool(part.is_transposed), weight, places.get(name, {})))
        layers.extend(found)
        if not found:
            message = "its experts are put together in a manner that is not taken apart, so it is not pruned"
            findings.append(Finding(kind="skipped_layer", subject=name, message=message))
    return layers, findings


def fused_weights(module: nn.Module) -> Iterator[tuple[str, Any, nn.Parameter]]:
    """(name, the module of the experts, the parameter) of each weight that holds one matrix an expert."""
    for path, part in module.named_modules():
        experts = getattr(part, "num_experts", None)
        if not (isinstance(getattr(part, "is_transposed", None), bool) and isinstance(experts, int)):
            continue
        for leaf, weight in part.named_parameters(recurse=False):
            if weight.dim() == 3 and weight.shape[0] == experts:
                yield f"{path}.{leaf}" if path else leaf, part, weight


def _layers_of(
    model: Model, name: str, transposed: bool, weight: nn.Parameter, places: _Places
) -> Iterator[Layer]:
    for stored in model.naming.stored.get(name, ())[:1]:
        shape = tuple(weight.shape[1:])
        for expert in range(weight.shape[0]):
            place = Place(expert=expert, start=0, stop=shape[transposed], tensor=stored, index=expert)
            yield _layer(f"{name}.{expert}", name, shape, transposed, place)
    if transposed:
        return
    for stored, (expert, run) in places.items():
        shape = model.checkpoint.entry(stored).shape
        start, stop = run * shape[0], (run + 1) * shape[0]
        place = Place(expert=expert, start=start, stop=stop, tensor=stored, index=None)
        if stop > weight.shape[1] or shape[1] != weight.shape[2]:
            return
        yield _layer(stored.removesuffix(".weight"), name, shape, False, place)


def _layer(name: str, weight: str, shape: tuple[int, ...], transposed: bool, place: Place) -> Layer:
    outputs, inputs = (shape[1], shape[0]) if transposed else shape
    return Layer(
        name=name,
        weight=weight,
        shape=shape,
        parameters=outputs * inputs,
        outputs=outputs,
        inputs=inputs,
        transposed=transposed,
        place=place,
    )


def _places(assembly: Assembly, module: nn.Module) -> dict[str, _Places]:
    """By weight: stored tensor -> (expert, which run of rows of it), seen on small stand-ins; only if that is all to it."""
    size = _PROBE[0] * _PROBE[1]
    stored = [source for source, _ in assembly.sources]
    probes = {source: torch.arange(size).reshape(_PROBE) + at * size for at, source in enumerate(stored)}
    try:
        made = assembly.assemble(module, probes.__getitem__)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError):
        return {}
    return {name: _found_again(tensor, probes) for name, tensor in made.items()}


def _found_again(made: torch.Tensor, probes: Mapping[str, torch.Tensor]) -> _Places:
    high, wide = _PROBE
    if made.dim() != 3 or made.shape[2] != wide or made.shape[1] % high:
        return {}
    stored = list(probes)
    found: dict[str, tuple[int, int]] = {}
    for expert, block in enumerate(made):
        for run, rows in enumerate(block.split(high)):
            source = stored[min(len(stored) - 1, int(rows[0, 0]) // (high * wide))]
            if not torch.equal(rows, probes[source]):
                return {}
            found[source] = expert, run
    return found if len(found) * high * wide == made.numel() else {}
