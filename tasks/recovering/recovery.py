"""Effects. Wins back what pruning cost, without giving back a weight: each step is kept only if it lowers the held-out loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tasks.amounts.promises import loss_over
from tasks.contract import BadInput, Finding, Row
from tasks.cutting.cuts import Cut
from tasks.examples.batches import batches, logits_of
from tasks.examples.embeddings import cosine_distances
from tasks.examples.fitting import Fitted
from tasks.loading.families import answer_of
from tasks.loading.models import Layer, Model
from tasks.masks.selection import stored_as
from tasks.recovering.batchnorm import batch_norms, reestimate_
from tasks.recovering.bias import correct_, correct_cut_, mean_inputs
from tasks.recovering.distillation import Lessons, distill_

HELD_OUT = 5
"""Every fifth example is held out: no step learns from it, and all are measured on it."""
STEPS = ("bias", "batch_norm", "distill")
"""In this order: what is set by averages first, then what learns from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What the steps did."""

    rows: tuple[Row, ...]
    """Of the table `recoveries`, in order."""
    changed: tuple[str, ...]
    """Names of parameters and buffers of the pruned module that are not as they were."""
    findings: tuple[Finding, ...]


def recover_(
    dense: Model,
    pruned: Model,
    layers: Sequence[Layer],
    fitted: Fitted,
    params: Mapping[str, Any],
    seed: int,
    cut: Cut | None = None,
) -> Recovered:
    """Carries out the steps that `params` names, on the pruned module in place; zeros of `layers` stay zeros.

    `cut` says what was taken out, if the pruned model is a smaller one; `layers` are the pruned model's.
    A step after which the loss on held-out examples is not lower is undone. Distillation is chosen among many looks at them, which
    flatters it, so what it did is also told of a second fold, which it neither learns from nor looks at. The loss is that of the calibration data's
    labels or tokens, or for a model without a head the mean distance of embeddings to the dense ones.
    """
    learning, held = split(fitted)
    lessons_of, fresh = split(learning) if len(learning.items) >= HELD_OUT else (learning, None)
    measure = _measure_of(dense, pruned, held)
    measure_fresh = _measure_of(dense, pruned, fresh) if fresh and params.get("distill") else None
    masks = {layer.weight: pruned.module.get_parameter(layer.weight).detach() == 0 for layer in layers}
    rows: list[Row] = []
    changed: dict[str, None] = {}
    findings: list[Finding] = []
    for step in STEPS:
        if not params.get(step):
            continue
        before = measure()
        kept = _values(pruned)
        tell = measure_fresh if step == "distill" else None
        fresh_before = tell() if tell else None
        if step == "distill":
            lessons = Lessons(**params["distill"], seed=seed)
            names = _trained(pruned, layers)
            learned = distill_(dense, pruned, masks, names, lessons_of, lessons, measure)
            touched, after, taken = learned.changed, learned.best, learned.step
        else:
            touched, told = (
                _bias(dense, pruned, layers, learning, cut) if step == "bias" else _norms(pruned, learning)
            )
            findings.extend(told)
            after, taken = measure(), 1 if touched else 0
        is_better = after < before
        if touched and not is_better:
            _restore_(pruned, kept)
            touched = ()
        changed |= dict.fromkeys(touched)
        if not touched:
            message = f"the held-out loss is {before:.6g} without it and {after:.6g} with it: the model stays as it was"
            findings.append(Finding(kind="no_recovery", subject=step, message=message))
        rows.append(
            {
                "step": step,
                "loss_before": _finite(before),
                "loss_after": (after if is_better else before) if math.isfinite(before) else None,
                "kept": bool(touched),
                "steps": taken if touched else 0,
                "tensors": len(touched),
                "samples": len(held.items),
                "fresh_before": _finite(fresh_before),
                "fresh_after": _finite(tell() if tell and touched else fresh_before),
                "fresh_samples": len(fresh.items) if tell and fresh else 0,
            }
        )
    return Recovered(rows=tuple(rows), changed=tuple(changed), findings=tuple(findings))


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


def split(fitted: Fitted) -> tuple[Fitted, Fitted]:
    """(what is learned from, what is held out); BadInput for fewer than two examples."""
    if len(fitted.items) < 2:
        raise BadInput(
            "nothing can be recovered",
            why="one example is held out, and there is no other to learn from",
            do="Add calibration data, or leave prune.recover out.",
        )
    size = min(HELD_OUT, len(fitted.items))
    held = tuple(item for index, item in enumerate(fitted.items) if index % size == size - 1)
    learning = tuple(item for index, item in enumerate(fitted.items) if index % size != size - 1)
    return replace(fitted, items=learning), replace(fitted, items=held)


def _measure_of(dense: Model, pruned: Model, held: Fitted) -> Callable[[], float]:
    if answer_of(pruned.family) != "embedding":
        return lambda: loss_over(pruned, held)

    def mean_distance() -> float:
        found: list[float] = []
        with torch.no_grad():
            for batch in batches(held, pruned):
                found += cosine_distances(logits_of(dense, batch), logits_of(pruned, batch)).tolist()
        return math.fsum(found) / len(found)

    return mean_distance


def _bias(
    dense: Model, pruned: Model, layers: Sequence[Layer], learning: Fitted, cut: Cut | None
) -> tuple[tuple[str, ...], Iterator[Finding]]:
    if cut:
        touched, without = correct_cut_(pruned.module, dense, layers, cut, learning)
    else:
        touched, without = correct_(pruned.module, dense.module, layers, mean_inputs(dense, layers, learning))
    asked = len(touched) + len(without)

    def told() -> Iterator[Finding]:
        if without:
            names = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
            message = f"{len(without)} of {asked} layers have no bias of as many outputs to correct: {names}"
            yield Finding(kind="no_bias", subject="bias", message=message)

    return touched, told()


def _norms(pruned: Model, learning: Fitted) -> tuple[tuple[str, ...], Iterator[Finding]]:
    def told() -> Iterator[Finding]:
        if not batch_norms(pruned.module):
            message = "the model has no batch norm with running statistics"
            yield Finding(kind="no_batch_norm", subject="batch_norm", message=message)

    return reestimate_(pruned, learning), told()


def _trained(pruned: Model, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The weights that were pruned, and every vector: biases, and the scales of norms."""
    weights = {layer.weight for layer in layers}
    return tuple(
        name
        for name, parameter in pruned.module.named_parameters()
        if parameter.is_floating_point()
        and (name in weights or parameter.dim() == 1)
        and stored_as(pruned, name)
    )


def _values(model: Model) -> dict[str, torch.Tensor]:
    """The tensors themselves; steps put others in their place, and never write into them."""
    return {name: tensor.detach() for name, tensor in model.module.state_dict(keep_vars=True).items()}


def _restore_(model: Model, values: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in model.module.state_dict(keep_vars=True).items():
        tensor.data = values[name]
