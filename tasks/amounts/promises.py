"""Effects. What an allocation promised, beside what the pruned model does on the calibration data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.amounts.allocation import remaining
from tasks.amounts.budgets import dense_tensor_bytes, remains
from tasks.contract import Finding
from tasks.evaluation import score
from tasks.examples.batches import batches
from tasks.examples.fitting import Fitted
from tasks.loading.models import Layer, Model
from tasks.recipes import Recipe


def loss_over(model: Model, fitted: Fitted) -> float:
    """The mean loss of a token, or of an example that is no text; NaN or infinite if the model is broken."""
    loss, tokens = [], 0
    for batch in batches(fitted, model):
        scores = score(model, batch)
        loss.extend(scores.losses.tolist())
        tokens += sum(scores.tokens)
    return math.fsum(loss) / tokens


def broken_promises(
    recipe: Recipe, model: Model, layers: Sequence[Layer], artifact: Mapping[str, Any]
) -> Iterator[Finding]:
    """A budget that is missed, or a loss that rose by more than was allowed or cannot be told."""
    if recipe.budget:
        kind, share = recipe.budget
        whole = remains(model, layers, {})
        dense = {"parameters": whole.parameters, "flops": whole.flops, "bytes": dense_tensor_bytes(model)}[
            kind
        ]
        column = {"parameters": "nonzero_parameters", "flops": "effective_flops", "bytes": "sparse_bytes"}[
            kind
        ]
        if dense is not None:
            yield from missed_budget(kind, share, artifact[column], dense)
    if recipe.max_increase is not None:
        yield from missed_quality(recipe.max_increase, artifact)


def missed_budget(kind: str, share: float, left: int, dense: int) -> Iterator[Finding]:
    """A finding, if more is left than that share of the dense model."""
    if left > remaining(share, dense):
        message = f"{left} of {dense} remain, which is {left / dense:.5f}, and {share:g} was the most"
        yield Finding(kind="budget_missed", subject=kind, message=message)


def missed_quality(max_increase: float, artifact: Mapping[str, Any]) -> Iterator[Finding]:
    """A finding, if the loss that was measured rose by more than was allowed, or is not finite."""
    dense_loss, measured = artifact["calibration_loss"], artifact["measured_increase"]
    if dense_loss is not None and measured is not None and measured <= max_increase * dense_loss:
        return
    shown = "not finite" if measured is None or dense_loss is None else f"{measured / dense_loss:.5f} of it"
    message = (
        f"the loss was to rise by at most {max_increase:g} of the dense one, and the rise measured on the "
        f"calibration data is {shown}: losses of layers do not simply add up"
    )
    yield Finding(kind="quality_missed", subject="model", message=message)


def losses_kept(dense: float, pruned: float, predicted: float, least: float) -> dict[str, Any]:
    """Columns of `artifacts`: the dense loss on the calibration data, and by how much it was to rise and rose."""
    return {
        "calibration_loss": _finite(dense),
        "predicted_increase": _finite(predicted),
        "least_increase": _finite(least),
        "measured_increase": _finite(pruned - dense),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
