"""Effects. Short distillation: a pruned model learns to answer as its dense parent does, its zeros held where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tasks.examples.asking import NOT_ASKED
from tasks.examples.batches import Batch, asked_of, batches, logits_of
from tasks.examples.fitting import Fitted
from tasks.loading.families import answer_of
from tasks.loading.models import Model

LOOKS = 8
"""How often the held-out loss is looked at, the end included."""
_CLIP = 1.0  # the largest norm of a step's gradients
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """How to distil."""

    steps: int
    learning_rate: float
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What became of it."""

    best: float
    """The held-out loss of what was kept."""
    step: int
    """After how many steps that was; 0 if none was better than not to begin."""
    changed: tuple[str, ...]
    """Names of the parameters that are not as they were."""


def distill_(
    dense: Model,
    pruned: Model,
    masks: Mapping[str, torch.Tensor],
    trained: tuple[str, ...],
    fitted: Fitted,
    lessons: Lessons,
    held_out: Callable[[], float],
) -> Learned:
    """Trains parameters of the pruned module in place, by Adam with a rate that falls to zero, and leaves it at the best held-out loss.

    `masks` is True where an entry of a parameter stays 0; `held_out` measures the module as it stands. Steps are taken
    on float32 copies, so that small ones are not lost in half precision; the module always computes in its own dtype.
    """
    parameters = {name: pruned.module.get_parameter(name) for name in trained}
    masters = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    moments = {name: (torch.zeros_like(master), torch.zeros_like(master)) for name, master in masters.items()}
    order = _order(fitted, pruned, lessons)
    best, best_step, kept = held_out(), 0, dict(start)
    looks = {math.ceil(lessons.steps * number / LOOKS) for number in range(1, LOOKS + 1)}
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        for step, batch in enumerate(order, 1):
            gradients = _gradients(dense, pruned, batch, parameters, masks, lessons.temperature)
            if gradients is None:
                break
            rate = lessons.learning_rate * (1 - (step - 1) / lessons.steps)
            for name, gradient in gradients.items():
                adam_step_(masters[name], gradient, *moments[name], step=step, learning_rate=rate)
                if name in masks:
                    masters[name].masked_fill_(masks[name], 0.0)
                parameters[name].data = masters[name].to(parameters[name].dtype, copy=True)
            if step in looks and (loss := held_out()) < best:
                best, best_step = loss, step
                kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.data = kept[name]
    changed = tuple(name for name in trained if not torch.equal(kept[name], start[name]))
    return Learned(best=best, step=best_step, changed=changed)


def divergence(
    family: str, dense: torch.Tensor, pruned: torch.Tensor, batch: Batch, temperature: float
) -> torch.Tensor:
    """The mean distance of the answers of a batch: KL of tokens or classes, squared error, or 1 - cosine."""
    answer = answer_of(family)
    dense, pruned = dense.float(), pruned.float()
    if answer == "numbers":
        return (dense - pruned).square().mean()
    if answer == "embedding":
        return (1 - nn.functional.cosine_similarity(dense, pruned, dim=-1)).mean()
    if answer == "tokens":
        is_asked = asked_of(batch) != NOT_ASKED
        dense, pruned = dense[is_asked], pruned[is_asked]
    before, after = ((logits / temperature).log_softmax(-1) for logits in (dense, pruned))
    terms = nn.functional.kl_div(after, before, reduction="none", log_target=True).sum(-1)
    return terms.mean() * temperature**2


def _order(fitted: Fitted, model: Model, lessons: Lessons) -> Iterator[Batch]:
    """As many batches as steps: all of them in a drawn order, again and again."""
    members = list(batches(fitted, model))
    draw = torch.Generator().manual_seed(lessons.seed)
    taken = 0
    while True:
        for index in torch.randperm(len(members), generator=draw).tolist():
            if taken == lessons.steps:
                return
            taken += 1
            yield members[index]


def adam_step_(
    value: torch.Tensor,
    gradient: torch.Tensor,
    mean: torch.Tensor,
    square: torch.Tensor,
    *,
    step: int,
    learning_rate: float,
) -> None:
    """One step of Adam (Kingma and Ba, arXiv 1412.6980), counted from 1; that of AdamW without weight decay.

    Written out, since torch.optim imports torch's compiler, which takes seconds and hundreds of megabytes.
    """
    mean.lerp_(gradient, 1 - _BETAS[0])
    square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
    spread = (square / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
    value.addcdiv_(mean, spread, value=-learning_rate / (1 - _BETAS[0] ** step))


def _gradients(
    dense: Model,
    pruned: Model,
    batch: Batch,
    parameters: Mapping[str, nn.Parameter],
    masks: Mapping[str, torch.Tensor],
    temperature: float,
) -> dict[str, torch.Tensor] | None:
    """By parameter, float32 and together no longer than 1, 0 where a mask is; None if one is not finite."""
    with torch.no_grad():
        target = logits_of(dense, batch)
    loss = divergence(pruned.family, target, logits_of(pruned, batch), batch, temperature)
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    gradients = {
        name: gradient.float()
        for name, gradient in zip(parameters, found, strict=True)
        if gradient is not None
    }
    for name in masks.keys() & gradients.keys():
        gradients[name] = gradients[name].masked_fill(masks[name], 0.0)
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    if not math.isfinite(norm):
        return None
    scale = min(1.0, _CLIP / max(norm, _EPSILON))
    return {name: gradient * scale for name, gradient in gradients.items()}
