"""Pure. What may remain of a model -> how much must go of its layers, and what one weight of each counts.

Each is a share of what the whole dense model has, embeddings and all that is never pruned included:

- `parameters`: entries that are not zero.
- `flops`: effective multiply-adds, 2 for each that meets a nonzero weight, of one example (see `tasks.measuring.measures`). A dense
  runtime does them all; only one that skips zeros gains.
- `bytes`: each tensor that is pruned as a bit mask, one bit an entry, and its nonzero values; all others as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tasks.amounts.allocation import Goal, remaining
from tasks.contract import BadInput
from tasks.loading.models import Layer, Model
from tasks.masks.selection import stored_names
from tasks.measuring.measures import flops_by_layer, parameter_names

KINDS = ("parameters", "flops", "bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What a pruned model has, in the units of the budgets; a dense one where nothing went."""

    parameters: int
    flops: int | None
    """None if the model cannot be run without data."""
    bytes: int


def goal_of(kind: str, share: float, model: Model, layers: Sequence[Layer]) -> Goal:
    """What a budget asks of the layers. BadInput for flops that are not known."""
    whole = remains(model, layers, {})
    item = {layer.name: model.checkpoint.dtype(stored_names(model, layer)[0]).itemsize for layer in layers}
    match kind:
        case "parameters":
            worth, there, dense = {layer.name: 1 for layer in layers}, whole.parameters, whole.parameters
        case "bytes":
            worth, there, dense = item, whole.bytes, dense_tensor_bytes(model)
        case "flops":
            found = known_flops(model, layers)
            assert whole.flops is not None, "they are known"
            worth = {layer.name: found[layer.name] // layer.parameters for layer in layers}
            there = dense = whole.flops
        case _:
            raise BadInput(
                "the budget cannot be counted",
                why=f"{kind!r} is none of {', '.join(KINDS)}",
                do="Correct the recipe's prune.budget.",
            )
    return Goal(worth=worth, wanted=there - remaining(share, dense), of=dense)


def known_flops(model: Model, layers: Sequence[Layer]) -> dict[str, int]:
    """`flops_by_layer`, which must have all of these; else BadInput."""
    found = flops_by_layer(model)
    if found is None:
        raise BadInput(
            "the budget cannot be counted",
            why="the model cannot be traced without data, so its flops are not known",
            do="Give a budget of parameters or bytes.",
        )
    if any(layer.name not in found for layer in layers):
        raise BadInput(
            "the budget cannot be counted",
            why="which expert of a fused weight works is the router's choice, so the flops of a single one are not known",
            do="Give a budget of parameters or bytes.",
        )
    return found


def remains(model: Model, layers: Sequence[Layer], pruned: Mapping[str, int]) -> Remains:
    """What stays if so many weights of each layer are zero, nothing being zero anywhere else."""
    checkpoint, names = model.checkpoint, parameter_names(model)
    flops = flops_by_layer(model)
    gone = {layer.name: pruned.get(layer.name, 0) for layer in layers}
    if flops is not None:
        for name, (zeros, size) in _zeros_by_flops(model, layers, gone).items():
            flops[name] -= flops[name] * zeros // size
    encoded = 0
    for layer in layers:
        width = checkpoint.dtype(stored_names(model, layer)[0]).itemsize
        encoded += -(-layer.parameters // 8) - width * gone[layer.name]
    return Remains(
        parameters=sum(checkpoint.entry(name).elements for name in names) - sum(gone.values()),
        flops=None if flops is None else sum(flops.values()),
        bytes=dense_tensor_bytes(model) + encoded,
    )


def _zeros_by_flops(
    model: Model, layers: Sequence[Layer], gone: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
    """(zeros, weights) of whatever `flops_by_layer` names; experts of a fused weight together, as if chosen equally often."""
    found: dict[str, tuple[int, int]] = {}
    for layer in layers:
        if layer.place is None:
            found[layer.name] = gone[layer.name], layer.parameters
        else:
            zeros, size = found.get(layer.weight, (0, model.module.get_parameter(layer.weight).numel()))
            found[layer.weight] = zeros + gone[layer.name], size
    return found


def dense_tensor_bytes(model: Model) -> int:
    """Of the stored parameters, a shared one once."""
    entries = [model.checkpoint.entry(name) for name in parameter_names(model)]
    return sum(entry.end - entry.begin for entry in entries)
