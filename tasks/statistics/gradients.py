"""Effects. Runs examples through a model and back, and sums up the loss's derivatives by each layer's weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from tasks.contract import BadInput
from tasks.evaluation import scores_of
from tasks.examples.batches import batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.families import answer_of
from tasks.loading.models import Layer, Model
from tasks.statistics.hessians import unfolded
from tasks.statistics.passes import Passes

LIMIT_BYTES = 2**30
"""Of the derivatives that are there at the same time; a single larger one still is."""
BATCH_TOKENS = 512
"""Of a batch whose examples may be summed: all that a batch computes is held until its way back."""

Uses = Callable[[Layer, nn.Module, torch.Tensor, torch.Tensor], None]
"""(layer, the module that uses its weight, what that was given, the derivative of the loss by what it gave)."""


def gradients(
    model: Model, layers: Sequence[Layer], fitted: Fitted, *, squared: bool, limit: int = LIMIT_BYTES
) -> Passes:
    """As they are asked for, [outputs, inputs / groups] in float32 on the model's device.

    The sum over examples of the derivative of the example's loss by the weight (of a text, the loss is summed over its
    tokens); or `squared`, the root of the sum of their squares, for which every example goes alone.
    Errors: BadInput, if the model has no loss, or a loss or derivative is not finite.
    """
    if answer_of(model.family) == "embedding":
        raise _refusal(f"a model of the family {model.family} has no head, so it has no loss", "")
    return Passes(
        layers=layers,
        gather=partial(_gather, model, fitted, squared),
        size=partial(gradient_bytes, squared=squared),
        limit=limit,
    )


def gradient_bytes(layer: Layer, *, squared: bool) -> int:
    """What the derivatives of a layer take while they are gathered."""
    return 4 * layer.parameters * (2 if squared else 1)


def _gather(
    model: Model, fitted: Fitted, squared: bool, layers: Sequence[Layer]
) -> Mapping[str, torch.Tensor]:
    device = next(model.module.parameters()).device
    sums = {layer.name: torch.zeros(_shape(layer), device=device) for layer in layers}
    example: dict[str, torch.Tensor] = {}

    def add(layer: Layer, module: nn.Module, given: torch.Tensor, by_output: torch.Tensor) -> None:
        total = example if squared else sums
        if layer.name not in total:
            total[layer.name] = torch.zeros(_shape(layer), device=device)
        _add_(total[layer.name], layer, module, given, by_output)

    with torch.enable_grad(), _watching_both_ways(model.module, layers, add):
        for batch in batches(fitted, model, 1 if squared else BATCH_TOKENS, padded=False):
            loss = scores_of(model, logits_of(model, batch), batch).losses.sum()
            _check(loss.detach())
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            for name, derivative in example.items():
                sums[name].addcmul_(derivative, derivative)
            example.clear()
    for name, total in sums.items():
        if squared:
            total.sqrt_()
        if not bool(torch.isfinite(total).all()):
            raise _refusal("a derivative of the loss by the layer's weight is NaN or infinite", name)
    return sums


def _shape(layer: Layer) -> tuple[int, int]:
    return layer.outputs, layer.inputs // layer.groups


def _check(loss: torch.Tensor) -> None:
    if not bool(torch.isfinite(loss)):
        raise _refusal(f"the dense model's loss on an example is {float(loss)}", "")


def _refusal(why: str, tensor: str) -> BadInput:
    return BadInput(
        "the model has no gradients",
        why=why,
        do="Use a criterion without gradients; or, if the model overflows, run it in a wider dtype.",
        tensor=tensor,
    )


def _add_(
    total: torch.Tensor, layer: Layer, module: nn.Module, given: torch.Tensor, by_output: torch.Tensor
) -> None:
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        vectors = given.reshape(-1, layer.inputs).float()
        total.addmm_(by_output.reshape(-1, layer.outputs).float().t(), vectors)
        return
    rows, columns = layer.outputs // layer.groups, layer.inputs // layer.groups
    for at in range(len(given)):
        seen = unfolded(module, given[at : at + 1])
        outputs = by_output[at].reshape(layer.outputs, -1).float()
        for group in range(layer.groups):
            ours = slice(group * rows, (group + 1) * rows)
            total[ours].addmm_(outputs[ours], seen[:, group * columns : (group + 1) * columns])


@contextmanager
def _watching_both_ways(module: nn.Module, layers: Sequence[Layer], add: Uses) -> Iterator[None]:
    """Shows `add` every use of a layer when the way back comes to it; no weight asks for its gradient, nothing stays."""
    by_weight = {id(module.get_parameter(layer.weight)): layer for layer in layers}
    device = next(module.parameters()).device
    anchor = torch.zeros((), device=device, requires_grad=True)

    def after(part: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor) -> Any:
        layer = by_weight[id(part.weight)]
        inputs = (given[0] if given else next(iter(named.values()))).detach()
        return _Tap.apply(output, anchor, partial(add, layer, part, inputs))  # type: ignore[no-untyped-call]

    holders = [part for part in module.modules() if id(part._parameters.get("weight")) in by_weight]
    handles = [part.register_forward_hook(after, with_kwargs=True) for part in holders]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Tap(torch.autograd.Function):
    """Lets a value through, and shows what comes back; the anchor makes sure that something does."""

    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, anchor: torch.Tensor, see: Callable[[torch.Tensor], None]
    ) -> torch.Tensor:
        ctx.see = see
        return value.clone()  # a view could not be written to by what follows

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        ctx.see(gradients[0])
        return gradients[0], None, None
