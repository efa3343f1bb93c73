"""Effects. Estimates the running statistics of batch norms again, over all examples of a data set at once."""

from __future__ import annotations

import torch
from torch import nn

from tasks.examples.batches import batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.models import Model

_Norm = nn.modules.batchnorm._BatchNorm


def batch_norms(module: nn.Module) -> tuple[str, ...]:
    """Names of the batch norms that keep running statistics."""
    return tuple(
        name
        for name, part in module.named_modules()
        if isinstance(part, _Norm) and part.running_mean is not None and part.running_var is not None
    )


def reestimate_(model: Model, fitted: Fitted) -> tuple[str, ...]:
    """Sets each running mean and (unbiased) variance to those of the norm's inputs; names of the buffers that it set.

    One norm after the other in the order of their use, so that each sees what the ones before it give with their new
    statistics, and how examples are batched does not matter; that takes a pass for each norm. Norms that no example
    comes to stay as they are.
    """
    changed: list[str] = []
    for name in _in_order_of_use(model, fitted):
        norm = model.module.get_submodule(name)
        assert isinstance(norm, _Norm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        found = _moments(model, fitted, norm)
        if found is None:
            continue
        mean, variance = found
        norm.running_mean = mean.to(norm.running_mean.dtype)
        norm.running_var = variance.to(norm.running_var.dtype)
        changed += [f"{name}.running_mean", f"{name}.running_var"]
    return tuple(changed)


def _moments(model: Model, fitted: Fitted, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Mean and unbiased variance of each channel of all that the norm is given; None for a single value."""
    sums: list[torch.Tensor] = []
    count = 0

    def add(_part: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        nonlocal count
        rows = given[0].detach().double().transpose(0, 1).flatten(1)
        if not sums:  # near the mean, so that no difference of large sums is taken
            shift = rows.mean(1)
            sums.extend([shift, torch.zeros_like(shift), torch.zeros_like(shift)])
        away = rows - sums[0][:, None]
        sums[1] += away.sum(1)
        sums[2] += away.square().sum(1)
        count += rows.shape[1]

    handle = norm.register_forward_pre_hook(add)
    try:
        with torch.no_grad():
            for batch in batches(fitted, model, padded=False):
                logits_of(model, batch)
    finally:
        handle.remove()
    if count < 2:
        return None
    off = sums[1] / count
    return sums[0] + off, (sums[2] - count * off.square()) / (count - 1)


def _in_order_of_use(model: Model, fitted: Fitted) -> list[str]:
    used: dict[str, None] = {}
    handles = [
        model.module.get_submodule(name).register_forward_hook(
            lambda _part, _given, _answer, name=name: used.setdefault(name)
        )
        for name in batch_norms(model.module)
    ]
    try:
        with torch.no_grad():
            logits_of(model, next(batches(fitted, model, padded=False)))
    finally:
        for handle in handles:
            handle.remove()
    return list(used)
